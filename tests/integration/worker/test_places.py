"""Limits by places: a function's own `max_concurrency`, and one user's below the ceiling for all."""

from __future__ import annotations

import asyncio
import time

import pytest
from msgspec.structs import replace

from mayfly.bus.places import NoPlace, Places
from mayfly.bus.subjects import PLACES, kv_subject, places_of
from mayfly.domain.activation import State
from mayfly.domain.errors import LimitReached
from mayfly.domain.ids import WorkerId, new_id, new_ulid
from mayfly.domain.limits import Limits
from mayfly.services.call import CallOptions
from tests.support.world import World

pytestmark = [pytest.mark.A2, pytest.mark.F13]


async def test_as_many_places_as_the_limit_are_taken(world: World) -> None:
    """Of 40 who try at once for 5 places exactly 5 get one; a freed one is another's, whoever frees it twice."""
    places, of = Places(world.bus), places_of(new_id(), new_id())

    async def take(holder: str) -> object:
        return await places.take(of, 5, holder=holder, ttl_s=60)

    results = await asyncio.gather(*(take(str(number)) for number in range(40)), return_exceptions=True)
    taken = [result for result in results if not isinstance(result, BaseException)]
    assert len(taken) == 5
    assert all(isinstance(result, NoPlace) for result in results if isinstance(result, BaseException))

    assert await places.free(taken[0])  # type: ignore[arg-type]
    again = await places.take(of, 5, holder="again", ttl_s=60)
    assert not await places.free(taken[0])  # type: ignore[arg-type]
    assert await places.held(of, holder="again") == again
    with pytest.raises(NoPlace):
        await take("one too many")


@pytest.mark.parametrize("scope", ["function", "user"])
async def test_no_limit_is_waited_for_longer_than_a_call_may_take(
    world: World, monkeypatch: pytest.MonkeyPatch, scope: str
) -> None:
    """Where calls wait 5 s for a slot, one that may take 0.5 s is refused then; of a place and of the stream alike."""
    monkeypatch.setattr(world.invoker._admission, "_wait_s", 5.0)
    world.runtime.gate.clear()
    function = await world.function(limits=Limits(max_concurrency=1 if scope == "function" else None))
    async with world.worker(slots=8):
        calls = [asyncio.create_task(world.invoke(function)) for _ in range(1 if scope == "function" else 8)]
        await world.until_started(len(calls))
        began = time.monotonic()
        with pytest.raises(LimitReached) as refused:
            await world.invoke(function, b"x", CallOptions(timeout_s=0.5))
        assert 0.5 <= time.monotonic() - began < 4
        world.runtime.gate.set()
        await asyncio.gather(*calls)

    assert refused.value.members["scope"] == scope


async def test_a_function_never_has_more_in_flight_than_it_allows(world: World) -> None:
    """Of 8 calls at once of a function that allows 2, 2 run and 6 are refused; afterwards 2 are admitted again."""
    world.runtime.gate.clear()
    function = await world.function(limits=Limits(max_concurrency=2))
    async with world.worker(slots=8):
        calls = [asyncio.create_task(world.invoke(function)) for _ in range(8)]
        async with asyncio.timeout(10):
            while sum(call.done() for call in calls) < 6:
                await asyncio.sleep(0.01)
        await world.until_started(2)
        refused = [call.exception() for call in calls if call.done()]
        assert all(isinstance(error, LimitReached) for error in refused)
        members = [error.members for error in refused if isinstance(error, LimitReached)]
        assert {(m["scope"], m["limit"], m["in_use"]) for m in members} == {("function", 2, 2)}
        assert world.runtime.running == 2

        world.runtime.gate.set()
        assert await asyncio.gather(*(call for call in calls if not call.done())) == [b"x", b"x"]
        for _ in range(3):  # its places are free as soon as the answer is there
            assert list(await asyncio.gather(world.invoke(function), world.invoke(function))) == [b"x", b"x"]


async def test_other_functions_do_not_count(world: World) -> None:
    """A full function keeps nobody else's, nor another one of the same user's, from running."""
    world.runtime.gate.clear()
    full, free = await world.function(limits=Limits(max_concurrency=1)), await world.function()
    async with world.worker(slots=8):
        calls = [asyncio.create_task(world.invoke(full))]
        await world.until_started(1)
        calls.append(asyncio.create_task(world.invoke(free)))
        await world.until_started(2)
        world.runtime.gate.set()
        assert await asyncio.gather(*calls) == [b"x", b"x"]


async def test_a_user_can_have_a_lower_limit(world: World) -> None:
    """A user who may have 1 in flight is refused the second, in the words of the ordinary limit, with that number."""
    world.runtime.gate.clear()
    function = await world.function()
    options = CallOptions(user_limit=1)
    async with world.worker(slots=8):
        first = asyncio.create_task(world.invoke(function, b"x", options))
        await world.until_started(1)
        with pytest.raises(LimitReached) as caught:
            await world.invoke(function, b"x", options)
        assert (caught.value.members["scope"], caught.value.members["limit"]) == ("user", 1)
        assert "You have 1 activation in flight" in caught.value.detail
        world.runtime.gate.set()
        await first


async def test_a_call_that_the_platform_refuses_keeps_no_place(world: World) -> None:
    """A full stream refuses a call after it took its place: the place is free again."""
    function = await world.function(limits=Limits(max_concurrency=1))
    stranger = await world.function()
    for _ in range(8):
        await world.queued(stranger)
    with pytest.raises(LimitReached) as caught:
        await world.invoke(function)

    assert caught.value.members["scope"] == "platform"
    assert [taken async for taken in Places(world.bus).all_taken()] == []


async def test_a_crashed_holders_place_comes_back(world: World) -> None:
    """The API server of a limited call dies; when its activation has ended, the janitor of another frees the place."""
    world.runtime.gate.clear()
    function = await world.function(limits=Limits(max_concurrency=1))
    async with world.worker():
        calling = asyncio.create_task(world.invoke(function))
        await world.until_started(1)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        await world.janitor.sweep()
        assert len([taken async for taken in Places(world.bus).all_taken()]) == 1, "it still runs"

        world.runtime.gate.set()
        async with asyncio.timeout(10):
            while [taken async for taken in Places(world.bus).all_taken()]:
                await world.janitor.sweep()
                await asyncio.sleep(0.1)
        assert await world.invoke(function) == b"x"


async def test_a_place_comes_back_whose_call_never_came_into_the_queue(world: World) -> None:
    """The API server dies between place and message: when the call is out of time, the janitor of another frees it."""
    function = await world.function(limits=Limits(max_concurrency=1))
    now = world.bus.clock.now()
    record = replace((await world.queued(function)).record, ulid=new_ulid(now), deadline_at=now - 60)
    await world.stores.activations.create(record.key, record)
    places = Places(world.bus)
    await places.take(places_of(function.user_id, function.id), 1, holder=record.key, ttl_s=3600)

    await world.janitor.sweep()

    entry = await world.stores.activations.get(record.key)
    assert entry
    assert (entry.value.state, entry.value.ran) == (State.TIMED_OUT, "no")
    assert [taken async for taken in places.all_taken()] == []


async def test_a_place_that_cannot_be_read_stops_nobody(world: World) -> None:
    """A place of a version that is not known here is left to those who know it, by the janitor and by a new call."""
    function = await world.function(limits=Limits(max_concurrency=2))
    of = places_of(function.user_id, function.id)
    await world.bus.js.publish(kv_subject(PLACES, f"{of}.0"), b"\x81\xa1v\x63")
    places = Places(world.bus)
    mine = await places.take(of, 2, holder=new_id(), ttl_s=60)

    await world.janitor.sweep()

    assert [taken async for taken in places.all_taken()] == [mine]
    assert await places.held(of, holder=mine.holder) == mine


async def test_a_lost_workers_place_stays_taken_while_its_container_may_live(world: World) -> None:
    """As its slot does: the record has ended, the place comes back later."""
    function = await world.function(limits=Limits(max_concurrency=1))
    calling = asyncio.create_task(world.invoke(function))
    await world.until(1)
    record = await world.record(function)
    entry = await world.stores.activations.get(record.key)
    assert entry
    running = record.moved(State.RUNNING, nonce=new_id(), worker=WorkerId(new_id()), attempt=new_id(), ran="unknown")
    await world.stores.activations.update(record.key, running, revision=entry.revision)

    await asyncio.gather(calling, return_exceptions=True)
    await world.janitor.sweep()

    assert (await world.record(function)).state is State.WORKER_LOST
    assert len([taken async for taken in Places(world.bus).all_taken()]) == 1
