"""Callers who call again and again, and what they got."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from tests.e2e.conftest import Shell

CALLERS = 12


@dataclass(frozen=True)
class Call:
    """One call, and what its caller got: a status, or 0 when the connection broke."""

    began: float
    ended: float
    status: int
    words: str


@dataclass
class Load:
    """Callers who call again and again, and wait a moment after each failure."""

    shell: Shell
    name: str
    calls: list[Call] = field(default_factory=list)
    stopped: bool = False

    async def run(self) -> None:
        """Call until told to stop."""
        await asyncio.gather(*(self._caller() for _ in range(CALLERS)))

    async def _caller(self) -> None:
        while not self.stopped:
            call = await self._call()
            self.calls.append(call)
            if call.status != 200:
                await asyncio.sleep(0.2)

    async def _call(self) -> Call:
        began = time.monotonic()
        try:
            answer = await self.shell.call(self.name, "x")
        except httpx.TransportError as error:
            return Call(began, time.monotonic(), 0, repr(error))
        words = answer.text
        if answer.status_code == 200 and words != "x":
            words = f"wrong: {words}"
        return Call(began, time.monotonic(), answer.status_code, words)

    def failed(self) -> list[Call]:
        """Those without a result."""
        return [call for call in self.calls if call.status != 200]

    def told(self, since: float) -> list[str]:
        """Say in words what failed, and when."""
        return [
            f"{call.status} {call.began - since:+.1f}..{call.ended - since:+.1f} s {call.words[:200]}"
            for call in self.failed()
        ]


@asynccontextmanager
async def calling(shell: Shell) -> AsyncIterator[Load]:
    """Call a function of 0.3 s, with the default time limit, again and again, from before the block to after it."""
    load = Load(shell, await shell.make("sleep 0.3; cat"))
    running = asyncio.create_task(load.run(), name="load")
    try:
        yield load
    finally:
        load.stopped = True
        await running


def in_flight(calls: list[Call], at: float) -> list[Call]:
    """Those that had begun and not ended."""
    return [call for call in calls if call.began <= at < call.ended]
