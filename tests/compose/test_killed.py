"""What it costs to lose a container while it works: at most the calls running in it; and everything comes back."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import httpx
import pytest

from tests.e2e.conftest import Shell
from tests.support.compose import containers, started_again

CALLERS = 12
BEFORE_S, AFTER_S = 2.0, 8.0  # of calls, around the loss
SEEN_WITHIN_S = 3.0  # the gateway asks each API server once a second, and gives it two seconds to answer
TOLD_WITHIN_S = 8.0  # a lost worker's caller is told within 5 s of the loss; the call itself takes 0.3 s
SLOTS = 8


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


async def lose(shell: Shell, service: str) -> tuple[float, list[Call], list[Call]]:
    """Kill one container of *service* under load; return when, all calls, and those that failed."""
    name = await shell.make("sleep 0.3; cat")
    load = Load(shell, name)
    running = asyncio.create_task(load.run(), name="load")
    await asyncio.sleep(BEFORE_S)
    victim = containers(service)[0]
    victim.kill()
    killed_at = time.monotonic()
    await asyncio.sleep(AFTER_S)
    await started_again(victim)
    await asyncio.sleep(BEFORE_S)
    load.stopped = True
    await running
    failed = load.failed()
    print(f"\n{service}: {len(load.calls)} calls, {len(failed)} failed: {_counted(failed, killed_at)}")
    assert not [call for call in load.calls if call.words.startswith("wrong")]
    assert [call for call in load.calls if call.began < killed_at - BEFORE_S / 2]
    assert not [call for call in failed if call.ended < killed_at]
    late = [call for call in load.calls if call.ended > time.monotonic() - BEFORE_S]
    assert late
    assert {call.status for call in late} == {200}
    return killed_at, load.calls, failed


def _counted(failed: list[Call], killed_at: float) -> list[str]:
    return [
        f"{call.status} {call.began - killed_at:+.1f}..{call.ended - killed_at:+.1f} s {call.words[:200]}"
        for call in failed
    ]


def in_flight(calls: list[Call], at: float) -> list[Call]:
    """Those that had begun and not ended."""
    return [call for call in calls if call.began <= at < call.ended]


@pytest.mark.A3
@pytest.mark.A4
@pytest.mark.parametrize("server", ["nats-1", "nats-2", "nats-3"])
async def test_a_nats_server_is_lost(whole: Shell, server: str) -> None:
    """Two of three go on, also without the one that led: no call is lost."""
    _, _, failed = await lose(whole, server)
    assert failed == []


@pytest.mark.A5
async def test_a_worker_is_lost(whole: Shell) -> None:
    """The calls running in it are lost, no more than it has slots, and their callers told so within 5 s."""
    killed_at, calls, failed = await lose(whole, "worker")
    assert len(failed) <= SLOTS
    assert all(call in in_flight(calls, killed_at) for call in failed)
    assert all('"worker-lost"' in call.words for call in failed)
    assert all(call.ended < killed_at + TOLD_WITHIN_S for call in failed)


@pytest.mark.A1
@pytest.mark.A2
async def test_an_api_server_is_lost(whole: Shell) -> None:
    """The calls through it are lost; the gateway sees it within 3 s, and sends nothing there until it is back."""
    killed_at, calls, failed = await lose(whole, "api-1")
    lost = [call for call in failed if call.began < killed_at]
    assert all(call in in_flight(calls, killed_at) for call in lost)
    assert all(call.began < killed_at + SEEN_WITHIN_S for call in failed)
    assert {call.status for call in failed} <= {502}


@pytest.mark.A1
async def test_the_gateway_is_lost(whole: Shell) -> None:
    """Its connections break, which costs their calls; it answers again as soon as Docker has started it anew."""
    killed_at, calls, failed = await lose(whole, "gateway")
    lost = [call for call in failed if call.began < killed_at]
    assert all(call in in_flight(calls, killed_at) for call in lost)
    assert {call.status for call in failed} <= {0, 502}
    assert max(call.ended for call in failed) < killed_at + 30
