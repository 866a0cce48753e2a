"""When a container is removed, and where it is written: in the final record, if that is soon enough."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mayfly.bus.responses import RECORD
from mayfly.bus.subjects import done_for
from mayfly.containers.fake import FakeContainer
from mayfly.domain.activation import Activation, State
from mayfly.domain.errors import RuntimeFailed
from tests.support.world import World

pytestmark = [pytest.mark.F11]


@asynccontextmanager
async def written(world: World) -> AsyncIterator[list[Activation]]:
    """Each state of each record, as it is written."""
    states: list[Activation] = []
    subscription = await world.bus.client.hear(
        done_for(world.listener.instance), lambda _, data: states.append(RECORD.decode(data))
    )
    await world.bus.client.flush()
    yield states
    await subscription.unsubscribe()


async def test_what_is_removed_in_time_is_written_once(world: World) -> None:
    """The final record, with which the caller is answered, says when nothing of the container was left."""
    function = await world.function()
    async with written(world) as states, world.worker():
        await world.invoke(function)
        assert list(world.runtime.alive) == []
        await world.until(0)

    assert [record.state for record in states] == [State.QUEUED, State.RUNNING, State.SUCCEEDED]
    final = states[-1]
    assert final.started_at
    assert final.removed_at
    assert final.ended_at
    assert final.started_at <= final.removed_at <= final.ended_at


async def test_a_slow_removal_keeps_nobody_waiting(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller is answered and the slot is back meanwhile; the record says afterwards when it was over."""
    may_remove, remove = asyncio.Event(), FakeContainer.remove

    async def slow(self: FakeContainer) -> None:
        await may_remove.wait()
        await remove(self)

    monkeypatch.setattr(FakeContainer, "remove", slow)
    function = await world.function()
    async with written(world) as states, world.worker():
        assert await world.invoke(function) == b"x"
        await world.until(0)
        assert (await world.record(function)).removed_at is None
        assert len(world.runtime.alive) == 1
        may_remove.set()
        async with asyncio.timeout(10):
            while (record := await world.record(function)).removed_at is None:
                await asyncio.sleep(0.01)

    assert [each.state for each in states][2:] == [State.SUCCEEDED, State.SUCCEEDED]
    assert record.ended_at
    assert record.removed_at >= record.ended_at


async def test_what_is_left_is_not_said_to_be_removed(world: World) -> None:
    """Where something of the container is left the record does not say when nothing was; the caller has his result."""
    world.runtime.remove_error = RuntimeFailed("A mount is left.")
    function = await world.function()
    async with written(world) as states, world.worker():
        assert await world.invoke(function) == b"x"
        await world.until(0)

    assert [each.removed_at for each in states] == [None, None, None]
