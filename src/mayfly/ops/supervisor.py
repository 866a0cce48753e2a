"""Keeping children running: started anew with a growing pause when they end, stopped in order at the end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

log = structlog.get_logger()

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
STEADY_S = 30.0  # a child that ran this long begins again with the shortest pause


class ChildEnded(Exception):
    """A child ended before the system was ready, so starting it again would not help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What to run, as whom, and what of the file system it must be able to reach."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    uid: int | None = None
    show: Sequence[Path] = ()
    stop_s: float = 10.0  # between the request to stop and the kill
    orphaned: signal.Signals = signal.SIGKILL  # what it gets when `up` is killed, and cannot wait for it any more

    def argv(self) -> list[str]:
        """The command line, by way of `mayfly.ops.child`."""
        argv = [sys.executable, "-m", "mayfly.ops.child", "--parent", str(os.getpid())]
        argv += ["--orphaned", str(int(self.orphaned))]
        if self.uid is not None:
            argv += ["--uid", str(self.uid)]
        for path in self.show:
            argv += ["--show", str(path)]
        return [*argv, "--", *self.command]


class Child:
    """One supervised child."""

    def __init__(self, spec: ChildSpec) -> None:
        """Not started yet."""
        self.spec = spec
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Start it, and from now on start it again whenever it ends."""
        await self._spawn()
        self._keeping = asyncio.create_task(self._keep(), name=f"keep-{self.spec.name}")

    def check_alive(self) -> None:
        """
        See that it has not ended.

        Raises: ChildEnded.
        """
        if self._process and self._process.returncode is not None:
            raise ChildEnded(
                f"{self.spec.name} ended with status {self._process.returncode}; its last words are above."
            )

    async def stop(self) -> None:
        """Ask it to end, wait, and kill it if it does not."""
        self._stopping = True
        if self._keeping:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.spec.stop_s):
                await process.wait()
        except TimeoutError:
            log.warning("child.killed", child=self.spec.name)
            process.kill()
            await process.wait()

    async def _spawn(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self.spec.argv(),
            env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", **self.spec.environment},
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for `up`, which stops the others in order
        )
        log.info("child.started", child=self.spec.name, pid=self._process.pid)

    async def _keep(self) -> None:
        pause = FIRST_PAUSE_S
        while self._process is not None:
            began = time.monotonic()
            status = await self._process.wait()
            if self._stopping:
                return
            if time.monotonic() - began > STEADY_S:
                pause = FIRST_PAUSE_S
            log.error("child.ended", child=self.spec.name, status=status, again_in_s=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)
            await self._spawn()
