"""
A worker and an API server's invoker on a real nats-server, over a runtime that starts nothing: each way that an
activation can go, and who gets its slot back.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack

import pytest
from msgspec.structs import replace
from nats.aio.msg import Msg

from mayfly.bus.queue import delete_queued, in_flight, submit
from mayfly.bus.responses import read_response
from mayfly.bus.store import Entry
from mayfly.bus.stores import Stores
from mayfly.bus.subjects import kv_subject, owns
from mayfly.containers.fake import ending
from mayfly.domain.activation import Activation, State, Work
from mayfly.domain.errors import (
    FunctionFailed,
    Gone,
    ImageUnavailable,
    LimitReached,
    RuntimeFailed,
    TimedOut,
    WorkerLost,
)
from mayfly.domain.function import Network
from mayfly.domain.ids import WorkerId, new_id
from mayfly.domain.limits import Limits
from mayfly.domain.worker import WorkerBeat
from mayfly.services.activations import Activations
from mayfly.services.call import Call
from mayfly.services.invoke import Invoker
from mayfly.services.janitor import YOUNG_S, Janitor
from mayfly.services.settle import settle_lost
from mayfly.services.status import status
from mayfly.worker.incarnation import last_words
from mayfly.worker.loop import Worker
from mayfly.worker.run import Tools
from tests.support.world import KEEP_S, World

pytestmark = [pytest.mark.A5, pytest.mark.D2]


@pytest.mark.F9
@pytest.mark.F12
async def test_a_call_runs_once_and_leaves_a_record(world: World) -> None:
    """The result is the container's stdout; the record names worker, attempt and response; the slot is back."""
    function = await world.function()
    async with world.worker() as worker:
        assert await world.invoke(function, b"hello") == b"hello"
        await world.until(0)

    record = await world.record(function)
    assert (record.state, record.ran, record.worker) == (State.SUCCEEDED, "yes", worker._tools.worker_id)
    assert record.attempt
    response = await read_response(world.bus, record.key, attempt=record.attempt)
    assert response is not None
    assert response.result == b"hello"
    assert len(world.runtime.calls) == 1


async def test_a_hundred_calls_at_once_each_get_their_own_answer(world: World) -> None:
    """Answers are never mixed up, and no container runs two calls."""
    function = await world.function()
    world.invoker = Invoker(world.bus, world.stores, world.listener, wait_ms=150, keep_s=3600)  # the default: see F13
    room = asyncio.Semaphore(8)

    async def call(number: int) -> bytes:
        async with room:
            return await world.invoke(function, str(number).encode())

    async with world.worker(slots=8):
        results = await asyncio.gather(*(call(number) for number in range(100)))

    assert results == [str(number).encode() for number in range(100)]
    assert len({container for container, _ in world.runtime.calls}) == 100


async def test_a_call_that_waits_does_not_hold_its_parameter(world: World) -> None:
    """It lies in the queue: of an API server's memory a waiting call takes the same, however large its parameter is."""
    function = await world.function()
    parameter = bytes(1 << 20)
    before = sys.getrefcount(parameter)
    call = Call(function.user_id, function, parameter)
    calling = asyncio.create_task(world.invoker.invoke(call))
    await world.until(1)
    async with asyncio.timeout(10):
        while sys.getrefcount(parameter) > before:
            await asyncio.sleep(0.01)

    with pytest.raises(RuntimeError, match="in the queue"):
        _ = call.parameter
    async with world.worker():
        assert (await calling).result == parameter


@pytest.mark.F11
async def test_a_failure_is_told_and_recorded(world: World) -> None:
    """Exit code 3 is FunctionFailed with the code, in the answer and in the record alike."""
    world.runtime.script = lambda *_: ending(b"ignored", exit_code=3)
    function = await world.function()
    async with world.worker():
        with pytest.raises(FunctionFailed) as caught:
            await world.invoke(function)

    assert caught.value.members["exit_code"] == 3
    assert caught.value.ran == "yes"
    assert (await world.record(function)).state is State.FAILED


@pytest.mark.F6
async def test_an_image_that_cannot_be_had_runs_nothing(world: World) -> None:
    """A call whose image is gone ends as refused, with `ran: no`, and its slot comes back."""
    world.images.error = ImageUnavailable("manifest unknown")
    function = await world.function()
    async with world.worker():
        with pytest.raises(ImageUnavailable, match="manifest unknown") as caught:
            await world.invoke(function)
        await world.until(0)

    assert caught.value.ran == "no"
    assert (await world.record(function)).state is State.REFUSED
    assert world.runtime.calls == []


async def test_an_image_that_comes_too_late_runs_nothing(world: World) -> None:
    """When the time runs out while the image is fetched, the clock is `image` and nothing ran."""
    world.images.delay_s = 30
    function = await world.function(limits=Limits(timeout_s=1.6))  # not when the call is also looked for
    async with world.worker():
        with pytest.raises(TimedOut) as caught:
            await world.invoke(function)

    assert (caught.value.members["clock"], caught.value.ran) == ("image", "no")
    assert world.runtime.calls == []


async def test_a_runtime_that_fails_before_the_start(world: World) -> None:
    """A container that cannot be created is refused with `ran: no`."""
    world.runtime.create_error = RuntimeFailed("no room", ran="no")
    function = await world.function()
    async with world.worker():
        with pytest.raises(RuntimeFailed) as caught:
            await world.invoke(function)

    assert caught.value.ran == "no"
    assert (await world.record(function)).state is State.REFUSED


@pytest.mark.F9
async def test_a_container_is_its_functions_owners(world: World) -> None:
    """By him the machine's processor time is shared out."""
    function = await world.function()
    async with world.worker():
        await world.invoke(function)
        await world.invoke(function)

    assert [spec.owner for spec in world.runtime.created] == [function.user_id] * 2


@pytest.mark.D6
async def test_a_function_with_a_network_where_the_worker_has_none(world: World) -> None:
    """Refused with `ran: no` and the setting that helps; a worker that has one says so, and creates it with one."""
    function = await world.function(network=Network.EGRESS)
    async with world.worker() as worker:
        with pytest.raises(RuntimeFailed, match="MAYFLY_EGRESS=on") as caught:
            await world.invoke(function)
        assert caught.value.ran == "no"
        assert (await world.record(function)).state is State.REFUSED
        assert not worker._sign().egress

        world.runtime.offers_egress = True
        assert await world.invoke(function, b"hello") == b"hello"
        assert worker._sign().egress
    assert world.runtime.created[-1].network is Network.EGRESS


async def test_what_nobody_foresaw_is_tried_again_soon(world: World) -> None:
    """A call that a worker fails on before its start is given back, rather than kept until its time has run out."""
    function = await world.function()
    world.images.error = OSError("the disk has a bad day")
    async with world.worker():
        call = asyncio.create_task(world.invoke(function))
        async with asyncio.timeout(10):
            await world.images.asked.wait()
            world.images.error = None
            assert await call == b"x"

    assert len(world.runtime.calls) == 1
    await world.until(0)


async def test_a_runtime_that_fails_during_the_run(world: World) -> None:
    """A container that breaks during the run is failed, and `ran` says what the runtime knows."""
    world.runtime.script = lambda *_: RuntimeFailed("broken", ran="unknown")
    function = await world.function()
    async with world.worker():
        with pytest.raises(RuntimeFailed) as caught:
            await world.invoke(function)

    assert caught.value.ran == "unknown"
    assert (await world.record(function)).state is State.FAILED


@pytest.mark.F5
async def test_a_queued_call_of_a_deregistered_function_is_refused(world: World) -> None:
    """What waits while its function is deregistered, even if the name is registered anew, does not run."""
    function = await world.function()
    calling = asyncio.create_task(world.invoke(function))
    await world.until(1)
    entry = await world.stores.functions.get(function.key)
    assert entry
    await world.stores.functions.delete(function.key, revision=entry.revision)
    await world.stores.functions.create(function.key, replace(function, id=new_id()))

    async with world.worker():
        with pytest.raises(Gone) as caught:
            await calling

    assert caught.value.ran == "no"
    assert world.runtime.calls == []


@pytest.mark.F12
async def test_nobody_waits_longer_than_the_deadline(world: World) -> None:
    """Without a worker a call ends at its deadline: the clock is `queue`, nothing ran, and nothing will."""
    function = await world.function(limits=Limits(timeout_s=0.4))
    with pytest.raises(TimedOut) as caught:
        await world.invoke(function)
    assert (caught.value.members["clock"], caught.value.ran) == ("queue", "no")

    async with world.worker():
        await world.until(0)
    assert world.runtime.calls == []


@pytest.mark.F13
async def test_a_refused_call_is_recorded_as_refused(world: World) -> None:
    """The ninth call is refused with scope, limit, use and when to come back; its record says so, and it never runs."""
    function = await world.function()
    world.runtime.gate.clear()
    async with world.worker(slots=8):
        calls = [asyncio.create_task(world.invoke(function)) for _ in range(8)]
        await world.until_started(8)
        with pytest.raises(LimitReached) as caught:
            await world.invoke(await world.function())
        world.runtime.gate.set()
        await asyncio.gather(*calls)

    members = caught.value.members
    assert (members["scope"], members["limit"], members["in_use"]) == ("platform", 8, 8)
    assert caught.value.retry_after_s
    assert len(world.runtime.calls) == 8


async def test_the_start_fence_lets_one_worker_run_it(world: World) -> None:
    """A message delivered to two workers, as after a lost ack, is run by one of them."""
    function = await world.function()
    work = await world.queued(function)
    double = replace(work, ulid=work.ulid)
    async with world.worker() as first, world.worker() as second:
        await asyncio.gather(_deliver(first, work), _deliver(second, double))
        async with asyncio.timeout(10):
            while not (await world.record(function)).state.is_final:
                await asyncio.sleep(0.01)

    assert len(world.runtime.calls) == 1


async def test_a_message_without_a_record_is_never_run(world: World) -> None:
    """The record exists before the message; a message without one is taken out by the janitor and not run."""
    function = await world.function()
    work = await world.queued(function)
    entry = await world.stores.activations.get(work.key)
    assert entry
    await world.stores.activations.delete(work.key, revision=entry.revision)
    await submit(world.bus, work, wait_s=0)

    async with world.worker():
        async with asyncio.timeout(20):
            while await in_flight(world.bus):
                await world.janitor.sweep()
                await asyncio.sleep(0.1)

    assert world.runtime.calls == []


@pytest.mark.F11
async def test_a_worker_that_stops_finishes_what_runs(world: World) -> None:
    """Told to stop, a worker lets its calls end, and those that wait go to another."""
    function = await world.function()
    world.runtime.gate.clear()
    async with world.worker(slots=2):
        running = [asyncio.create_task(world.invoke(function, b"running")) for _ in range(2)]
        await world.until_started(2)
        waiting = asyncio.create_task(world.invoke(function, b"waiting"))
        await world.until(3)
        asyncio.get_running_loop().call_later(0.3, world.runtime.gate.set)

    assert await asyncio.gather(*running) == [b"running"] * 2
    async with world.worker():
        assert await waiting == b"waiting"


async def test_a_worker_that_may_not_wait_says_so(world: World) -> None:
    """Calls that do not end within the grace are killed, and their callers told that the worker was lost."""
    function = await world.function()
    world.runtime.gate.clear()
    async with world.worker(slots=2, grace_s=0.2):
        calling = asyncio.create_task(world.invoke(function))
        await world.until_started(1)

    with pytest.raises(WorkerLost) as caught:
        await calling
    assert caught.value.ran == "unknown"


async def test_a_caller_of_a_lost_worker_is_told_within_5_s(world: World) -> None:
    """When the worker of a running call is gone, its caller knows within 5 s, and the record says worker-lost."""
    function = await world.function()
    world.runtime.gate.clear()
    async with world.nats.connect("worker") as bus:
        tools = Tools(
            worker_id=WorkerId(new_id()),
            bus=bus,
            stores=Stores.on(bus),
            images=world.images,  # type: ignore[arg-type]
            runtime=world.runtime,
            keep_s=3600,
        )
        running = asyncio.create_task(Worker(tools, slots=1).run(asyncio.Event(), grace_s=0))
        calling = asyncio.create_task(world.invoke(function))
        await world.until_started(1)
        await bus.client.close()  # as when its process dies: the connection goes, and nothing more is said
        async with asyncio.timeout(5):
            with pytest.raises(WorkerLost) as caught:
                await calling
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    assert caught.value.ran == "unknown"
    assert (await world.record(function)).state is State.WORKER_LOST


async def test_a_caller_of_a_frozen_worker_is_told_within_5_s(world: World) -> None:
    """A worker that is there and says nothing is lost, too, also when it froze just after it had answered."""
    function = await world.function()
    worker_id, answered, frozen = WorkerId(new_id()), asyncio.Event(), asyncio.Event()

    async def owner(message: Msg) -> None:
        if not frozen.is_set():
            await message.respond(b"1")
            answered.set()

    async with world.nats.connect("worker") as bus:
        await bus.client.subscribe(owns(worker_id), cb=owner)
        calling = asyncio.create_task(world.invoke(function))
        await world.until(1)
        record = await world.record(function)
        entry = await world.stores.activations.get(record.key)
        assert entry
        running = record.moved(State.RUNNING, nonce=new_id(), worker=worker_id, attempt=new_id(), ran="unknown")
        await world.stores.activations.update(record.key, running, revision=entry.revision)
        for _ in range(5):  # by then the questions are as rare as they get
            answered.clear()
            await answered.wait()

        frozen.set()
        async with asyncio.timeout(5):
            with pytest.raises(WorkerLost) as caught:
                await calling

    assert caught.value.ran == "unknown"


async def test_a_container_whose_activation_was_settled_by_others_is_killed(world: World) -> None:
    """A worker that comes back after it was taken for lost does not run on for a caller who has been told."""
    function = await world.function()
    world.runtime.gate.clear()
    async with world.worker(slots=1):
        calling = asyncio.create_task(world.invoke(function))
        await world.until_started(1)
        [key] = await world.stores.activations.keys(function.user_id)
        entry = await world.stores.activations.get(key)
        assert entry
        assert await settle_lost(world.stores.activations, entry, keep_s=60)

        with pytest.raises(WorkerLost):
            await calling
        async with asyncio.timeout(5):
            while world.runtime.alive:
                await asyncio.sleep(0.01)

    assert (await world.record(function)).state is State.WORKER_LOST


@pytest.mark.F13
async def test_the_janitor_gives_back_what_was_left(world: World) -> None:
    """A message whose record is final, gone or out of time is removed; one that waits or runs is not."""
    janitor = Janitor(world.bus, world.stores, keep_s=3600)
    function = await world.function()
    final = await world.queued(function)
    gone = await world.queued(function)
    late = await world.queued(function, deadline_at=1.0)
    waiting = await world.queued(function)
    await world.move(final, State.REFUSED, ended_at=1.0)
    entry = await world.stores.activations.get(gone.key)
    assert entry
    await world.stores.activations.delete(gone.key, revision=entry.revision)

    async with asyncio.timeout(10):
        while await in_flight(world.bus) > 1:
            await janitor.sweep()
            await asyncio.sleep(0.1)

    assert await janitor.sweep() == 0
    ended = await world.stores.activations.get(late.key)
    assert ended
    assert (ended.value.state, ended.value.clock) == (State.TIMED_OUT, "queue")
    left = await world.stores.activations.get(waiting.key)
    assert left
    assert left.value.state is State.QUEUED


async def test_the_janitor_forgets_what_has_left_when_it_sees_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind one long call there may be thousands of short ones: none is looked at again once it is over and gone."""
    monkeypatch.setattr(Janitor, "_age_s", lambda *_: YOUNG_S + 1)
    janitor = Janitor(world.bus, world.stores, keep_s=3600)
    function = await world.function()
    long, short, left = [await world.queued(function) for _ in range(3)]
    queued = {each.key: each for each in await janitor._inventory.take()}
    await janitor.sweep()
    for ended in (short, left):
        await world.move(ended, State.REFUSED, ended_at=1.0)
    await delete_queued(world.bus, queued[short.key].seq)
    await janitor.sweep()

    assert [each.key for each in await janitor._inventory.take()] == [long.key, left.key]


@pytest.mark.F13
async def test_what_cannot_be_read_holds_up_nothing_else(world: World) -> None:
    """A record and a sign of life of a version that is unknown here: the janitor and the status go on with the rest."""
    function = await world.function()
    unreadable = await world.queued(function)
    await world.queued(function, deadline_at=1.0)
    await world.bus.client.publish(kv_subject("activations", unreadable.key), b"\x81\xa1v\x63")
    async with world.nats.connect("worker") as bus:
        await bus.js.publish(kv_subject("workers", new_id()), b"not a struct")
    janitor = Janitor(world.bus, world.stores, keep_s=3600)

    async with asyncio.timeout(10):
        while await in_flight(world.bus) > 1:
            await janitor.sweep()
            await asyncio.sleep(0.1)

    async with world.worker():
        async with asyncio.timeout(10):
            while len((now := await status(world.bus, world.stores, function.user_id)).workers) != 1:
                await asyncio.sleep(0.05)
    assert now.slots == 4


async def test_the_janitor_keeps_a_lost_workers_slot_for_a_while(world: World) -> None:
    """The record of a call whose worker is gone ends at once; its slot stays taken while its container may live."""
    janitor = Janitor(world.bus, world.stores, keep_s=3600)
    work = await world.queued(await world.function())
    await world.move(work, State.RUNNING, worker=WorkerId(new_id()), attempt=new_id())

    await _swept(janitor, world, work, State.WORKER_LOST)

    assert await janitor.sweep() == 0
    assert await in_flight(world.bus) == 1


async def test_a_worker_that_is_proved_gone_gives_its_slot_back_at_once(world: World) -> None:
    """With its last words there is nothing to wait for; that it is not heard of alone proves nothing."""
    janitor = Janitor(world.bus, world.stores, keep_s=3600)
    work, worker_id = await world.queued(await world.function()), WorkerId(new_id())
    await world.move(work, State.RUNNING, worker=worker_id, attempt=new_id())
    await _swept(janitor, world, work, State.WORKER_LOST)
    assert await janitor.sweep() == 0
    async with world.nats.connect("worker") as bus:
        await Stores.on(bus).workers.put(worker_id, last_words(worker_id, world.runtime))

    assert await janitor.sweep() == 1
    assert await in_flight(world.bus) == 0


async def test_the_fence_is_over_only_when_it_has_been_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A janitor that has just been started, or whose clock is wrong by an hour, does not take a loss for an old one."""
    monkeypatch.setattr("mayfly.services.janitor.FENCE_S", 4.0)
    work = await world.queued(await world.function())
    waiting = await world.queued(await world.function())
    await world.move(work, State.RUNNING, worker=WorkerId(new_id()), attempt=new_id())
    await _swept(Janitor(world.bus, world.stores, keep_s=3600), world, work, State.WORKER_LOST)
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 3600)

    janitor, began = Janitor(world.bus, world.stores, keep_s=3600), time.monotonic()
    async with asyncio.timeout(15):
        while not await janitor.sweep():
            await asyncio.sleep(0.1)

    assert time.monotonic() - began > 4
    entry = await world.stores.activations.get(waiting.key)
    assert entry
    assert entry.value.state is State.QUEUED


async def test_one_record_that_cannot_be_read_holds_up_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one read hangs, the others' slots come back; and so does this one's, when it can be read."""
    monkeypatch.setattr("mayfly.services.janitor.LOOK_S", 1.0)
    function = await world.function()
    works = [await world.queued(function) for _ in range(5)]
    for work in works:
        await world.move(work, State.REFUSED, ended_at=1.0)
    janitor, hangs, read = Janitor(world.bus, world.stores, keep_s=3600), asyncio.Event(), world.stores.activations.get

    async def get(key: str) -> Entry[Activation] | None:
        if key == works[0].key:
            await hangs.wait()
        return await read(key)

    monkeypatch.setattr(world.stores.activations, "get", get)
    async with asyncio.timeout(20):
        while await in_flight(world.bus) > 1:
            await janitor.sweep()
            await asyncio.sleep(0.1)
        hangs.set()
        while await in_flight(world.bus):
            await janitor.sweep()
            await asyncio.sleep(0.1)


async def test_a_lost_workers_message_is_no_other_workers_to_settle(world: World) -> None:
    """Delivered again, it is left to the janitor: acked, it would give the slot back while the container may live."""
    work = await world.queued(await world.function())
    await world.move(work, State.RUNNING, worker=WorkerId(new_id()), attempt=new_id())
    await world.move(work, State.WORKER_LOST, ended_at=1.0)
    async with world.worker() as worker:
        await _until_idle_after_a_claim(worker)

    assert await in_flight(world.bus) == 1
    assert world.runtime.calls == []


async def test_what_has_not_started_is_given_back_at_once(world: World) -> None:
    """A worker that stops while an image is fetched or a container is made lets another one have the call."""
    for stage in ("image", "container"):
        function = await world.function()
        world.images.delay_s = 60 if stage == "image" else 0
        world.runtime.may_create.clear()
        async with world.worker() as first:
            call = asyncio.create_task(world.invoke(function, stage.encode()))
            async with asyncio.timeout(10):
                while not first._runs:
                    await asyncio.sleep(0.01)
                if stage == "container":
                    await world.runtime.asked_to_create.wait()
        world.images.delay_s = 0
        world.runtime.may_create.set()
        async with world.worker(), asyncio.timeout(5):  # less than any redelivery would take
            assert await call == stage.encode()
        assert (await world.record(function)).worker != first._tools.worker_id
    assert world.runtime.alive == {}


async def test_a_worker_that_leaves_says_so_and_then_that_it_is_gone(world: World) -> None:
    """While it finishes what runs its sign of life has `draining`; when nothing is left, `gone`, and it stays."""
    function = await world.function()
    world.runtime.gate.clear()
    workers = world.stores.workers
    async with world.worker() as worker:
        worker_id = worker._tools.worker_id
        call = asyncio.create_task(world.invoke(function))
        await world.until_started(1)
        leaving = asyncio.create_task(_beat_of(world, worker_id, "draining"))
        leaving.add_done_callback(lambda _: world.runtime.gate.set())
    assert (await leaving).running == 1
    assert await call == b"x"
    entry = await workers.get(worker_id)
    assert entry
    assert entry.value.gone
    assert (await status(world.bus, world.stores, function.user_id)).workers == ()


async def test_a_worker_that_may_have_left_a_container_does_not_say_that_it_is_gone(world: World) -> None:
    """Where a container could not be removed there is no proof; its slot waits for the fence."""
    world.runtime.script = lambda *_: RuntimeFailed("it goes on", ran="unknown")
    world.runtime.remove_error = RuntimeFailed("it is stuck")
    async with world.worker() as worker:
        with pytest.raises(RuntimeFailed):
            await world.invoke(await world.function())
    entry = await world.stores.workers.get(worker._tools.worker_id)
    assert entry is None or not entry.value.gone


@pytest.mark.F11
async def test_a_rolling_restart_of_the_workers_fails_no_call(world: World) -> None:
    """Two workers are replaced one after the other, twice, under load: each call is answered, and run once."""
    function = await world.function()
    world.invoker = Invoker(world.bus, world.stores, world.listener, wait_ms=1000, keep_s=3600)
    is_over, answered = asyncio.Event(), 0

    async def load(number: int) -> None:
        nonlocal answered
        while not is_over.is_set():
            parameter = f"{number} {answered}".encode()
            assert await world.invoke(function, parameter) == parameter
            answered += 1

    async with AsyncExitStack() as first, AsyncExitStack() as second:
        workers = (first, second)
        for stack in workers:
            await stack.enter_async_context(world.worker(slots=4))
        callers = [asyncio.create_task(load(number)) for number in range(6)]
        for index in (0, 1, 0, 1):
            enough = answered + 50
            while answered < enough and not any(caller.done() for caller in callers):
                await asyncio.sleep(0.01)
            await workers[index].aclose()
            await workers[index].enter_async_context(world.worker(slots=4))
        is_over.set()
        await asyncio.gather(*callers)

    assert len(world.runtime.calls) == answered >= 200


async def _beat_of(world: World, worker_id: WorkerId, word: str) -> WorkerBeat:
    async with asyncio.timeout(10):
        while True:
            entry = await world.stores.workers.get(worker_id)
            if entry and getattr(entry.value, word):
                return entry.value
            await asyncio.sleep(0.02)


async def _swept(janitor: Janitor, world: World, work: Work, state: State) -> None:
    """Sweep until the record is in this state."""
    async with asyncio.timeout(10):
        while True:
            await janitor.sweep()
            entry = await world.stores.activations.get(work.key)
            assert entry
            if entry.value.state is state:
                return
            await asyncio.sleep(0.1)


async def _until_idle_after_a_claim(worker: Worker) -> None:
    async with asyncio.timeout(10):
        while not worker._runs:
            await asyncio.sleep(0)
        while worker._runs:
            await asyncio.sleep(0.01)


class _Delivery:
    """A claim that did not come from the stream, for a message delivered twice."""

    admitted_at = 1.0
    queued_s = 0.0
    stream_seq = 1
    deliveries = 2

    def __init__(self, work: Work) -> None:
        self.work = work

    async def ack(self) -> None:
        """Nobody has it."""

    keep = ack


async def _deliver(worker: Worker, work: Work) -> None:
    worker._on_claim(_Delivery(work))  # type: ignore[arg-type]


async def test_whoever_reads_a_call_that_nobody_ends_ends_it(world: World) -> None:
    """A queued record without a message, out of time, is shown as timed out, by itself and in the list."""
    function = await world.function()
    activations = Activations(world.bus, world.stores, world.listener, keep_s=KEEP_S)
    shown, listed = [await world.queued(function, deadline_at=1.0) for _ in range(2)]

    assert (await activations.get(function.user_id, shown.record.id)).state is State.TIMED_OUT
    records, _ = await activations.list(function.user_id, limit=10)
    assert {record.state for record in records} == {State.TIMED_OUT}
    entry = await world.stores.activations.get(listed.key)
    assert entry
    assert (entry.value.state, entry.value.ran) == (State.TIMED_OUT, "no")
