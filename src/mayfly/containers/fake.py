"""
A runtime that starts nothing, for unit tests of whoever uses one.

By default a call ends at once as `cat` would: exit code 0, its stdin as stdout. Tests script other endings, hold calls
back until they say so, and read off what happened.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable

from mayfly.containers.runtime import NO_EGRESS, Call, Container, ContainerSpec, Ending, EndReason
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.function import Network

Script = Callable[[ContainerSpec, Call], Ending | Exception]


def ending(stdout: bytes = b"", *, reason: EndReason = EndReason.EXITED, exit_code: int | None = None) -> Ending:
    """Make an ending with plausible figures; the exit code of one that EXITED is 0 unless given."""
    code = exit_code if exit_code is not None or reason is not EndReason.EXITED else 0
    return Ending(
        reason=reason,
        exit_code=code,
        stdout=stdout,
        stderr=b"",
        stderr_truncated=False,
        cpu_us=1000,
        memory_peak_bytes=1 << 20,
        start_s=0.001,
        run_s=0.002,
    )


def echo(spec: ContainerSpec, call: Call) -> Ending:
    """End as `cat` would."""
    del spec
    return ending(call.stdin)


class FakeRuntime:
    """Scriptable, and remembers."""

    name = "fake"
    version = "1.0"
    home = "fake"
    offers_egress = False

    def __init__(self, script: Script = echo) -> None:
        self.script = script
        """Decides how a call ends, or what `run` raises."""
        self.create_error: Exception | None = None
        """Raised by `create` while it is set."""
        self.remove_error: Exception | None = None
        """Raised by `remove` while it is set; the container is still there then."""
        self.gate = asyncio.Event()
        """While it is clear, started calls do not end by themselves."""
        self.gate.set()
        self.may_create = asyncio.Event()
        """While it is clear, containers do not become ready."""
        self.may_create.set()
        self.asked_to_create = asyncio.Event()
        self.created: list[ContainerSpec] = []
        self.calls: list[tuple[str, Call]] = []
        """Container id and call, of those whose command started."""
        self.removed: list[str] = []
        self.alive: dict[str, FakeContainer] = {}
        """Created and not yet removed."""
        self.changed = asyncio.Condition()
        """Notified at every creation, start, end and removal."""
        self.leftovers = 0
        """How many containers `reap` finds."""
        self.is_closed = False

    @property
    def running(self) -> int:
        """Calls that have started and not ended."""
        return sum(container.is_running for container in self.alive.values())

    async def create(self, spec: ContainerSpec) -> Container:
        if self.create_error is not None:
            raise self.create_error
        if spec.network is not Network.NONE and not self.offers_egress:
            raise RuntimeFailed(NO_EGRESS)
        if any(spec.id == other.id for other in self.created):
            raise AssertionError(f"container id {spec.id} is used twice")
        self.asked_to_create.set()
        await self.may_create.wait()
        self.created.append(spec)
        container = self.alive[spec.id] = FakeContainer(self, spec)
        await self.notify()
        return container

    async def reap(self) -> int:
        found, self.leftovers = self.leftovers, 0
        return found

    async def close(self) -> None:
        self.is_closed = True

    async def wait_until(self, condition: Callable[[FakeRuntime], bool]) -> None:
        """Return when *condition* holds; a test puts its own time limit around."""
        async with self.changed:
            await self.changed.wait_for(lambda: condition(self))

    async def notify(self) -> None:
        """Wake those who wait."""
        async with self.changed:
            self.changed.notify_all()


class FakeContainer:
    """One container that is not there."""

    def __init__(self, runtime: FakeRuntime, spec: ContainerSpec) -> None:
        self.id = spec.id
        self.spec = spec
        self.is_running = False
        self._runtime = runtime
        self._is_used = False
        self._killed = asyncio.Event()

    @property
    def is_killed(self) -> bool:
        """Somebody called `kill`, or `remove`."""
        return self._killed.is_set()

    async def run(self, call: Call, *, timeout_s: float) -> Ending:
        if self._is_used or self.is_killed:
            raise RuntimeFailed("The container has been used or has ended already.")
        self._is_used = self.is_running = True
        self._runtime.calls.append((self.id, call))
        await self._runtime.notify()
        try:
            reason = await self._until_over(timeout_s)
        finally:
            self.is_running = False
            await self._runtime.notify()
        if reason is not EndReason.EXITED:
            return ending(reason=reason)
        outcome = self._runtime.script(self.spec, call)
        if isinstance(outcome, Exception):
            raise outcome
        return dataclasses.replace(outcome)

    def kill(self) -> None:
        self._killed.set()

    async def remove(self) -> None:
        self.kill()
        if self._runtime.remove_error is not None:
            raise self._runtime.remove_error
        if self._runtime.alive.pop(self.id, None) is not None:
            self._runtime.removed.append(self.id)
            await self._runtime.notify()

    async def _until_over(self, timeout_s: float) -> EndReason:
        ways = {
            asyncio.ensure_future(self._runtime.gate.wait()): EndReason.EXITED,
            asyncio.ensure_future(self._killed.wait()): EndReason.CANCELLED,
        }
        try:
            done, _ = await asyncio.wait(ways, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
        if self.is_killed:
            return EndReason.CANCELLED
        return EndReason.EXITED if done else EndReason.TIMED_OUT
