"""A TCP proxy of the test between one process and one nats-server, which can be cut in two ways."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from types import TracebackType

from tests.support.nats import free_port

CHUNK = 1 << 16


class Cut(enum.Enum):
    """How a connection fails."""

    SILENT = (
        "silent"  # nothing arrives any more, nobody is told; what was sent arrives late, if somebody still wants it
    )
    RESET = "reset"  # connections break, new ones are broken at once


class Proxy:
    """Passes bytes on, until it is cut."""

    def __init__(self, upstream_port: int) -> None:
        """*upstream_port* is the nats-server's, on loopback."""
        self.port = free_port()
        self.withheld_bytes = 0
        self.broken = 0
        self._upstream_port = upstream_port
        self._cut: Cut | None = None
        self._through = asyncio.Event()
        self._through.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    def cut(self, how: Cut) -> None:
        """Cut it."""
        self._cut = how
        if how is Cut.SILENT:
            self._through.clear()
            return
        self._break_all()

    def heal(self) -> None:
        """Let everything through again."""
        self._cut = None
        self._through.set()

    async def __aenter__(self) -> Proxy:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything."""
        assert self._server is not None
        self._server.close()
        self.heal()
        self._break_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _break_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
            self.broken += 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._cut is Cut.RESET:
            writer.transport.abort()
            self.broken += 1
            return
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, up_writer}
        self._writers |= both
        try:
            await asyncio.gather(self._pump(reader, up_writer), self._pump(up_reader, writer))
        finally:
            self._writers -= both
            for each in both:
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on until either side ends; then the other must end too, by being told so."""
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if not self._through.is_set():
                    self.withheld_bytes += len(data)
                    await self._through.wait()
                if writer.is_closing():  # that side has broken: uvloop raises what is no OSError
                    break
                writer.write(data)
                await writer.drain()
        if not writer.is_closing():
            writer.close()
