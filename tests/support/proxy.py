"""A link to a nats-server that a test can cut without a word, for one process alone."""

from __future__ import annotations

import asyncio
from types import TracebackType

from tests.support.nats import free_port


class Proxy:
    """
    Passes on what comes to its port, until it is cut.

        async with Proxy(nats.port) as proxy:
            ... connect to proxy.url ...
            proxy.cut()
    """

    def __init__(self, target: int) -> None:
        """*target* is a port of the loopback."""
        self._target = target
        self._whole = asyncio.Event()
        self._whole.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = free_port()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"nats://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """From now on nothing passes, and nobody is told: connections stay, and new ones are taken."""
        self._whole.clear()

    def heal(self) -> None:
        """Pass on again, what was held back first, as TCP does."""
        self._whole.set()

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._whole.wait()
            there, here = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(self._pass_on(reader, here), self._pass_on(there, writer))
        except OSError:
            pass  # nobody listens there: so it looks from here, too
        finally:
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(65_536):
                await self._whole.wait()
                writer.write(chunk)
                await writer.drain()
            await self._whole.wait()
        except ConnectionError:
            pass  # the other side hears of it now
        finally:
            writer.close()

    async def __aenter__(self) -> Proxy:
        """Listen."""
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything."""
        if self._server:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # what was closed is let go of
