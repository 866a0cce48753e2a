"""Cancelling an activation, wherever it stands, and racing with its completion."""

from __future__ import annotations

import asyncio

import pytest

from mayfly.domain.activation import State
from mayfly.domain.errors import Cancelled
from mayfly.services.outcome import Succeeded, outcome_of
from tests.support.world import World, a_world

pytestmark = [pytest.mark.A2, pytest.mark.F11, pytest.mark.F12]


async def test_a_queued_activation_is_settled_at_once(world: World) -> None:
    """It ends as cancelled with `ran: no`, its caller is told so, its slot is back, and no worker ever runs it."""
    function = await world.function()
    calling = asyncio.create_task(world.invoke(function))
    await world.until(1)

    ended = await world.canceller.cancel(await world.record(function))

    assert (ended.state, ended.ran) == (State.CANCELLED, "no")
    with pytest.raises(Cancelled) as caught:
        await calling
    assert caught.value.ran == "no"
    await world.until(0)
    async with world.worker():
        assert world.runtime.calls == []


async def test_a_running_activation_is_ended_by_its_worker(world: World) -> None:
    """Its container is killed; canceller, caller and record agree that it was cancelled, after it ran."""
    world.runtime.gate.clear()
    function = await world.function()
    async with world.worker():
        calling = asyncio.create_task(world.invoke(function))
        await world.until_started(1)
        ended = await world.canceller.cancel(await world.record(function))
        assert (ended.state, ended.ran) == (State.CANCELLED, "yes")
        with pytest.raises(Cancelled) as caught:
            await calling
        assert caught.value.ran == "yes"
        await world.until(0)

    assert world.runtime.alive == {}
    assert (await world.record(function)).state is State.CANCELLED


@pytest.mark.parametrize("started", [False, True], ids=["waiting", "running"])
async def test_one_that_an_operator_ended_says_so(world: World, started: bool) -> None:
    """Record and caller are told that it was not the owner who ended it, whether it waited or ran."""
    world.runtime.gate.clear()
    function = await world.function()
    async with world.worker(slots=1 if started else 0):
        calling = asyncio.create_task(world.invoke(function))
        await (world.until_started(1) if started else world.until(1))
        ended = await world.canceller.cancel(await world.record(function), by_operator=True)
        with pytest.raises(Cancelled, match="by an operator of this installation") as caught:
            await calling

    assert (ended.state, ended.ran) == (State.CANCELLED, "yes" if started else "no")
    assert caught.value.ran == ended.ran
    assert ended.detail == caught.value.detail


async def test_another_api_server_can_cancel_it(world: World) -> None:
    """It need not be the one that has the caller."""
    world.runtime.gate.clear()
    function = await world.function()
    async with world.worker(), a_world(world.nats) as other:
        calling = asyncio.create_task(world.invoke(function))
        await world.until_started(1)
        assert (await other.canceller.cancel(await world.record(function))).state is State.CANCELLED
        with pytest.raises(Cancelled):
            await calling


async def test_one_that_has_ended_stays_as_it_is(world: World) -> None:
    """To cancel what has succeeded shows that it has."""
    function = await world.function()
    async with world.worker():
        await world.invoke(function)
        assert (await world.canceller.cancel(await world.record(function))).state is State.SUCCEEDED


async def test_one_whose_container_is_being_made_does_not_run(world: World) -> None:
    """Cancelled after it was claimed and before its start, it runs nothing."""
    world.runtime.may_create.clear()
    function = await world.function()
    async with world.worker():
        calling = asyncio.create_task(world.invoke(function))
        await world.runtime.asked_to_create.wait()
        ended = await world.canceller.cancel(await world.record(function))
        assert (ended.state, ended.ran) == (State.CANCELLED, "no")
        with pytest.raises(Cancelled):
            await calling
        world.runtime.may_create.set()
        await world.until(0)

    assert world.runtime.calls == []


async def test_two_racing_cancels_and_a_completion_settle_on_one_outcome(world: World) -> None:
    """Whatever comes first: both cancellers, the caller and the record see the same end, thirty times over."""
    outcomes, completes_in_s = set(), 0.0
    async with world.worker(), a_world(world.nats) as other:
        for number in range(30):
            world.runtime.gate.clear()
            function = await world.function()
            calling = asyncio.create_task(world.invoke(function))
            await world.until_started(number + 1)
            record = await world.record(function)
            completing = asyncio.get_running_loop().call_later(completes_in_s, world.runtime.gate.set)
            one, two, answer = await asyncio.gather(
                world.canceller.cancel(record),
                other.canceller.cancel(record),
                calling,
                return_exceptions=True,
            )
            completing.cancel()
            final = await world.record(function)
            assert not isinstance(one, BaseException)
            assert not isinstance(two, BaseException)
            assert one.state == two.state == final.state
            told = await outcome_of(world.bus, final)
            assert isinstance(answer, Cancelled) == isinstance(told, Cancelled)
            assert isinstance(answer, bytes) == isinstance(told, Succeeded)
            outcomes.add(final.state)
            is_cancelled = final.state is State.CANCELLED  # then sooner, else later: at any speed it comes near a tie
            completes_in_s = completes_in_s / 2 if is_cancelled else completes_in_s * 1.5 + 0.0002

    assert outcomes <= {State.SUCCEEDED, State.CANCELLED}
    assert len(outcomes) == 2, f"the race had one winner only: {outcomes}"
