"""A process that is started again whenever it ends, as systemd would, with the same files; and what is below it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESTART_S = 0.25
READY_S = 60.0
STOP_S = 30.0
FROZEN_S = 5.0


class NotReady(Exception):
    """A process did not become ready in time; it is in `kept`."""

    def __init__(self, kept: Kept, seconds: float) -> None:
        """*seconds* is how long it had."""
        self.kept = kept
        super().__init__(f"{kept.name} is not ready after {seconds:g} s")


@dataclass
class Incarnation:
    """One life of a process."""

    pid: int
    began_at: float
    ended_at: float | None = None
    code: int | None = None


class Kept:
    """
    A process under supervision. *is_ready* is asked again and again after a start, until it agrees.

    Only process ids that this object started, or that are below them, are ever signalled.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        is_ready: Callable[[Kept], Awaitable[bool]],
    ) -> None:
        """*log* takes stdout and stderr of all its lives."""
        self.name = name
        self.log = log
        self.lives: list[Incarnation] = []
        self._command = list(command)
        self._environment = environment
        self._is_ready = is_ready
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._stopping = False
        self._log_from = 0

    @property
    def pid(self) -> int:
        """Of the process as it is now, or was last."""
        return self.lives[-1].pid

    async def start(self) -> None:
        """Start it, and keep it from now on."""
        self._stopping = False
        self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name=f"keep-{self.name}")

    async def until_ready(self, *, for_s: float = READY_S) -> float:
        """
        Wait until it is ready; return when that was.

        Raises: NotReady.
        """
        give_up_at = time.monotonic() + for_s
        while not (self.is_running and await self._is_ready(self)):
            if time.monotonic() > give_up_at:
                raise NotReady(self, for_s)
            await asyncio.sleep(0.05)
        return time.monotonic()

    @property
    def is_running(self) -> bool:
        """Whether it lives."""
        return self._process is not None and self._process.poll() is None

    async def stop(self) -> int | None:
        """End it in good order, and keep it no longer; return its exit status."""
        self._stopping = True
        if self._process is not None and self._process.poll() is None:
            for pid in tree(self.pid):
                signal_if_there(pid, signal.SIGCONT)
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(self._process.wait, STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                await asyncio.to_thread(self._process.wait)
        if self._keeper is not None:
            await self._keeper
            self._keeper = None
        return self._process.returncode if self._process else None

    async def died(self, pid: int, *, within_s: float = 10.0) -> bool:
        """Whether a life of it with this process id has ended, or does so in time."""
        life = next(life for life in self.lives if life.pid == pid)
        give_up_at = time.monotonic() + within_s
        while life.ended_at is None and time.monotonic() < give_up_at:
            await asyncio.sleep(0.01)
        return life.ended_at is not None

    def events(self) -> Iterator[dict[str, Any]]:
        """What its present life has logged, where that is JSON."""
        with self.log.open("rb") as log:
            log.seek(self._log_from)
            for line in log:
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if isinstance(event, dict):
                        yield event

    def has_logged(self, name: str) -> bool:
        """Whether its present life has logged this event."""
        return any(event.get("event") == name for event in self.events())

    def _spawn(self) -> None:
        self._log_from = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.lives.append(Incarnation(self._process.pid, time.monotonic()))

    async def _keep(self) -> None:
        while True:
            assert self._process is not None
            code = await _exit_of(self._process)
            self.lives[-1].ended_at, self.lives[-1].code = time.monotonic(), code
            if self._stopping:
                return
            await asyncio.sleep(RESTART_S)
            if self._stopping:
                return
            self._spawn()


async def _exit_of(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end, woken by the kernel."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    descriptor = os.pidfd_open(process.pid)
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return process.wait()


# --- what is below a process --------------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """The children of a process, of all its threads."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # it ends while its threads are listed
        for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in tasks.read_text().split()]
    return found


def tree(pid: int) -> list[int]:
    """The process and all that is below it."""
    return [pid, *(below for child in children(pid) for below in tree(child))]


def name_of(pid: int) -> str:
    """What a process calls itself; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def state_of(pid: int) -> str:
    """One letter: R, S, T, Z...; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def is_dead(pid: int) -> bool:
    """Gone, or waiting for its parent to notice."""
    return state_of(pid) in ("", "Z", "X")


async def until(condition: Callable[[], bool], *, within_s: float = FROZEN_S) -> bool:
    """Whether *condition* comes true in time. The kernel tells nobody, but shows it in /proc."""
    give_up_at = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > give_up_at:
            return False
        await asyncio.sleep(0.002)
    return True


async def until_true(question: Callable[[], Awaitable[bool]], *, within_s: float = FROZEN_S) -> bool:
    """Whether the answer to *question*, asked again and again, becomes yes in time."""
    give_up_at = time.monotonic() + within_s
    while not await question():
        if time.monotonic() > give_up_at:
            return False
        await asyncio.sleep(0.1)
    return True


def signal_if_there(pid: int, number: signal.Signals) -> bool:
    """Signal one process; False if it is gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
