"""
Which errors each operation can answer, for the OpenAPI.

A route says in `openapi_extra` what is its own (`raises`). What the way to it adds is added here to all whom it
concerns: the door, the parser, the token, the reading of a body, the gateway in front. Statuses and codes are those of
the one table, `errors.MEANINGS`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from mayfly.api import errors
from mayfly.api.door import OPEN_PATHS
from mayfly.api.errors import MEANINGS, MEDIA_TYPE
from mayfly.domain import errors as domain
from mayfly.domain.errors import MayflyError

RAISES = "x-raises"
PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
ANY_ERROR = {"description": "An error.", "content": PROBLEM}

EVERYWHERE: tuple[type[MayflyError], ...] = (
    domain.InvalidRequest,
    errors.HeadTooLarge,
    domain.InternalError,
    errors.GatewayRateLimit,
    errors.BadGateway,
    errors.GatewayUnavailable,
    errors.GatewayTimeout,
)
WITH_A_TOKEN = (domain.NotAuthenticated, domain.QueueUnavailable)
WITH_A_BODY = (errors.BodyTimeout, domain.UnsupportedEncoding)
WITH_A_TYPED_BODY = (errors.BodyTooLarge, errors.UnsupportedMediaType)

ENDINGS: tuple[type[MayflyError], ...] = (
    domain.Gone,
    domain.LimitReached,
    domain.ImageUnavailable,
    domain.FunctionFailed,
    domain.ResultNotText,
    domain.ResultTooLarge,
    domain.OutOfMemory,
    domain.TimedOut,
    domain.Cancelled,
    domain.WorkerLost,
    domain.RuntimeFailed,
    domain.SecretUnavailable,
)
"""How an activation can end without a result, for whoever asks for it."""


def raises(*kinds: type[MayflyError]) -> dict[str, Any]:
    """Say in a route's `openapi_extra` which errors it raises itself."""
    return {RAISES: [kind.code for kind in kinds]}


def add_errors(path: str, operation: dict[str, Any]) -> None:
    """
    Document the errors of one operation: one response for each status, with the codes that it can have. One that does
    not say what it raises may answer with any.
    """
    responses: dict[str, Any] = operation["responses"]
    responses.pop("422", None)  # FastAPI's own, which is never sent
    own = operation.pop(RAISES, None)
    if own is None:
        responses["default"] = ANY_ERROR
        return
    for status, codes in _by_status({*own, *(kind.code for kind in _on_the_way(path, operation))}).items():
        present = responses.get(status, {})
        words = [present["description"].rstrip(".")] if "description" in present else []
        responses[status] = {
            **present,
            "description": ", or ".join([*words, ", ".join(f"`{code}`" for code in codes)]) + ".",
            "content": {**present.get("content", {}), **PROBLEM},
        }
    operation["responses"] = dict(sorted(responses.items()))


def _on_the_way(path: str, operation: dict[str, Any]) -> Iterator[type[MayflyError]]:
    """What can be wrong with any request like this, before the route has seen it or the gateway the answer."""
    yield from EVERYWHERE
    if path not in OPEN_PATHS:
        yield domain.NotAllowed
    if "{" in path:
        yield domain.NotFound
    if operation.get("security"):
        yield from WITH_A_TOKEN
    if "requestBody" in operation:
        yield from WITH_A_BODY
        if "*/*" not in operation["requestBody"]["content"]:
            yield from WITH_A_TYPED_BODY


def _by_status(codes: Collection[str]) -> dict[str, list[str]]:
    """The codes of each status, in the order of the table."""
    found: dict[str, list[str]] = {}
    for kind, meaning in MEANINGS.items():
        if kind.code in codes:
            found.setdefault(str(meaning.status), []).append(kind.code)
    return found
