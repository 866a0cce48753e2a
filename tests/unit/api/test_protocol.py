"""The parser's bounds, with a small application behind it and no TLS in front."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from mayfly.api import protocol
from mayfly.api.protocol import BoundedHttp

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass
class Server:
    """What the tests talk to: it answers `ok` when `go` is set."""

    port: int = 0
    go: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        self.begun.set()
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    """A listener of its own."""
    app = Server()
    app.go.set()
    config = uvicorn.Config(app, log_config=None, lifespan="off", ws="none")
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: BoundedHttp(config, state, {}), "127.0.0.1", 0)
    app.port = listener.sockets[0].getsockname()[1]
    yield app
    listener.close()
    for connection in list(state.connections):
        connection.transport.abort()
    await listener.wait_closed()


async def everything(port: int, *parts: bytes) -> bytes:
    """Send, and read until the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(5):
            for part in parts:
                writer.write(part)
                await writer.drain()
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("start", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nX-Slow: "], ids=["nothing", "line", "header"])
async def test_slow_head_is_hung_up_on(server: Server, monkeypatch: pytest.MonkeyPatch, start: bytes) -> None:
    """Who connects and does not finish a request's head in time is cut off, so connections cannot be hoarded."""
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.05)
    assert await everything(server.port, start) == b""


async def test_slow_head_on_a_used_connection_is_hung_up_on(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound holds for every request of a connection, not only for the first."""
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.2)
    assert await everything(server.port, GET, b"GET / HT") in {OK, b""}


async def test_slow_answer_is_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is on the head: a call may take its time."""
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 1)
    server.go.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(GET)
    await server.begun.wait()
    asyncio.get_running_loop().call_later(1.5, server.go.set)
    assert await reader.readexactly(len(OK)) == OK
    writer.close()


async def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    """Two requests in one packet get two answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(GET + GET)
    assert await reader.readexactly(2 * len(OK)) == 2 * OK
    writer.close()


async def test_nonsense_behind_an_open_request_is_not_its_answer(server: Server) -> None:
    """While a request is under way, an error of what follows it is never sent where its answer is awaited."""
    server.go.clear()
    answer = asyncio.create_task(everything(server.port, GET, b"nonsense\r\n\r\n"))
    assert await answer == b""


async def test_nonsense_behind_an_answered_request_is_a_400(server: Server) -> None:
    """After the answer the connection is free for an error of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(GET)
    assert await reader.readexactly(len(OK)) == OK
    writer.write(b"nonsense\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()
