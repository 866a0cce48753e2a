"""The wire between a role and its nats-server, which a test can cut, and on which it can say something itself."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from tests.support.bus import Installation
from tests.support.nats import free_port

Connection = tuple[asyncio.StreamWriter, asyncio.StreamWriter]  # to the client, to the server


class Wire:
    """A relay on a port of its own, through which `access` leads."""

    def __init__(self, nats: Installation) -> None:
        """Lead to this server."""
        self._nats = nats
        self._connections: set[Connection] = set()
        self._port = free_port()

    def access(self, role: str) -> dict[str, Any]:
        """The settings with which a role connects, by this wire."""
        return {**self._nats.access(role), "nats_url": self.url}

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"nats://127.0.0.1:{self._port}"

    def cut(self) -> None:
        """Break every connection, and refuse others until `mend`."""
        self._server.close()
        for connection in self._connections:
            for writer in connection:
                writer.transport.abort()

    async def mend(self) -> None:
        """Let connections through again."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)

    def say(self, words: bytes) -> None:
        """Say something to every client, in its server's place."""
        for client, _ in self._connections:
            client.write(words)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._nats.server.port)
        connection = (writer, to_server)
        self._connections.add(connection)
        try:
            await asyncio.gather(_pump(reader, to_server), _pump(from_server, writer))
        finally:
            self._connections.discard(connection)

    async def __aenter__(self) -> Wire:
        """Listen."""
        await self.mend()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Break everything."""
        self.cut()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hand on what comes until one side ends, and then end the other."""
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
