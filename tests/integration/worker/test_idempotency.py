"""Idempotency-Key: one run for a key, whoever asks how often, through which API server, and whatever crashes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs
from nats.errors import FlushTimeoutError

from mayfly.bus.places import Places
from mayfly.bus.queue import SubmitUnknown, in_flight
from mayfly.bus.store import Entry, Store
from mayfly.bus.subjects import ACTIVATIONS, kv_stream, kv_subject, places_of
from mayfly.containers.fake import ending
from mayfly.domain.activation import Activation, State
from mayfly.domain.errors import FunctionFailed, Gone, IdempotencyConflict, LimitReached, QueueUnavailable, TimedOut
from mayfly.domain.function import Function
from mayfly.domain.idempotency import IdempotencyEntry, entry_key, request_sha256
from mayfly.domain.ids import FunctionName, UserId, new_id, new_ulid
from mayfly.domain.limits import Limits
from mayfly.services.call import Call, CallOptions
from mayfly.services.idempotency import ADOPT_AFTER_S, ADOPT_UNTIL_S
from mayfly.services.invoke import Invoker
from tests.support.world import KEEP_S, World, a_world

pytestmark = [pytest.mark.A2, pytest.mark.F12]

KEY = CallOptions(idempotency_key="invoice 4711")


@pytest.fixture
async def other(world: World) -> AsyncIterator[World]:
    """A second API server of the same installation; the workers are the first world's."""
    async with a_world(world.nats) as other:
        yield other


async def test_asking_again_gets_the_first_outcome(world: World, other: World) -> None:
    """The same key gives the same result from either API server, and the function has run once."""
    function = await world.function()
    async with world.worker():
        first = await world.invoker.invoke(Call(function.user_id, function, b"x", KEY))
        again = await world.invoker.invoke(Call(function.user_id, function, b"x", KEY))
        elsewhere = await other.invoker.invoke(Call(function.user_id, function, b"x", KEY))

    assert first.result == again.result == elsewhere.result == b"x"
    assert first.activation.id == again.activation.id == elsewhere.activation.id
    assert len(world.runtime.calls) == 1


async def test_fifty_racing_calls_with_one_key_run_once(world: World, other: World) -> None:
    """Of 50 identical calls at once over two API servers one runs; all get its result, and one slot was used."""
    function = await world.function()
    async with world.worker():
        results = await asyncio.gather(
            *((world if n % 2 else other).invoke(function, b"x", KEY) for n in range(50)),
        )
        await world.until(0)

    assert results == [b"x"] * 50
    assert len(world.runtime.calls) == 1
    assert len(await world.stores.activations.keys(function.user_id)) == 1


async def test_a_failure_is_an_outcome_as_well(world: World) -> None:
    """A call that ran and failed fails again in the same words, and does not run again."""
    world.runtime.script = lambda *_: ending(b"", exit_code=3)
    function = await world.function()
    async with world.worker():
        for _ in range(2):
            with pytest.raises(FunctionFailed) as caught:
                await world.invoke(function, b"x", KEY)
            assert (caught.value.members["exit_code"], caught.value.ran) == (3, "yes")

    assert len(world.runtime.calls) == 1


async def test_another_call_with_a_used_key_is_a_conflict(world: World) -> None:
    """Another parameter, or another function, with a used key is refused, and runs nothing."""
    function = await world.function()
    namesake = await _second_function(world, function)
    async with world.worker():
        await world.invoke(function, b"x", KEY)
        for called, parameter in ((function, b"y"), (namesake, b"x")):
            with pytest.raises(IdempotencyConflict) as caught:
                await world.invoke(called, parameter, KEY)
            assert (caught.value.ran, caught.value.members["field"]) == ("no", "Idempotency-Key")

    assert len(world.runtime.calls) == 1


async def test_keys_are_each_users_own(world: World) -> None:
    """Two users may choose the same key; neither learns of the other's call."""
    ann, bob = await world.function(), await world.function()
    async with world.worker():
        assert await world.invoke(ann, b"ann", KEY) == b"ann"
        assert await world.invoke(bob, b"bob", KEY) == b"bob"


async def test_while_the_first_runs_the_second_waits_for_it(world: World, other: World) -> None:
    """A second call joins the one that runs, through another API server too, and gets its result when it has ended."""
    world.runtime.gate.clear()
    function = await world.function()
    async with world.worker():
        first = asyncio.create_task(world.invoke(function, b"x", KEY))
        await world.until_started(1)
        second = asyncio.create_task(other.invoke(function, b"x", KEY))
        async with asyncio.timeout(10):
            while not other.listener._waiters:
                await asyncio.sleep(0.01)
        assert not first.done()
        world.runtime.gate.set()
        assert list(await asyncio.gather(first, second)) == [b"x", b"x"]

    assert len(world.runtime.calls) == 1


async def test_a_second_call_with_less_time_does_not_end_the_first(world: World) -> None:
    """A call that joins another waits for it with that one's time, and takes none of it away."""
    function = await world.function()
    first = asyncio.create_task(world.invoke(function, b"x", KEY))
    await world.until(1)
    second = asyncio.create_task(world.invoke(function, b"x", replace(KEY, timeout_s=0.2)))
    await asyncio.wait({first, second}, timeout=2, return_when=asyncio.FIRST_COMPLETED)

    assert not first.done()
    async with world.worker():
        assert list(await asyncio.gather(first, second)) == [b"x", b"x"]


async def test_a_call_that_waits_in_the_queue_is_joined_and_not_queued_again(world: World, other: World) -> None:
    """While no worker has a slot the second call waits for the same message: one is in flight, not two."""
    function = await world.function()
    first = asyncio.create_task(world.invoke(function, b"x", KEY))
    await world.until(1)
    second = asyncio.create_task(other.invoke(function, b"x", KEY))
    await asyncio.wait({second}, timeout=1.5)  # longer than it waits before it queues the message itself

    assert await in_flight(world.bus) == 1
    async with world.worker():
        assert list(await asyncio.gather(first, second)) == [b"x", b"x"]
    assert len(world.runtime.calls) == 1


async def test_a_second_call_that_a_new_limit_keeps_out_does_not_end_the_first(world: World, other: World) -> None:
    """A limit that was set since the first call was queued is not that call's: it runs, and both get its result."""
    function = await world.function()
    first = asyncio.create_task(world.invoke(function, b"x", KEY))
    await world.until(1)
    of = places_of(function.user_id, function.id)
    await Places(world.bus).take(of, 1, holder=new_id(), ttl_s=60)
    limited = structs.replace(function, limits=Limits(max_concurrency=1))
    second = asyncio.create_task(other.invoke(limited, b"x", KEY))
    await asyncio.wait({first, second}, timeout=ADOPT_AFTER_S + 1, return_when=asyncio.FIRST_COMPLETED)

    assert [first.done(), second.done()] == [False, False]
    async with world.worker():
        assert list(await asyncio.gather(first, second)) == [b"x", b"x"]


async def test_what_did_not_run_frees_its_key(world: World) -> None:
    """A call refused for a limit may be repeated with its key; then it runs."""
    function = await world.function()
    for _ in range(8):
        await world.queued(function)
    with pytest.raises(LimitReached):
        await world.invoke(function, b"mine", KEY)
    assert await world.stores.idempotency.get(entry_key(function.user_id, "invoice 4711")) is None

    async with world.worker(slots=8):
        await world.until(0)
        assert await world.invoke(function, b"mine", KEY) == b"mine"


async def test_a_key_that_nobody_freed_is_freed_by_the_next_call(world: World) -> None:
    """Where the API server died between a call's end without a run and the freeing of its key, the next call runs."""
    function = await _function_with_a_leftover_key(world)

    async with world.worker():
        assert await world.invoke(function, b"x", KEY) == b"x"


async def test_a_key_that_nobody_freed_is_not_claimed_by_a_call_that_cannot_begin(world: World) -> None:
    """It is freed, and the call is refused as one without a key: nobody is to find a key that no call stands behind."""
    function = await _function_with_a_leftover_key(world)
    _close(world)
    with pytest.raises(QueueUnavailable, match="full") as caught:
        await world.invoke(function, b"x", KEY)

    assert caught.value.ran == "no"
    assert await world.stores.idempotency.get(entry_key(function.user_id, KEY.idempotency_key or "")) is None


async def test_a_first_call_that_died_before_its_record_is_carried_on(world: World) -> None:
    """A key without a record, as a killed API server leaves it: the next call runs, as that very activation."""
    function = await world.function()
    entry = await _claim(world, function, ulid=new_ulid(), instance=new_id())
    async with world.worker():
        succeeded = await world.invoker.invoke(Call(function.user_id, function, b"x", KEY))

    assert succeeded.result == b"x"
    assert succeeded.activation.key == entry.activation_key
    assert len(world.runtime.calls) == 1


async def test_a_first_call_that_died_before_its_message_is_carried_on(world: World) -> None:
    """A queued record without a message, as a killed API server leaves it: the next call queues it, once."""
    function = await world.function()
    entry = await _claim(world, function, ulid=new_ulid(), instance=new_id())
    record = _record(world, function, entry)
    await world.stores.activations.create(record.key, record, ttl_s=60)
    async with world.worker():
        results = await asyncio.gather(*(world.invoke(function, b"x", KEY) for _ in range(3)))

    assert results == [b"x"] * 3
    assert len(world.runtime.calls) == 1


async def test_a_first_call_that_cannot_be_carried_on_yet_is_left_open(world: World) -> None:
    """
    Its API server died before its message, and now the queue is full: who asks again is told so at once and that nobody
    knows, whether he waits for the result or not. No place stays taken. When there is room the next one queues it.
    """
    function = await world.function(limits=Limits(max_concurrency=9))
    record = await _queued_without_message(world, function)
    for _ in range(8):
        await world.queued(function)
    for ask in (world.invoker.invoke, world.invoker.submit):
        async with asyncio.timeout(ADOPT_AFTER_S + 2):
            with pytest.raises(QueueUnavailable) as caught:
                await ask(Call(function.user_id, function, b"x", KEY))
        assert (caught.value.ran, caught.value.members["activation_id"]) == ("unknown", record.id)
        assert caught.value.retry_after_s
        assert [taken async for taken in Places(world.bus).all_taken()] == []

    async with world.worker(slots=8):
        await world.until(0)
        assert await world.invoke(function, b"x", KEY) == b"x"
    assert len(world.runtime.calls) == 9


async def test_a_call_that_may_yet_be_queued_keeps_its_place(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can say whether its message was stored. If it comes late it runs, so its place is not another's."""
    monkeypatch.setattr("mayfly.services.admission.submit", _submit_unanswered)
    function = await world.function(limits=Limits(max_concurrency=1))
    record = await _queued_without_message(world, function)
    with pytest.raises(QueueUnavailable) as caught:
        await world.invoke(function, b"x", KEY)

    assert caught.value.ran == "unknown"
    assert [taken.holder async for taken in Places(world.bus).all_taken()] == [record.key]


async def test_a_slow_first_call_that_was_carried_on_is_in_doubt(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one has made its record meanwhile. Whether that queued it, nobody says: it may run."""

    async def silent(*_: object, **__: object) -> None:
        raise QueueUnavailable

    monkeypatch.setattr("mayfly.services.admission.submit", _submit_unanswered)
    monkeypatch.setattr("mayfly.services.admission.find_queued", silent)
    function = await world.function()
    record = await _queued_without_message(world, function)
    call = Call(function.user_id, function, b"x", KEY)
    with pytest.raises(QueueUnavailable) as caught:
        await world.invoker._admission.admit(call, structs.replace(record, nonce=new_id()))

    assert caught.value.ran == "unknown"


async def test_the_place_of_a_first_call_that_died_is_not_given_to_another(world: World) -> None:
    """It may have been slow only. So who fails to carry it on frees no place but what he took himself."""
    function = await world.function(limits=Limits(max_concurrency=1))
    record = await _queued_without_message(world, function)
    of = places_of(function.user_id, function.id)
    taken = await Places(world.bus).take(of, 1, holder=record.key, ttl_s=60)
    for _ in range(8):
        await world.queued(function)
    with pytest.raises(QueueUnavailable):
        await world.invoke(function, b"x", KEY)

    assert [each async for each in Places(world.bus).all_taken()] == [taken]


async def test_a_first_call_that_was_not_queued_in_its_time_frees_its_key(world: World) -> None:
    """Nor is it told to be under way to who does not wait: its time is over, and it is called anew."""
    function = await world.function()
    record = await _queued_without_message(world, function, seconds=-1)
    with pytest.raises(TimedOut) as caught:
        await world.invoker.submit(Call(function.user_id, function, b"x", KEY))
    assert (caught.value.ran, caught.value.members["activation_id"]) == ("no", record.id)

    async with world.worker():
        assert await world.invoke(function, b"x", KEY) == b"x"


async def test_a_full_store_does_not_keep_out_who_joins_a_call(world: World, other: World) -> None:
    """The first call has its room. Its caller who asks again is not told that nothing was run, but its result."""
    function = await world.function()
    first = asyncio.create_task(world.invoke(function, b"x", KEY))
    await world.until(1)
    _close(other)
    with pytest.raises(QueueUnavailable, match="full"):
        await other.invoke(function, b"x")
    second = asyncio.create_task(other.invoke(function, b"x", KEY))
    await asyncio.wait({second}, timeout=ADOPT_AFTER_S + 1)

    async with world.worker():
        assert list(await asyncio.gather(first, second)) == [b"x", b"x"]


async def test_a_retry_after_the_api_server_died_gets_the_first_outcome(world: World, other: World) -> None:
    """The API server of a running call dies; its caller asks again through another one and gets that call's result."""
    world.runtime.gate.clear()
    function = await world.function()
    async with world.worker():
        first = asyncio.create_task(world.invoke(function, b"x", KEY))
        await world.until_started(1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)

        retry = asyncio.create_task(other.invoke(function, b"x", KEY))
        world.runtime.gate.set()
        assert await retry == b"x"

    assert len(world.runtime.calls) == 1


async def test_who_asks_again_is_never_told_that_it_did_not_run(
    world: World, other: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Whichever of its questions about the first call NATS leaves unanswered: `unknown`. When all are answered, it is the
    first result.
    """
    function = await world.function()
    async with world.worker():
        assert await world.invoke(function, b"x", KEY) == b"x"
    read, asked, unanswered = Store.get, 0, 0

    async def get(store: Store[Any], key: str) -> Entry[Any] | None:
        nonlocal asked
        asked += 1
        if asked == unanswered:
            raise QueueUnavailable
        return await read(store, key)

    monkeypatch.setattr(Store, "get", get)
    for unanswered in (1, 2, 3):  # the key, whether its call ran, how it stands
        asked = 0
        with pytest.raises(QueueUnavailable) as caught:
            await other.invoke(function, b"x", KEY)
        assert (caught.value.ran, asked) == ("unknown", unanswered)
    assert await other.invoke(function, b"x", KEY) == b"x"


async def test_who_asks_again_while_the_connection_changes_over_gets_the_outcome(
    world: World, other: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server that was to say that it listens is gone; the next one says it."""
    function = await world.function()
    async with world.worker():
        assert await world.invoke(function, b"x", KEY) == b"x"
    flush, asked = other.bus.client.flush, 0

    async def unanswered_once(timeout: int = 10) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise FlushTimeoutError
        await flush(timeout)

    monkeypatch.setattr(other.bus.client, "flush", unanswered_once)
    assert await other.invoke(function, b"x", KEY) == b"x"
    assert asked == 2


async def test_what_cannot_begin_claims_no_key(world: World) -> None:
    """Nobody could free it again. Refused are a call without room for its outcome, and one that arrived too late."""
    function = await world.function()
    late = replace(KEY, received_at=time.monotonic() - 3600)
    with pytest.raises(TimedOut):
        await world.invoker.invoke(Call(function.user_id, function, b"x", late))
    _close(world)
    with pytest.raises(QueueUnavailable, match="full") as caught:
        await world.invoke(function, b"x", KEY)

    assert caught.value.ran == "no"
    assert await world.stores.idempotency.keys() == []


async def test_who_asks_again_too_late_gets_the_outcome(world: World) -> None:
    """His own time was over when his request had arrived. The first call's was not, and it has ended well."""
    function = await world.function()
    async with world.worker():
        assert await world.invoke(function, b"x", KEY) == b"x"
    late = replace(KEY, received_at=time.monotonic() - 3600)

    assert (await world.invoker.invoke(Call(function.user_id, function, b"x", late))).result == b"x"


async def test_a_first_call_for_which_there_is_no_room_is_left_open(world: World) -> None:
    """Its API server died before its record, and now the store is full: nobody says that it did not run."""
    function = await world.function()
    entry = await _claim(world, function, ulid=new_ulid(), instance=new_id())
    _close(world)
    with pytest.raises(QueueUnavailable) as caught:
        await world.invoke(function, b"x", KEY)

    record = _record(world, function, entry)
    assert (caught.value.ran, caught.value.members["activation_id"]) == ("unknown", record.id)


async def test_an_outcome_that_is_gone_is_not_made_again(world: World) -> None:
    """Where a key has outlived its record, the function may have run: it does not run again."""
    function = await world.function()
    await _claim(world, function, ulid=new_ulid(world.bus.clock.now() - ADOPT_UNTIL_S), instance=new_id())
    async with world.worker():
        with pytest.raises(Gone) as caught:
            await world.invoke(function, b"x", KEY)

    assert caught.value.ran == "unknown"
    assert world.runtime.calls == []


async def test_a_running_record_lives_as_long_as_a_key(world: World) -> None:
    """While a call runs its record is kept as long as its key, so that no outage makes the next one a first call."""
    world.runtime.gate.clear()
    function = await world.function()
    world.invoker = Invoker(world.bus, world.stores, world.listener, wait_ms=0, keep_s=86_400)
    async with world.worker() as worker:
        worker._tools = replace(worker._tools, keep_s=86_400)
        calling = asyncio.create_task(world.invoke(function, b"x", KEY))
        await world.until_started(1)
        subject = kv_subject(ACTIVATIONS, (await world.record(function)).key)
        stored = await world.bus.js.get_last_msg(kv_stream(ACTIVATIONS), subject)
        world.runtime.gate.set()
        await calling

    assert float((stored.headers or {})["Nats-TTL"].removesuffix("s")) >= 86_400


async def test_an_asynchronous_call_with_a_used_key_is_answered_with_the_first_one(world: World, other: World) -> None:
    """As it stands by then, whichever API server is asked; and nobody goes on following it."""
    world.runtime.gate.clear()
    function = await world.function()
    async with world.worker():
        first = await world.invoker.submit(Call(function.user_id, function, b"x", KEY))
        await world.until_started(1)
        for asked in (world, other):
            again = await asked.invoker.submit(Call(function.user_id, function, b"x", KEY))
            assert (again.id, again.state) == (first.id, State.RUNNING)
            assert again.created_at == first.created_at
        async with asyncio.timeout(10):
            while other.invoker._on_their_own or len(world.invoker._on_their_own) > 1:
                await asyncio.sleep(0.01)
        world.runtime.gate.set()
        await world.until(0)
        assert (await other.invoker.submit(Call(function.user_id, function, b"x", KEY))).state is State.SUCCEEDED

    assert len(world.runtime.calls) == 1


async def _second_function(world: World, function: Function) -> Function:
    """Another function of the same user."""
    other = Function(
        id=new_id(),
        user_id=function.user_id,
        name=FunctionName("g"),
        image="busybox",
        digest=function.digest,
        created_at=1,
        updated_at=1,
    )
    await world.stores.functions.create(other.key, other)
    return other


async def _claim(world: World, function: Function, *, ulid: str, instance: str) -> IdempotencyEntry:
    """Write the entry of a first call with `KEY`, and do nothing more: its API server has died."""
    entry = IdempotencyEntry(
        user_id=UserId(function.user_id),
        instance=instance,
        ulid=ulid,
        request_sha256=request_sha256(function.name, b"x"),
    )
    await world.stores.idempotency.create(entry_key(function.user_id, "invoice 4711"), entry, ttl_s=KEEP_S)
    return entry


async def _function_with_a_leftover_key(world: World) -> Function:
    """Its call has ended without a run, and the API server died before it freed the key."""
    function = await world.function()
    with pytest.raises(TimedOut):
        await world.invoke(function, b"x", replace(KEY, timeout_s=0.3))
    record = await world.record(function)
    await _claim(world, function, ulid=record.ulid, instance=record.instance)
    return function


async def _submit_unanswered(*_: object, **__: object) -> int:
    raise SubmitUnknown


def _close(world: World) -> None:
    """Let its API server find the store full."""
    guard = world.invoker._admission._guard
    guard._trouble, guard._looked_at = "full", time.monotonic()


async def _queued_without_message(world: World, function: Function, *, seconds: float = 30) -> Activation:
    """A first call whose API server died between its record and its message, with so much time left."""
    entry = await _claim(world, function, ulid=new_ulid(), instance=new_id())
    record = _record(world, function, entry)
    record = structs.replace(record, deadline_at=record.created_at + seconds)
    await world.stores.activations.create(record.key, record, ttl_s=60)
    return record


def _record(world: World, function: Function, entry: IdempotencyEntry) -> Activation:
    now = world.bus.clock.now()
    return Activation(
        state=State.QUEUED,
        nonce=new_id(),
        user_id=function.user_id,
        instance=entry.instance,
        ulid=entry.ulid,
        function=function.name,
        function_id=function.id,
        image=function.image,
        digest=function.digest,
        parameter_bytes=1,
        parameter_sha256="",
        created_at=now,
        deadline_at=now + 30,
    )
