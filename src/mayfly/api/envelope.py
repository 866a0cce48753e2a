"""
What every answer has, whoever makes it: a request id, safe headers, one line in the log, and never a stack.

It is plain ASGI around all routes. An error that no handler knows ends here: logged once, with its stack, under the
request id that the caller is told.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mayfly.api.errors import problem
from mayfly.domain.errors import InternalError
from mayfly.domain.ids import new_ulid

log = structlog.get_logger()

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
KEY = "mayfly.exchange"

DEFAULT_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
)


@dataclass(slots=True)
class Exchange:
    """One request and what is known of it so far."""

    request_id: str
    received_at: float = field(default_factory=time.monotonic)
    status: int = 0
    user_id: str | None = None
    code: str | None = None
    through_gateway: bool = False  # the door has seen the gateway's secret
    ask_again: Callable[[], Awaitable[object]] | None = None  # whether the caller may still do it; raises if not


def exchange_of(scope: Scope) -> Exchange:
    """Find the exchange that a request belongs to."""
    found: Exchange = scope[KEY]
    return found


async def ask_again(scope: Scope) -> None:
    """
    Require once more what let the caller in (`api.auth`), after something that took its time: what has ended meanwhile
    changes nothing any more. Nobody is asked where anybody may call.

    Raises: NotAuthenticated; NotAllowed; QueueUnavailable.
    """
    asking = exchange_of(scope).ask_again
    if asking:
        await asking()


class Envelope:
    """The middleware."""

    def __init__(self, app: ASGIApp, *, closing: Callable[[], bool]) -> None:
        """While *closing* says so, clients are told to use another connection."""
        self._app = app
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(_request_id(scope))
        inner = {**scope, KEY: exchange, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}
        outgoing = self._outgoing(exchange, send, without_body=scope["method"] == "HEAD")
        with structlog.contextvars.bound_contextvars(request_id=exchange.request_id):
            try:
                await self._app(inner, receive, outgoing)
            except ClientDisconnect:
                exchange.code = "client-gone"
            except Exception as error:
                log.exception("request.failed", error=repr(error))
                if exchange.status:
                    raise
                exchange.code = InternalError.code
                await problem(InternalError(), exchange.request_id)(inner, receive, outgoing)
            finally:
                _log_end(inner, exchange)

    def _outgoing(self, exchange: Exchange, send: Send, *, without_body: bool) -> Send:
        async def outgoing(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = self._headers(exchange, message.get("headers", ()))
            elif without_body:
                message = {**message, "body": b""}
            await send(message)

        return outgoing

    def _headers(self, exchange: Exchange, given: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        names = {name for name, _ in given}
        headers = [*given, (b"x-request-id", exchange.request_id.encode())]
        headers += [header for header in DEFAULT_HEADERS if header[0] not in names]
        if self._closing():
            headers.append((b"connection", b"close"))
        return headers


def _request_id(scope: Scope) -> str:
    """Take over the caller's id if it is a sane one, so that both logs agree; else make one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text: str = value.decode("latin-1")
            return text if REQUEST_ID.fullmatch(text) else new_ulid()
    return new_ulid()


def _log_end(scope: Scope, exchange: Exchange) -> None:
    route = scope.get("route")
    log.info(
        "request.done",
        method=scope["method"],
        route=getattr(route, "path", None),
        status=exchange.status,
        duration_ms=round((time.monotonic() - exchange.received_at) * 1000, 2),
        user_id=exchange.user_id,
        code=exchange.code,
    )
