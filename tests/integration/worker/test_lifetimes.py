"""One user's records and keys have a bound: a caller who calls all the time, over a real nats-server and a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from mayfly.bus import subjects
from mayfly.bus.subjects import ACTIVATIONS, IDEMPOTENCY, kv_stream, kv_subject
from mayfly.containers.fake import ending
from mayfly.domain.activation import State
from mayfly.domain.errors import LimitReached
from mayfly.domain.idempotency import entry_key
from mayfly.domain.ids import UserId, new_id
from mayfly.services.call import Call, CallOptions
from mayfly.services.counts import COUNTS_IN
from mayfly.services.idempotency import ADOPT_UNTIL_S
from mayfly.services.invoke import Invoker
from mayfly.services.lifetimes import SHORTEST_S, Lifetimes
from mayfly.services.settle import settle_lost
from tests.support.poison import RECORD
from tests.support.world import KEEP_S, World, a_world

pytestmark = [pytest.mark.A3, pytest.mark.F4, pytest.mark.F12]

MOST = 64
SOON_S = 20.0


@asynccontextmanager
async def bounded(world: World, *, most: int = MOST) -> AsyncIterator[Lifetimes]:
    """Have the world's API server keep no more than so many records of one user."""
    lifetimes = Lifetimes(world.stores, keep_s=KEEP_S, most=most)
    world.invoker = Invoker(world.bus, world.stores, world.listener, wait_ms=0, keep_s=KEEP_S, lifetimes=lifetimes)
    running = asyncio.create_task(lifetimes.run(), name="lifetimes")
    try:
        yield lifetimes
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def stored(world: World, user: UserId) -> int:
    """How many records a user has."""
    return await world.stores.activations.count_below(user)


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for it."""
    async with asyncio.timeout(SOON_S):
        while not is_so():
            await asyncio.sleep(0.01)


async def lives_s(world: World, stream: str, subject: str) -> float:
    """For how long nats-server keeps what lies there."""
    message = await world.bus.js.get_last_msg(stream, subject)
    return float((message.headers or {})["Nats-TTL"].removesuffix("s"))


async def fill(world: World, user: UserId, count: int) -> None:
    """Give a user so many records of other calls."""
    for _ in range(count):
        await world.stores.activations.create(f"{user}.{new_id()}.{RECORD.ulid}", RECORD, ttl_s=KEEP_S)


async def test_one_user_cannot_fill_the_store_with_records(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Somebody who calls and calls through two API servers has no more than the most, and what one server has not yet
    heard of the other: with so small a most, up to a quarter more. None of his calls is refused, and another user's
    record is kept as long as ever. (The shortest time is one second here.)
    """
    monkeypatch.setattr("mayfly.services.lifetimes.SHORTEST_S", 1.0)
    function, another = await world.function(), await world.function()
    async with a_world(world.nats) as second, bounded(world), bounded(second), world.worker():
        for _ in range(2 * MOST):
            assert await world.invoke(function) == await second.invoke(function) == b"x"
        await world.invoke(another)
        async with asyncio.timeout(SOON_S):
            while await stored(world, function.user_id) > MOST * 1.25:
                await asyncio.sleep(0.05)

    assert (await world.record(another)).kept_s(KEEP_S) == KEEP_S


async def test_who_has_little_has_it_as_long_as_ever(world: World) -> None:
    """Up to half of the most nothing is shortened, however often he is counted."""
    function = await world.function()
    async with bounded(world) as lifetimes, world.worker():
        for _ in range(MOST // 2):
            await world.invoke(function)
            await lifetimes.settle()
        keys = await world.stores.activations.keys(function.user_id)
        found = [await lives_s(world, kv_stream(ACTIVATIONS), kv_subject(ACTIVATIONS, key)) for key in keys]

    assert found == [KEEP_S] * (MOST // 2)


async def test_a_server_that_was_started_anew_counts_what_there_is(world: World) -> None:
    """Nothing that bounds a user is in memory only: after his first call here it is known how many records he has."""
    function = await world.function()
    await fill(world, function.user_id, MOST)
    async with bounded(world) as lifetimes:
        assert lifetimes.of_next(function.user_id) == KEEP_S
        await until(lambda: lifetimes.of_next(function.user_id) == SHORTEST_S)


async def test_what_other_servers_admit_is_counted(world: World) -> None:
    """A server learns of it after so many calls of its own, and not only of those."""
    function = await world.function()
    async with bounded(world) as lifetimes:
        lifetimes.of_next(function.user_id)
        await until(lambda: not lifetimes._due)
        await fill(world, function.user_id, MOST)
        for _ in range(MOST // COUNTS_IN):
            lifetimes.of_next(function.user_id)
        await until(lambda: lifetimes.of_next(function.user_id) == SHORTEST_S)


async def test_what_has_expired_counts_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once in a while who has much is counted again, so that his records are kept long again when there is room."""
    monkeypatch.setattr("mayfly.services.counts.COUNTED_AGAIN_S", 0.0)
    user = UserId(new_id())
    async with bounded(world, most=10**6) as lifetimes:
        lifetimes.of_next(user)
        await until(lambda: not lifetimes._due)
        lifetimes._counts.of(user).counted = 10**6  # as it was when he was counted last
        assert lifetimes.of_next(user) == SHORTEST_S
        await until(lambda: lifetimes.of_next(user) == KEEP_S)


async def test_keys_of_calls_that_were_refused_are_counted(world: World) -> None:
    """A refused call leaves no record for long, and frees its key: what that leaves behind is bounded as well."""
    function = await world.function()
    for _ in range(8):
        await world.queued(function)
    for number in range(MOST):
        with pytest.raises(LimitReached):
            await world.invoke(function, options=CallOptions(idempotency_key=f"{number}"))
    async with world.nats.connect("admin") as admin:  # instead of the minute after which they are gone
        await admin.js.purge_stream(kv_stream(ACTIVATIONS))
    assert await world.stores.idempotency.count_below(function.user_id) == MOST
    async with bounded(world) as lifetimes:
        lifetimes.of_next(function.user_id)
        await until(lambda: lifetimes.of_next(function.user_id) == SHORTEST_S)
        with pytest.raises(LimitReached):
            await world.invoke(function, options=CallOptions(idempotency_key="one more"))
        subject = kv_subject(IDEMPOTENCY, entry_key(function.user_id, "one more"))
        assert await lives_s(world, kv_stream(IDEMPOTENCY), subject) == SHORTEST_S


async def test_what_a_call_leaves_is_kept_as_long_as_its_record(world: World) -> None:
    """Record, response and key of one who has too much are kept for the shortest time, and no shorter."""
    function = await world.function()
    await fill(world, function.user_id, MOST)
    options = CallOptions(idempotency_key="a key")
    async with bounded(world) as lifetimes, world.worker():
        lifetimes.of_next(function.user_id)
        await until(lambda: not lifetimes._due)
        succeeded = await world.invoker.invoke(Call(function.user_id, function, b"x", options))
        key = succeeded.activation.key
        found = [
            await lives_s(world, kv_stream(ACTIVATIONS), kv_subject(ACTIVATIONS, key)),
            await lives_s(world, subjects.RESPONSES, subjects.response(key)),
            await lives_s(world, kv_stream(IDEMPOTENCY), kv_subject(IDEMPOTENCY, entry_key(function.user_id, "a key"))),
        ]
        again = await world.invoker.invoke(Call(function.user_id, function, b"x", options))

    assert found == [SHORTEST_S] * 3
    assert again.activation.id == succeeded.activation.id
    assert len(world.runtime.calls) == 1


@pytest.mark.parametrize("how", ["fails", "lost", "expired"])
async def test_whoever_ends_a_call_keeps_to_its_time(world: World, how: str) -> None:
    """Its worker, and who ends it in the place of one."""
    world.runtime.script = lambda *_: ending(b"", exit_code=3)
    function = await world.function()
    work = await world.queued(function, keep_s=700.0)
    if how == "fails":
        async with world.worker():
            await world.until(0)
    elif how == "lost":
        await world.move(work, State.RUNNING)
        entry = await world.stores.activations.get(work.key)
        assert entry
        assert await settle_lost(world.stores.activations, entry, keep_s=KEEP_S)
    else:
        entry = await world.stores.activations.get(work.key)
        assert entry
        assert await world.canceller.cancel(entry.value)

    assert (await world.record(function)).state.is_final
    assert await lives_s(world, kv_stream(ACTIVATIONS), kv_subject(ACTIVATIONS, work.key)) == 700.0


async def test_nothing_is_kept_shorter_than_a_key_without_a_record_is_carried_on(world: World) -> None:
    """A record that went before would have its call taken for one that never began, and run again."""
    user = UserId(new_id())
    lifetimes = Lifetimes(world.stores, keep_s=KEEP_S, most=1)
    for _ in range(100):
        assert lifetimes.of_next(user) >= ADOPT_UNTIL_S


async def test_while_nats_does_not_count_what_is_known_holds(world: World) -> None:
    """An outage takes no bound away: what was admitted here is counted here."""
    user = UserId(new_id())
    lifetimes = Lifetimes(world.stores, keep_s=KEEP_S, most=MOST)
    for _ in range(MOST):
        lifetimes.of_next(user)

    assert lifetimes.of_next(user) == SHORTEST_S
