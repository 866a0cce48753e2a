"""
The door of an API server behind a gateway: whoever did not come through the gateway is turned away.

The gateway sends a secret in `X-Mayfly-Gateway`, which it takes away from its callers. It sets it in the same rule that
removes identity headers and sanitises paths, so a gateway that has lost that rule cannot reach the API any more.
Health checks may come from anybody. Rows: F1, A1.
"""

from __future__ import annotations

import hmac
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from mayfly.api.envelope import exchange_of
from mayfly.api.errors import problem
from mayfly.domain.errors import NotAllowed

HEADER = b"x-mayfly-gateway"
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
SECRET_MIN_BYTES = 32


class SecretUnusable(Exception):
    """The gateway's secret cannot be read, or is too short to be one."""


class Door:
    """The middleware. Within `Envelope`, which gives its refusals an id and a line in the log."""

    def __init__(self, app: ASGIApp, *, secrets: tuple[bytes, ...]) -> None:
        """Let pass who sends one of *secrets*."""
        self._app = app
        self._secrets = secrets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer 403; note which came through the gateway, whose word counts (`address`)."""
        if scope["type"] == "http":
            exchange_of(scope).through_gateway = self._came_through_the_gateway(scope)
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or exchange_of(scope).through_gateway:
            await self._app(scope, receive, send)
            return
        refusal = NotAllowed("This API server answers only what comes through the gateway. Call the gateway's address.")
        exchange = exchange_of(scope)
        exchange.code = refusal.code
        await problem(refusal, exchange.request_id)(scope, receive, send)

    def _came_through_the_gateway(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == HEADER]
        return len(given) == 1 and any(hmac.compare_digest(given[0], secret) for secret in self._secrets)


def read_secrets(path: Path) -> tuple[bytes, ...]:
    """
    Read the gateway's secret. The file may have several, one a line, all of which are good: so a new one can be added
    before the gateway sends it, and the old one removed afterwards.

    Raises: SecretUnusable, naming the file.
    """
    try:
        secrets = tuple(line.strip() for line in path.read_bytes().splitlines() if line.strip())
    except OSError as error:
        raise SecretUnusable(f"MAYFLY_GATEWAY_SECRET_FILE: {path} cannot be read: {error.strerror}.") from error
    if not secrets or any(len(secret) < SECRET_MIN_BYTES for secret in secrets):
        raise SecretUnusable(
            f"MAYFLY_GATEWAY_SECRET_FILE: {path} needs a secret of at least {SECRET_MIN_BYTES} characters; "
            "`mayfly secrets create` makes one."
        )
    return secrets
