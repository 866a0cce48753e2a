"""
The failure promise (docs/reference/promise.md), one test for each of its clauses and of that name, on one nats-server
and on a cluster of three. Containers are not started here: what is promised of them is tested in tests/contract, and
all of it together, from outside, in tests/chaos.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from mayfly.bus.queue import in_flight
from mayfly.containers.fake import ending
from mayfly.containers.runtime import Call, ContainerSpec, EndReason
from mayfly.domain.activation import State
from mayfly.domain.errors import (
    FunctionFailed,
    LimitReached,
    MayflyError,
    QueueUnavailable,
    TimedOut,
    WorkerLost,
)
from mayfly.domain.function import Function
from mayfly.domain.limits import Limits
from mayfly.services.call import CallOptions
from mayfly.services.outcome import Succeeded, outcome_of
from tests.integration.promise.conftest import Shaken
from tests.support.world import World, crashing_worker

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.A3, pytest.mark.F12]

TOLD_WITHIN_S = 5.0
PATIENT = Limits(timeout_s=120)  # longer than NATS needs to come back from being shaken


async def test_an_activation_runs_at_most_once(system: Shaken) -> None:
    """Six calls run while NATS loses its server or its leader, and are delivered again: none starts a second time."""
    world, function = system.world, await system.world.function(limits=PATIENT)
    started = _begin(world)
    async with world.worker(slots=6), world.worker(slots=6):
        calls = [asyncio.create_task(world.invoke(function, str(n).encode())) for n in range(6)]
        await world.until_started(started + 6)
        await system.shake()
        world.runtime.gate.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        await system.until_empty()

    runs = Counter(call.stdin for _, call in world.runtime.calls[started:])
    assert set(runs.values()) == {1}
    assert results == [str(n).encode() for n in range(6)]


async def test_a_2xx_answer_carries_the_complete_stdout(system: Shaken) -> None:
    """A result of 1 MiB arrives whole; output that was cut, by any other end than exit code 0, is no result at all."""
    world, function = system.world, await system.world.function()
    whole = ("é" * (1 << 19)).encode()
    cut = (EndReason.TIMED_OUT, EndReason.OUT_OF_MEMORY, EndReason.RESULT_TOO_LARGE, EndReason.CANCELLED)
    async with world.worker():
        world.runtime.script = lambda *_: ending(whole)
        assert await world.invoke(function) == whole
        for reason in cut:
            world.runtime.script = lambda *_, reason=reason: ending(b"half of it", reason=reason)
            with pytest.raises(MayflyError):
                await world.invoke(function)
    _as_before(world)


async def test_an_error_carries_whether_it_ran(system: Shaken) -> None:
    """Refused and late calls did not run, failed ones did, and only who lost a worker is told `unknown`."""
    world = system.world
    function = await world.function()
    late = await world.function(limits=Limits(timeout_s=0.3))
    with pytest.raises(TimedOut) as caught:
        await world.invoke(late)
    assert caught.value.ran == "no"

    full = [await world.queued(function) for _ in range(6)]
    with pytest.raises(LimitReached) as refused:
        await world.invoke(function)
    assert refused.value.ran == "no"
    for work in full:
        await world.move(work, State.CANCELLED, ended_at=1.0)
    await system.until_empty()

    async with world.worker():
        world.runtime.script = lambda *_: ending(exit_code=1)
        with pytest.raises(FunctionFailed) as failed:
            await world.invoke(function)
        assert failed.value.ran == "yes"
    _as_before(world)


async def test_the_caller_of_a_lost_worker_is_told_within_5_seconds(system: Shaken) -> None:
    """Its process dies in the middle of four calls: all callers know within 5 s, and are told `ran: unknown`."""
    world, function = system.world, await system.world.function()
    started = _begin(world)
    async with crashing_worker(world, slots=4) as lost:
        calls = [asyncio.create_task(world.invoke(function)) for _ in range(4)]
        await world.until_started(started + 4)
        await lost.crash()
        began = time.monotonic()
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert time.monotonic() - began < TOLD_WITHIN_S
        await lost.is_succeeded()

    assert [(type(error), getattr(error, "ran", None)) for error in errors] == [(WorkerLost, "unknown")] * 4
    _as_before(world)
    await system.until_empty()


async def test_with_an_idempotency_key_asking_again_returns_the_first_outcome(system: Shaken) -> None:
    """The caller of a call under way asks again, through the other API server, after NATS was shaken: one run."""
    world, function = system.world, await system.world.function(limits=PATIENT)
    started, key = _begin(world), CallOptions(idempotency_key="once")
    async with world.worker():
        first = asyncio.create_task(world.invoke(function, b"x", key))
        await world.until_started(started + 1)
        first.cancel()
        await system.shake()
        again = asyncio.create_task(system.other.invoke(function, b"x", key))
        world.runtime.gate.set()
        assert await again == b"x"
        assert await world.invoke(function, b"x", key) == b"x"

    assert len(world.runtime.calls) == started + 1
    await system.until_empty()


async def test_no_caller_can_make_another_users_call_fail(system: Shaken) -> None:
    """A user who has all that a user may have in flight, and asks for more all the time, fails nobody else's call."""
    world = system.world
    greedy, modest = await world.function(), await world.function()
    started = _begin(world)
    async with world.worker(slots=8):
        held = [asyncio.create_task(world.invoke(greedy)) for _ in range(6)]
        await world.until_started(started + 6)
        is_over = asyncio.Event()
        asking = asyncio.create_task(_ask_until(is_over, world, greedy))
        world.runtime.gate.set()
        assert [await world.invoke(modest) for _ in range(20)] == [b"x"] * 20
        is_over.set()  # not cancelled: `asyncio.wait_for` of Python 3.11 loses a cancellation that comes with an answer
        await asyncio.gather(asking, *held)
        await system.until_empty()


async def test_no_function_can_make_another_users_call_fail(system: Shaken) -> None:
    """Functions that end in every bad way run beside another user's, and that one's calls all succeed."""
    world = system.world
    bad, good = await world.function(), await world.function()
    ends = iter([EndReason.OUT_OF_MEMORY, EndReason.RESULT_TOO_LARGE, EndReason.TIMED_OUT] * 10)

    def script(_: ContainerSpec, call: Call) -> Any:
        return ending(call.stdin) if call.stdin == b"good" else ending(reason=next(ends))

    world.runtime.script = script
    async with world.worker(slots=8):
        answers = await asyncio.gather(
            *(world.invoke(good if n % 2 else bad, b"good" if n % 2 else b"bad") for n in range(8)),
            return_exceptions=True,
        )
    assert [answer for answer in answers if isinstance(answer, bytes)] == [b"good"] * 4
    _as_before(world)


async def test_after_a_crash_the_count_returns_to_the_truth_and_limits_hold(system: Shaken) -> None:
    """
    A worker dies with all eight places of the platform taken. Nothing more is admitted until its slots are given back;
    then a full eight are, nine are not, and never was more in flight than eight.
    """
    world = system.world
    ann, bob = await world.function(), await world.function()
    started = _begin(world)
    async with crashing_worker(world, slots=8) as lost:
        calls = [asyncio.create_task(world.invoke(f)) for f in (*[ann] * 6, *[bob] * 2)]
        await world.until_started(started + 8)
        await lost.crash()
        await asyncio.gather(*calls, return_exceptions=True)
        assert await in_flight(world.bus) == 8, "their containers may live on"
        with pytest.raises(LimitReached):
            await world.invoke(bob)
    await system.until_empty()
    _as_before(world)

    started = _begin(world)
    async with world.worker(slots=8):
        calls = [asyncio.create_task(world.invoke(f)) for f in (*[ann] * 6, *[bob] * 2)]
        await world.until_started(started + 8)
        with pytest.raises(LimitReached):
            await world.invoke(await world.function())
        world.runtime.gate.set()
        assert await asyncio.gather(*calls) == [b"x"] * 8
        await system.until_empty()


async def test_an_outcome_is_never_lost_when_nats_is(system: Shaken) -> None:
    """Calls end while NATS is away: their callers get the results, or are told `unknown`; the records have them all."""
    world, function = system.world, await system.world.function(limits=PATIENT)
    started = _begin(world)
    async with world.worker(slots=4):
        calls = [asyncio.create_task(world.invoke(function, str(n).encode())) for n in range(4)]
        await world.until_started(started + 4)
        shaking = asyncio.create_task(system.shake())
        world.runtime.gate.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        await shaking
        await system.until_empty()

    assert all(_is_honest(answer) for answer in answers)
    found = [await _outcome(world, key) for key in await world.stores.activations.keys(function.user_id)]
    assert sorted(found) == [str(n).encode() for n in range(4)]


async def _outcome(world: World, key: str) -> bytes:
    entry = await world.stores.activations.get(key)
    assert entry
    outcome = await outcome_of(world.bus, entry.value)
    assert isinstance(outcome, Succeeded)
    return outcome.result


def _is_honest(answer: bytes | BaseException) -> bool:
    return isinstance(answer, bytes) or (isinstance(answer, QueueUnavailable) and answer.ran == "unknown")


async def _ask_until(is_over: asyncio.Event, world: World, function: Function) -> None:
    while not is_over.is_set():
        try:
            await world.invoke(function)
        except LimitReached:
            await asyncio.sleep(0)


def _begin(world: World) -> int:
    """Hold all calls back from now on; say how many there were before."""
    _as_before(world)
    world.runtime.gate.clear()
    return len(world.runtime.calls)


def _as_before(world: World) -> None:
    """Let calls end as `cat` would again."""
    world.runtime.script = lambda _, call: ending(call.stdin)
    world.runtime.gate.set()
