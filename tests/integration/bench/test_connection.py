"""The bench's client: one connection that is kept, and what it does when a server does not answer properly."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bench.connection import Connection

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def connected(directory: Path, talk: Talk) -> AsyncIterator[Connection]:
    """Connect to a server that does what *talk* does, and then closes."""
    path, ended = directory / "socket", asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):  # the client has closed before everything was sent
                await writer.wait_closed()
            ended.set()

    async with await asyncio.start_unix_server(serve, path):
        connection = await Connection.open_unix(path)
        try:
            yield connection
        finally:
            connection.close()
            await ended.wait()


async def read_request(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """One request: its first line, and its body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(line for line in head.splitlines() if line.startswith("Content-Length: "))
    return head.splitlines()[0], await reader.readexactly(int(length.removeprefix("Content-Length: ")))


async def test_a_connection_is_kept(tmp_path: Path) -> None:
    """Several requests, one after the other; bodies in parts, in chunks and none, as a server likes."""
    heard: list[tuple[str, bytes]] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await read_request(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nServer-Timing: run;dur=1\r\n\r\nhello")
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.write(b"world")
        heard.append(await read_request(reader))
        writer.write(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        heard.append(await read_request(reader))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await reader.read()

    async with connected(tmp_path, talk) as connection:
        first = await connection.request("POST", "/one", b"x" * 100_000)
        second = await connection.request("POST", "/two", b"y")
        third = await connection.request("DELETE", "/three")

    assert (first.status, first.body, first.headers["server-timing"]) == (200, b"helloworld", "run;dur=1")
    assert (second.status, second.body) == (201, b"abcde")
    assert (third.status, third.body) == (204, b"")
    assert [line for line, _ in heard] == ["POST /one HTTP/1.1", "POST /two HTTP/1.1", "DELETE /three HTTP/1.1"]
    assert [len(body) for _, body in heard] == [100_000, 1, 0]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(b"", ConnectionError, id="none"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", ConnectionError, id="half"),
        pytest.param(b"SSH-2.0-server\r\n\r\n", RuntimeError, id="no HTTP"),
    ],
)
async def test_what_is_no_answer_is_an_error(tmp_path: Path, answer: bytes, error: type[Exception]) -> None:
    """It is never a short body, and nobody waits for ever; the next request says that the connection is closed."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)

    async with connected(tmp_path, talk) as connection:
        with pytest.raises(error):
            await connection.request("GET", "/")
        with pytest.raises(ConnectionError, match="closed"):
            await connection.request("GET", "/")
