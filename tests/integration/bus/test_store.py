"""The database: compare-and-set on a real nats-server."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace
from nats.aio.msg import Msg

from mayfly.bus.connection import Bus
from mayfly.bus.patience import FAILOVER_S
from mayfly.bus.store import Conflict, Store
from mayfly.bus.subjects import FUNCTIONS, kv_stream, kv_subject, message_get
from mayfly.domain.errors import QueueUnavailable
from mayfly.domain.function import Function
from mayfly.domain.ids import FunctionName, UserId, new_id
from tests.support.bus import Installation

pytestmark = pytest.mark.A4

SHORT_S = 2.0


@pytest.fixture
async def bus(nats: Installation) -> AsyncIterator[Bus]:
    """An API server's connection."""
    async with nats.connect("api") as bus:
        yield bus


@pytest.fixture
def store(bus: Bus) -> Store[Function]:
    """The bucket of functions."""
    return Store(bus, FUNCTIONS, Function)


def a_function(user: str | None = None, name: str = "upper") -> Function:
    """Make a registration."""
    return Function(
        id=new_id(),
        user_id=UserId(user or new_id()),
        name=FunctionName(name),
        image="busybox",
        created_at=1,
        updated_at=1,
    )


async def test_an_entry_reads_as_it_was_written(store: Store[Function]) -> None:
    """What was confirmed is read back equal, at the revision that the write told."""
    function = a_function()

    revision = await store.create(function.key, function)
    entry = await store.get(function.key)

    assert entry is not None
    assert (entry.value, entry.revision) == (function, revision)


async def test_one_of_many_racing_creates_wins(store: Store[Function]) -> None:
    """Of 40 racing creates of one key exactly one succeeds, and the entry is that one's."""
    user = new_id()
    contenders = [a_function(user) for _ in range(40)]

    results = await asyncio.gather(*(store.create(one.key, one) for one in contenders), return_exceptions=True)

    winners = [one for one, result in zip(contenders, results, strict=True) if isinstance(result, int)]
    entry = await store.get(winners[0].key)
    assert len(winners) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 39
    assert entry is not None
    assert entry.value == winners[0]


async def test_one_of_many_racing_updates_wins(store: Store[Function]) -> None:
    """Of 40 racing updates at one revision exactly one succeeds."""
    function = a_function()
    revision = await store.create(function.key, function)

    results = await asyncio.gather(
        *(store.update(function.key, replace(function, id=new_id()), revision=revision) for _ in range(40)),
        return_exceptions=True,
    )

    assert sum(isinstance(result, int) for result in results) == 1


async def test_a_deleted_entry_is_gone_and_its_key_free(store: Store[Function]) -> None:
    """After a deletion there is nothing to read, and the key can be created anew."""
    function = a_function()
    revision = await store.create(function.key, function)

    await store.delete(function.key, revision=revision)
    assert await store.get(function.key) is None
    await store.create(function.key, replace(function, id=new_id()))

    assert await store.get(function.key) is not None


async def test_a_deletion_that_is_late_changes_nothing(store: Store[Function]) -> None:
    """Deleting at an old revision is a conflict, and the entry stays."""
    function = a_function()
    old = await store.create(function.key, function)
    changed = replace(function, image="other")
    await store.update(function.key, changed, revision=old)

    with pytest.raises(Conflict):
        await store.delete(function.key, revision=old)

    entry = await store.get(function.key)
    assert entry is not None
    assert entry.value == changed


async def test_an_entry_lives_as_long_as_it_was_given(store: Store[Function]) -> None:
    """A write with a time to live is removed by the server; an update sets it anew."""
    function = a_function()
    revision = await store.create(function.key, function, ttl_s=3600)
    await store.update(function.key, replace(function, image="other"), revision=revision, ttl_s=1)

    async with asyncio.timeout(10):
        while await store.get(function.key):
            await asyncio.sleep(0.1)


async def test_keys_are_those_below_the_prefix(store: Store[Function]) -> None:
    """An owner's list has the owner's keys only, sorted, also where one id begins another."""
    mine, other = new_id(), new_id()
    for name in ("b", "a", "c"):
        await store.create(f"{mine}.{name}", a_function(mine, name))
    await store.create(f"{other}.x", a_function(other, "x"))

    assert await store.keys(mine) == [f"{mine}.a", f"{mine}.b", f"{mine}.c"]
    assert len(await store.keys()) == 4
    assert await store.keys(new_id()) == []


async def test_a_write_whose_answer_was_lost_is_recognised(nats: Installation, store: Store[Function]) -> None:
    """
    A server frozen during a write makes it without telling: the repeated write finds its own bytes and is no conflict.
    """
    function = a_function()
    revision = await store.create(function.key, function)
    changed = replace(function, image="other")

    nats.server.freeze()
    writing = asyncio.create_task(store.update(function.key, changed, revision=revision))
    await asyncio.sleep(6)  # beyond the first attempt's time-out; the server still has its bytes to read
    nats.server.thaw()

    assert await writing > revision
    entry = await store.get(function.key)
    assert entry is not None
    assert entry.value == changed


async def test_a_server_without_a_leader_is_asked_again(nats: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that is told that JetStream has no leader just now is repeated; another refusal is final at once."""
    function = a_function()
    refusals = [10008, 10008]
    asked = 0

    async with nats.connect("admin") as admin:

        async def answer(message: Msg) -> None:
            nonlocal asked
            asked += 1
            if refusals:
                error = {"code": 503, "err_code": refusals.pop(), "description": "temporarily unavailable"}
                await message.respond(json.dumps({"error": error}).encode())
            else:
                leader = await admin.client.request(message_get(kv_stream(FUNCTIONS)), message.data)
                await message.respond(leader.data)

        await admin.client.subscribe("stand.in", cb=answer)
        store = Store(admin, FUNCTIONS, Function)
        await store.create(function.key, function)
        monkeypatch.setattr("mayfly.bus.messages.message_get", lambda *_: "stand.in")

        entry = await store.get(function.key)
        assert entry is not None
        assert entry.value == function
        assert asked == 3

        refusals.append(10052)
        with pytest.raises(QueueUnavailable):
            await store.get(function.key)
        assert asked == 4


async def test_without_a_server_nothing_hangs(nats: Installation, store: Store[Function]) -> None:
    """With nats-server gone a read fails when no leader can be expected any more, and works again when it is back."""
    function = a_function()
    await store.create(function.key, function)

    await nats.server.kill()
    with pytest.raises(QueueUnavailable):
        async with asyncio.timeout(FAILOVER_S + 3):
            await store.get(function.key)
    await nats.server.restart()

    async with asyncio.timeout(15):
        while True:
            try:
                entry = await store.get(function.key)
                break
            except QueueUnavailable:
                await asyncio.sleep(0.1)
    assert entry is not None
    assert entry.value == function


async def test_a_long_list_of_keys_lets_others_have_their_turn(
    store: Store[Function], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than so many keys are dealt with at a time, and between two portions whoever else is ready has a turn."""
    monkeypatch.setattr("mayfly.bus.store.PORTION", 5)
    user = new_id()
    for number in range(23):
        function = a_function(user, f"f{number}")
        await store.create(function.key, function)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    busy = asyncio.create_task(other())
    portions, seen = [], []
    async for portion in store.portions(user):
        portions.append(portion)
        seen.append(turns)
    busy.cancel()

    assert [len(portion) for portion in portions] == [5, 5, 5, 5, 3]
    assert sorted(key for portion in portions for key in portion) == await store.keys(user)
    assert len(set(seen)) == len(seen)


async def test_keys_that_are_written_with_escapes_are_listed(bus: Bus, nats: Installation) -> None:
    """JSON escapes some characters; nothing of ours has any in a key, and a list shows what is there all the same."""
    odd = 'a"b\\:1,"c'
    async with nats.connect("admin") as admin:
        await admin.js.publish(kv_subject(FUNCTIONS, f"x.{odd}"), b"")
        await admin.js.publish(kv_subject(FUNCTIONS, "x.<é>"), b"")
        keys = await Store(bus, FUNCTIONS, Function).keys("x")

    assert keys == ["x.<é>", f"x.{odd}"]


async def test_more_keys_than_fit_into_one_answer_are_all_listed(bus: Bus, store: Store[Function]) -> None:
    """nats-server names 100,000 at a time; who has more is shown the last ones, too."""
    user = new_id()
    for number in range(100_003):
        publish = bus.js.publish if number % 500 == 2 else bus.client.publish  # now and then until it is stored
        await publish(kv_subject(FUNCTIONS, f"{user}.f{number:06}"), b"x")
    keys = await store.keys(user)

    assert len(keys) == 100_003
    assert keys[-1] == f"{user}.f100002"


async def headers_of(bus: Bus, key: str) -> str:
    """Read the headers of the last message of a key."""
    query = json.dumps({"last_by_subj": kv_subject(FUNCTIONS, key)}).encode()
    answer = json.loads((await bus.client.request(message_get(kv_stream(FUNCTIONS)), query)).data)
    return base64.b64decode(answer["message"]["hdrs"]).decode()


async def test_a_tombstone_lives_as_long_as_what_it_replaces(bus: Bus, store: Store[Function]) -> None:
    """For ever where the value had no time to live; else with that time, counted anew."""
    lasting, passing = a_function(), a_function()
    await store.delete(lasting.key, revision=await store.create(lasting.key, lasting))
    await store.delete(passing.key, revision=await store.create(passing.key, passing, ttl_s=7200))

    assert "KV-Operation: PURGE" in await headers_of(bus, lasting.key)
    assert "Nats-TTL" not in await headers_of(bus, lasting.key)
    assert "Nats-TTL: 7200" in await headers_of(bus, passing.key)


async def test_what_was_deleted_is_not_there_after_a_kill(nats: Installation, bus: Bus, store: Store[Function]) -> None:
    """Not when its tombstone is still there, and not when that has expired; what was kept, is."""
    kept, lasting, passing = a_function(), a_function(), a_function()
    await store.create(kept.key, kept)
    for function, ttl_s in ((lasting, None), (passing, SHORT_S)):
        revision = await store.create(function.key, function, ttl_s=ttl_s)
        await store.delete(function.key, revision=revision)
    for _ in range(20):  # others' writes behind them, so that the server has to read all of it again
        await store.put(kept.key, kept)
    async with asyncio.timeout(10):
        while passing.key in await store.keys():
            await asyncio.sleep(0.1)
    await nats.server.restart()

    assert await store.get(kept.key)
    assert await store.get(lasting.key) is None
    async with asyncio.timeout(10):  # its own time was over before: the server needs a moment to see that
        while await store.get(passing.key):
            await asyncio.sleep(0.05)


async def test_a_deletion_loses_to_a_change(store: Store[Function]) -> None:
    """What changed after it was read is not deleted."""
    function = a_function()
    revision = await store.create(function.key, function)
    await store.update(function.key, function, revision=revision)

    with pytest.raises(Conflict):
        await store.delete(function.key, revision=revision)
    assert await store.get(function.key)
