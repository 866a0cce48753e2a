"""The compare-and-sets that make an activation run at most once and end once, when what they guard against happens."""

from __future__ import annotations

import asyncio

import pytest

from mayfly.bus.queue import in_flight
from mayfly.domain.activation import State
from mayfly.domain.errors import WorkerLost
from mayfly.services.janitor import YOUNG_S
from mayfly.services.settle import settle, settle_lost
from tests.support.world import World

pytestmark = [pytest.mark.A5, pytest.mark.F9, pytest.mark.F12]


async def test_a_result_that_comes_after_its_record_was_settled_changes_nothing(world: World) -> None:
    """A worker that was taken for lost, and then comes with a result, finds the record ended: it stays as it is."""
    world.runtime.gate.clear()
    function = await world.function()
    async with world.worker():
        calling = asyncio.create_task(world.invoke(function))
        await world.until_started(1)
        record = await world.record(function)
        entry = await world.stores.activations.get(record.key)
        assert entry
        assert await settle_lost(world.stores.activations, entry, keep_s=60)
        world.runtime.gate.set()
        with pytest.raises(WorkerLost):
            await calling
        await world.until(0)

    assert (await world.record(function)).state is State.WORKER_LOST


async def test_of_two_who_end_a_record_alike_one_is_told_that_it_did(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two API servers write the very same end at the very same time: one has ended it, and the other has not."""
    function = await world.function()
    store = world.stores.activations
    monkeypatch.setattr(world.bus.clock, "now", lambda: 1_000_000.0)
    work = await world.queued(function)
    entry = await store.get(work.key)
    assert entry

    ended = await asyncio.gather(
        *(settle(store, entry, State.TIMED_OUT, keep_s=60, code="timed-out", ran="no") for _ in range(2))
    )

    assert sum(record is not None for record in ended) == 1


async def test_a_record_that_is_not_there_for_a_moment_is_not_taken_for_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A nats-server that has just woken up, and takes itself for the leader, has not heard of a record made meanwhile: its
    slot is not given back, its container is not killed, and the call gets its result.
    """
    world.runtime.gate.clear()
    function = await world.function()
    async with world.worker() as worker:
        calling = asyncio.create_task(world.invoke(function))
        await world.until_started(1)
        [run] = worker._runs.values()

        async def not_heard_of(_: str) -> None:
            return None

        await asyncio.sleep(YOUNG_S + 0.1)  # the janitor looks at no younger message
        with monkeypatch.context() as patched:
            patched.setattr(world.janitor._records, "get", not_heard_of)
            assert await world.janitor.sweep() == 0
        with monkeypatch.context() as patched:  # apart: the worker looks each second, and may not find nothing twice
            patched.setattr(run._records, "get", not_heard_of)
            await run.kill_if_settled()
        await run.kill_if_settled()
        await world.janitor.sweep()
        assert await in_flight(world.bus) == 1
        world.runtime.gate.set()
        assert await calling == b"x"
