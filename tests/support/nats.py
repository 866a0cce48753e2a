"""A real nats-server of a test's own, on a free port of the loopback, with a store that goes with it."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from mayfly.ops.up import bundled_nats_server

READY_S = 10.0
FREEZE_S = 5.0


PORTS = range(20_000, 32_000)
"""Below those that the kernel gives to connections, from 32,768 on: one could get a server's while that is down."""

_given: set[int] = set()


def free_port() -> int:
    """
    A port of the loopback that nobody uses, nor the one after it, and that was not given to anybody before: by this
    process, or another of the same run of pytest, each of which has its share.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    pairs = PORTS[::2][number::processes]
    while len(_given) < len(pairs):
        port = random.choice(pairs)  # noqa: S311 - no secret
        with socket.socket() as probe, socket.socket() as following:
            try:
                probe.bind(("127.0.0.1", port))
                following.bind(("127.0.0.1", port + 1))
            except OSError:  # taken
                continue
        if port not in _given:
            _given.add(port)
            return port
    raise RuntimeError("All ports have been given to somebody.")


class NatsServer:
    """
    One server. It keeps its port and its store over `kill` and `restart`, as a real one does.

        async with NatsServer() as nats:
            ... nats.url ...
    """

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        """*config* is what differs from a plain server with JetStream, in nats-server's own words."""
        self._given = config or {}
        self._directory = tempfile.TemporaryDirectory(ignore_cleanup_errors=True, prefix="mayfly-nats-")
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def directory(self) -> Path:
        """Its files: configuration, log, store."""
        return Path(self._directory.name)

    @property
    def pid(self) -> int:
        """Its process."""
        if self._process is None:
            raise RuntimeError("nats-server is not running")
        return self._process.pid

    def configure(self, config: str) -> None:
        """Use this whole configuration, as JSON, instead of the plain one; from the next start on."""
        self._given = json.loads(config)

    async def start(self) -> None:
        """Start it, and wait until it takes connections."""
        config = {
            "listen": f"127.0.0.1:{self.port}",
            "max_payload": 4_000_000,
            "jetstream": {"store_dir": str(self.directory / "store")},
            **self._given,
        }
        self._spawn(config)
        async with asyncio.timeout(READY_S):
            while not await self._answers():
                if self._process is None or self._process.poll() is not None:
                    raise RuntimeError(self._log())
                await asyncio.sleep(0.01)

    def _spawn(self, config: dict[str, Any]) -> None:
        path = self.directory / "nats.conf"
        path.write_text(json.dumps(config))
        with (self.directory / "nats.log").open("ab") as log:
            self._process = subprocess.Popen([bundled_nats_server(), "-c", path], stdout=log, stderr=log)

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return line.startswith(b"INFO ") and b'"jetstream":true' in line

    def _log(self) -> str:
        return (self.directory / "nats.log").read_text()

    async def kill(self) -> None:
        """Kill it, as a power failure would end it."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """Ask it to end."""
        await self._end(signal.SIGTERM)

    async def restart(self) -> None:
        """Start it again, on the same port with the same store."""
        await self._end(signal.SIGKILL)
        await self.start()

    def freeze(self) -> None:
        """Stop its process: connections stay, nothing answers. Returns when the last of its threads has stopped."""
        self._signal(signal.SIGSTOP)
        give_up_at = time.monotonic() + FREEZE_S
        while not all(state in "Tt" for state in self._thread_states()):
            if time.monotonic() > give_up_at:
                raise RuntimeError("nats-server did not stop")
            time.sleep(0.001)  # the kernel tells nobody but the state in /proc

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _thread_states(self) -> list[str]:
        stats = Path(f"/proc/{self.pid}/task").glob("*/stat")
        return [stat.read_text().rpartition(")")[2].split()[0] for stat in stats]

    def _signal(self, number: signal.Signals) -> None:
        if self._process and self._process.poll() is None:
            self._process.send_signal(number)

    async def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self.thaw()
        self._signal(number)
        await asyncio.to_thread(self._process.wait)
        self._process = None

    async def __aenter__(self) -> NatsServer:
        """Start it."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, and remove its files."""
        await self._end(signal.SIGKILL)
        self._directory.cleanup()
