"""What a worker proves, and as of when: with a clock and runs of the test's own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from mayfly.containers.watchdog import FEED, Feed
from mayfly.domain.errors import QueueUnavailable
from mayfly.domain.worker import LEASE_S
from mayfly.services.janitor import FENCE_S, YOUNG_S
from mayfly.worker import lease
from mayfly.worker.lease import CUT_OFF_S, Lease

pytestmark = [pytest.mark.A5, pytest.mark.F11]


class Running:
    """One run, as the lease sees it."""

    def __init__(self) -> None:
        """It may live, and its record has not been ended."""
        self.may_live = True
        self.looked = 0
        self.error: Exception | None = None

    def kill(self) -> None:
        """It dies at once."""
        self.may_live = False

    async def kill_if_settled(self) -> None:
        """Nobody has."""
        self.looked += 1
        if self.error:
            raise self.error


class Pipe:
    """What the watchdog would hear."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.read, write = os.pipe()
        os.set_blocking(self.read, False)
        self._write = write
        self.feed = Feed(write)

    def fed(self) -> list[float]:
        """What came since the last time."""
        try:
            return [at for (at,) in FEED.iter_unpack(os.read(self.read, 65_536))]
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Both ends."""
        os.close(self.read)
        os.close(self._write)


class Clock:
    """Set by the test."""

    at = 1000.0

    def __call__(self) -> float:
        """Now."""
        return self.at


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """An open one."""
    pipe = Pipe()
    yield pipe
    pipe.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The one of the lease. Its pauses are short, as they are the event loop's."""
    clock = Clock()
    monkeypatch.setattr(lease, "now", clock)
    for pause in ("BEAT_EVERY_S", "HURRY_S", "CHECK_EVERY_S"):
        monkeypatch.setattr(lease, pause, 0.01)
    return clock


@asynccontextmanager
async def kept(pipe: Pipe, runs: list[Running], beat: Callable[[], object]) -> AsyncIterator[None]:
    """A lease that is being kept."""

    async def confirmed() -> None:
        answer = beat()
        if asyncio.iscoroutine(answer):
            await answer

    keeping = asyncio.create_task(Lease(pipe.feed, beat=confirmed, runs=lambda: runs).keep())  # type: ignore[arg-type,return-value]
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    """Wait for it."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def refuse() -> None:
    """Be a NATS that does not answer."""
    raise QueueUnavailable


def test_the_lease_ends_before_the_slot_comes_back() -> None:
    """What a worker may keep alive is dead before the janitor gives its slot to another, with time to spare."""
    assert CUT_OFF_S < LEASE_S < FENCE_S - YOUNG_S


async def test_a_proof_counts_from_before_it_was_asked_for(pipe: Pipe, clock: Clock) -> None:
    """However late the beat is confirmed, what is fed is the time when the round began."""
    is_answered, asked = asyncio.Event(), asyncio.Event()

    async def beat() -> None:
        asked.set()
        await is_answered.wait()

    async with kept(pipe, [Running()], beat):
        await asked.wait()
        clock.at += 8
        is_answered.set()
        await until(lambda: 1000.0 in pipe.fed())


async def test_every_activation_that_may_live_is_looked_at_before_a_proof(pipe: Pipe, clock: Clock) -> None:
    """The record of each is read; when one cannot be, nothing is proved."""
    runs = [Running() for _ in range(50)]
    async with kept(pipe, runs, lambda: None):
        await until(pipe.fed)
        assert all(run.looked for run in runs)
        runs[7].error = QueueUnavailable()
        await asyncio.sleep(0.05)  # rounds under way
        clock.at += 1
        await until(lambda: runs[7].looked > 20)
        assert clock.at not in pipe.fed()


async def test_a_beat_that_is_not_confirmed_is_no_proof(pipe: Pipe, clock: Clock) -> None:
    """Nor are looks without it."""
    run = Running()
    async with kept(pipe, [run], refuse):
        clock.at += CUT_OFF_S - 1
        await asyncio.sleep(0.2)
        assert pipe.fed() == []
        assert run.may_live


async def test_a_worker_that_is_cut_off_kills_what_it_runs_and_lives_on(pipe: Pipe, clock: Clock) -> None:
    """Before its watchdog would; then nothing lives here, and that is a proof that needs nobody's answer."""
    runs = [Running(), Running()]
    async with kept(pipe, runs, refuse):
        await asyncio.sleep(0.05)
        assert pipe.fed() == []
        clock.at += CUT_OFF_S + 0.1
        await until(pipe.fed)
        assert not any(run.may_live for run in runs)


async def test_an_idle_worker_needs_nobody(pipe: Pipe, clock: Clock) -> None:
    """With nothing that could live too long it stays, however long NATS is away."""
    async with kept(pipe, [], refuse):
        for _ in range(3):
            clock.at += 60
            await until(lambda: clock.at in pipe.fed())


async def test_a_lost_answer_delays_no_later_round(pipe: Pipe, clock: Clock) -> None:
    """A round that hangs is overtaken, so that the end of an outage is not missed."""
    answers = iter([asyncio.Event().wait])

    def beat() -> object:
        hangs = next(answers, None)
        return hangs() if hangs else None

    async with kept(pipe, [Running()], beat):
        await until(pipe.fed)


async def test_without_its_watchdog_a_worker_ends() -> None:
    """When nobody can read the pipe any more, keeping the lease fails."""
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(ExceptionGroup) as caught:
        await Lease(Feed(write), beat=asyncio.Event().wait, runs=list).keep()  # type: ignore[arg-type]
    os.close(write)
    assert caught.group_contains(BrokenPipeError)
