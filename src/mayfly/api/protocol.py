"""
The HTTP parser's bounds: a request's head may have 64 KiB and 15 seconds, and whoever was answered already may send
little more. What is not HTTP is answered with a problem, too.

uvicorn leaves these to a proxy in front. There is none in the one-command mode.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from mayfly.api.errors import HeadTooLarge, problem
from mayfly.domain.errors import InvalidRequest, MayflyError
from mayfly.domain.ids import new_ulid

HEAD_MAX_BYTES = 64 * 1024
HEAD_TIMEOUT_S = 15.0
CLOSED_WITHIN_S = 1.0
UNWANTED_MAX_BYTES = 8 * 1024 * 1024
"""A body that was refused is read and dropped up to here, so that its sender gets to read why."""


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's httptools protocol, bounded."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As uvicorn makes it."""
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._unwanted_bytes = 0
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a first request."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._stop_timer()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close, as the server stops; a client that leaves the end of TLS unanswered is not waited for."""
        super().shutdown()
        if self.transport.is_closing():
            self.loop.call_later(CLOSED_WITHIN_S, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and count it while it is head."""
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_MAX_BYTES:
                self._refuse(HeadTooLarge())

    def on_message_begin(self) -> None:
        """Begin to count."""
        super().on_message_begin()
        self._unwanted_bytes = 0
        self._await_head()

    def on_headers_complete(self) -> None:
        """Stop counting. An upgrade is refused: what follows it would not be read as the request's body."""
        self._stop_timer()
        if self.parser.should_upgrade():
            self._refuse(InvalidRequest("This server speaks HTTP/1.1 only: leave out `Upgrade`, and CONNECT."))
            return
        super().on_headers_complete()
        self._in_head = False

    def on_body(self, body: bytes) -> None:
        """Take a part of the body; drop it when the answer has left already."""
        if self.cycle is None:
            return
        super().on_body(body)
        if self.cycle.response_complete:
            self._unwanted_bytes += len(body)
            if self._unwanted_bytes > UNWANTED_MAX_BYTES:
                self.transport.abort()  # `close` would go on reading for the end of TLS, which never comes

    def on_message_complete(self) -> None:
        """End the body."""
        if self.cycle is not None:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._refuse(InvalidRequest(f"{msg} It is not HTTP/1.1, or its length is told in two ways."))

    def _await_head(self) -> None:
        self._stop_timer()
        self._in_head = True
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, error: MayflyError) -> None:
        """
        Write an answer past the application, and close. Where it would be taken for the answer to the request before,
        or would end up inside one that has begun, only close.
        """
        if self.transport.is_closing():
            return
        open_cycle = self.cycle if self.cycle is not None and not self.cycle.response_complete else None
        if open_cycle is None or not (self._in_head or open_cycle.response_started):
            if open_cycle:  # what the application says from now on is for nobody
                open_cycle.disconnected = True
                open_cycle.message_event.set()
            request_id = new_ulid()
            answer = problem(error, request_id)
            lines = [STATUS_LINE[answer.status_code]]
            lines += [b"%b: %b\r\n" % header for header in answer.raw_headers]
            lines += [b"x-request-id: %b\r\nconnection: close\r\n\r\n" % request_id.encode(), bytes(answer.body)]
            self.transport.write(b"".join(lines))
        self.transport.close()
