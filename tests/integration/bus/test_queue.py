"""The work stream: exact admission, claims, and what happens when a claim is not settled."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace as replace_queued
from typing import Any
from unittest.mock import ANY

import pytest
from msgspec.structs import replace

from mayfly.bus import messages, queue
from mayfly.bus.connection import Bus
from mayfly.bus.queue import (
    Claim,
    Inventory,
    PullLoop,
    Queued,
    Refused,
    delete_if_there,
    delete_queued,
    find_queued,
    in_flight,
    submit,
    walk,
)
from mayfly.bus.schema import bootstrap, limits_in_force
from mayfly.bus.subjects import ACT, act
from mayfly.domain.activation import Work
from mayfly.domain.errors import PreconditionFailed, QueueUnavailable
from mayfly.domain.ids import UserId, new_id
from mayfly.domain.limits import TIMEOUT_MAX_S
from tests.support.bus import Installation, installation
from tests.unit.worker.test_call import some_work

pytestmark = [pytest.mark.A3, pytest.mark.F13]


@pytest.fixture
async def nats() -> AsyncIterator[Installation]:
    """A fresh nats-server with M=8 and U=4."""
    async with installation(max_activations=8, max_activations_per_user=4) as made:
        yield made


@pytest.fixture
async def bus(nats: Installation) -> AsyncIterator[Bus]:
    """A connection that may do everything."""
    async with nats.connect("admin") as bus:
        yield bus


class Puller:
    """A worker's side of the queue: claims what comes for its slots and keeps it."""

    def __init__(self, bus: Bus, *, slots: int) -> None:
        """Begin pulling."""
        self.claims: asyncio.Queue[Claim] = asyncio.Queue()
        self.held = 0
        self._slots = slots
        self.loop = PullLoop(bus, free_slots=lambda: self._slots - self.held, on_claim=self._on_claim)
        self._task = asyncio.create_task(self.loop.run())

    def _on_claim(self, claim: Claim) -> None:
        self.held += 1
        self.claims.put_nowait(claim)

    async def next(self) -> Claim:
        """The next claim."""
        async with asyncio.timeout(10):
            return await self.claims.get()

    async def finish(self, claim: Claim) -> None:
        """Ack a claim and free its slot."""
        await claim.ack()
        self.held -= 1
        self.loop.slot_freed()

    async def stop(self) -> None:
        """Pull nothing more."""
        self.loop.stop()
        await self._task


async def test_the_stream_admits_exactly_the_limits(nats: Installation) -> None:
    """Of 200 racing submissions of 10 users on 4 connections 8 are admitted, no user more than 4; others learn why."""
    works = [_work_of(user) for user in [new_id() for _ in range(10)] for _ in range(20)]
    connections = [nats.connect("api") for _ in range(4)]
    buses = [await connection.__aenter__() for connection in connections]
    try:
        results = await asyncio.gather(
            *(submit(buses[i % 4], work, wait_s=0) for i, work in enumerate(works)), return_exceptions=True
        )
    finally:
        for connection in connections:
            await connection.__aexit__(None, None, None)

    admitted = Counter(work.user_id for work, result in zip(works, results, strict=True) if isinstance(result, int))
    refused = [result for result in results if isinstance(result, Refused)]
    assert sum(admitted.values()) == 8
    assert max(admitted.values()) <= 4
    assert len(refused) == 192
    assert {one.scope for one in refused} <= {"platform", "user"}


async def test_a_user_at_the_limit_leaves_room_for_others(bus: Bus) -> None:
    """The fifth submission of one user is refused for the user, while another user's is admitted."""
    first, second = new_id(), new_id()
    for _ in range(4):
        await submit(bus, _work_of(first), wait_s=0)

    with pytest.raises(Refused) as caught:
        await submit(bus, _work_of(first), wait_s=0)
    await submit(bus, _work_of(second), wait_s=0)

    assert caught.value.scope == "user"
    assert (await in_flight(bus), await in_flight(bus, first)) == (5, 4)


async def test_a_delivered_message_still_counts(bus: Bus) -> None:
    """What runs is in flight as what waits is; only the ack makes room, and then for exactly one."""
    user = new_id()
    puller = Puller(bus, slots=8)
    for _ in range(4):
        await submit(bus, _work_of(user), wait_s=0)
    claims = [await puller.next() for _ in range(4)]

    with pytest.raises(Refused):
        await submit(bus, _work_of(user), wait_s=0)
    await puller.finish(claims[0])
    await submit(bus, _work_of(user), wait_s=0)
    with pytest.raises(Refused):
        await submit(bus, _work_of(user), wait_s=0)
    await puller.stop()


async def test_a_full_stream_is_asked_again_for_a_while(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot that frees within the admission wait is taken instead of a refusal."""
    publish, refused = queue._publish, asyncio.Event()

    async def publishing(*given: Any) -> int:
        try:
            return await publish(*given)
        except Refused:
            refused.set()
            raise

    monkeypatch.setattr(queue, "_publish", publishing)
    user = new_id()
    puller = Puller(bus, slots=8)
    for _ in range(4):
        await submit(bus, _work_of(user), wait_s=0)
    claim = await puller.next()

    waiting = asyncio.create_task(submit(bus, _work_of(user), wait_s=5))
    await asyncio.wait_for(refused.wait(), 5)
    await puller.finish(claim)

    assert await waiting > 0
    await puller.stop()


async def test_waiting_for_a_slot_counts_for_the_time_limit(bus: Bus) -> None:
    """The worker is told what is left of a call's time when its message is taken, not when it was first offered."""
    user, puller = new_id(), Puller(bus, slots=8)
    for _ in range(4):
        await submit(bus, _work_of(user), wait_s=0)
    claims = [await puller.next() for _ in range(4)]
    late = _work_of(user)

    waiting = asyncio.create_task(submit(bus, late, wait_s=5))
    await asyncio.sleep(0.5)
    await puller.finish(claims[0])
    await waiting
    claim = await puller.next()

    assert claim.work.ulid == late.ulid
    assert 0 < claim.work.budget_s <= late.budget_s - 0.5
    await puller.stop()


async def test_a_submission_repeated_is_admitted_once(bus: Bus) -> None:
    """An activation submitted again, as after a lost answer, takes no second slot, even when the stream is full."""
    works = [_work_of(user) for user in (new_id(), new_id()) for _ in range(4)]
    places = [await submit(bus, work, wait_s=0) for work in works]

    assert [await submit(bus, work, wait_s=0) for work in works] == places
    assert await in_flight(bus) == 8


async def test_an_id_is_remembered_as_long_as_an_activation_can_wait(bus: Bus) -> None:
    """Forgotten earlier, a call that is asked for again would be queued twice, or refused for its own first message."""
    assert ((await bus.js.stream_info(ACT)).config.duplicate_window or 0) > TIMEOUT_MAX_S


async def test_a_worker_is_given_no_more_than_its_slots(nats: Installation, bus: Bus) -> None:
    """With 8 waiting and 3 slots, 3 are claimed; the others stay for whoever has room."""
    for user in (new_id(), new_id()):
        for _ in range(4):
            await submit(bus, _work_of(user), wait_s=0)
    async with nats.connect("worker") as small_bus, nats.connect("worker") as large_bus:
        small = Puller(small_bus, slots=3)
        first = [await small.next() for _ in range(3)]
        large = Puller(large_bus, slots=8)
        others = [await large.next() for _ in range(5)]

        assert small.claims.empty()
        assert len({claim.work.ulid for claim in first + others}) == 8
        await small.stop()
        await large.stop()


async def test_a_claim_has_its_parameter_once(bus: Bus) -> None:
    """It may have 1 MiB, and many run at once: a claim needs of the message where to ack it, and not its content."""
    work = replace(_work_of(new_id()), parameter=bytes(100_000))
    puller = Puller(bus, slots=1)
    await submit(bus, work, wait_s=0)
    claim = await puller.next()

    assert claim.work.parameter == work.parameter
    assert sum(sys.getsizeof(each) for each in vars(claim._message).values() if isinstance(each, bytes)) < 1000
    await puller.finish(claim)
    await puller.stop()


async def test_pulling_goes_on_past_the_first_batch(bus: Bus) -> None:
    """A worker that works off one activation after the other never stops asking: 60 in a row, none later than 2 s."""
    puller = Puller(bus, slots=8)
    for _ in range(60):
        work = _work_of(new_id())
        await submit(bus, work, wait_s=0)
        async with asyncio.timeout(2):
            claim = await puller.claims.get()
        assert claim.work.ulid == work.ulid
        await puller.finish(claim)
    await puller.stop()


async def test_what_is_given_back_goes_to_another(nats: Installation, bus: Bus) -> None:
    """A claim that a stopping worker gives back is delivered again at once."""
    await submit(bus, _work_of(new_id()), wait_s=0)
    async with nats.connect("worker") as first_bus, nats.connect("worker") as second_bus:
        first = Puller(first_bus, slots=1)
        claim = await first.next()
        await first.stop()
        await claim.give_back()
        second = Puller(second_bus, slots=1)

        again = await second.next()

        assert again.work.ulid == claim.work.ulid
        assert again.deliveries == 2
        await second.stop()


async def test_a_message_that_cannot_be_read_stops_nobody(bus: Bus) -> None:
    """A poisoned message is put off, and the next one is claimed."""
    await bus.js.publish(act(new_id()), b"\xc1 not MessagePack")
    puller = Puller(bus, slots=1)
    work = _work_of(new_id())
    await submit(bus, work, wait_s=0)

    assert (await puller.next()).work.ulid == work.ulid
    await puller.stop()


async def test_pulling_survives_a_restart_of_nats(nats: Installation) -> None:
    """After nats-server was killed and started again, what was queued is claimed, without anybody's doing."""
    async with nats.connect("worker") as worker_bus, nats.connect("api") as api_bus:
        puller = Puller(worker_bus, slots=2)
        await nats.server.kill()
        await nats.server.restart()
        work = _work_of(new_id())
        async with asyncio.timeout(20):
            await _submit_when_back(api_bus, work)
            claim = await puller.claims.get()

        assert claim.work.ulid == work.ulid
        await puller.stop()


async def test_a_message_is_deleted_only_where_it_lies(bus: Bus) -> None:
    """Where another one lies at its sequence by now, as after a restore, or none, nothing is deleted."""
    first, second = (_work_of(new_id()) for _ in range(2))
    for work in (first, second):
        await submit(bus, work, wait_s=0)
    one, other = [queued async for queued in walk(bus)]

    assert not await delete_if_there(bus, replace_queued(one, seq=other.seq))
    assert await in_flight(bus) == 2
    assert await delete_if_there(bus, one)
    assert not await delete_if_there(bus, one)
    assert [queued.key async for queued in walk(bus)] == [second.key]


async def test_walking_sees_all_and_claims_nothing(bus: Bus) -> None:
    """The janitor's walk reads each message once, the oldest first, and a deletion frees the slot of just that one."""
    works = [_work_of(new_id()) for _ in range(5)]
    for work in works:
        await submit(bus, work, wait_s=0)

    seen = [queued async for queued in walk(bus)]
    assert await delete_queued(bus, seen[2].seq)
    assert not await delete_queued(bus, seen[2].seq), "it is not there any more"

    assert [queued.key for queued in seen] == [work.key for work in works]
    assert [queued.key async for queued in walk(bus)] == [work.key for work in (*works[:2], *works[3:])]


async def test_a_walk_ends_however_many_come_meanwhile(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees what lay there when it began; of one user, if that is asked for."""
    ann, bob = new_id(), new_id()
    works = [_work_of(ann), _work_of(bob), _work_of(ann)]
    for work in works:
        await submit(bus, work, wait_s=0)
    asked = messages.read

    async def reading(*given: Any, **which: Any) -> messages.Stored | None:
        await submit(bus, _work_of(new_id()), wait_s=0)
        return await asked(*given, **which)

    monkeypatch.setattr(messages, "read", reading)
    async with asyncio.timeout(10):
        assert [queued.key async for queued in walk(bus)] == [work.key for work in works]
    monkeypatch.undo()

    assert [queued.key async for queued in walk(bus, of=ann)] == [works[0].key, works[2].key]
    assert await find_queued(bus, ann, works[2].key) == Queued(works[2].key, 3, ANY)
    assert await find_queued(bus, ann, works[1].key) is None


async def test_an_inventory_reads_each_message_once(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    However often it is taken; what came since is in it, what was forgotten or is before the first one is not, nor what
    nobody here can read.
    """
    read: list[int] = []
    asked = messages.read

    async def reading(*given: Any, **which: Any) -> messages.Stored | None:
        stored = await asked(*given, **which)
        read.extend([stored.seq] if stored else [])
        return stored

    monkeypatch.setattr(messages, "read", reading)
    inventory = Inventory(bus)
    seqs = [await submit(bus, _work_of(new_id()), wait_s=0) for _ in range(4)]
    assert [each.seq for each in await inventory.take()] == seqs
    seqs.append(await submit(bus, _work_of(new_id()), wait_s=0))
    assert [each.seq for each in await inventory.take()] == seqs
    assert read == seqs

    for seq in (seqs[0], seqs[2]):
        assert await delete_queued(bus, seq)
    left = await inventory.take()
    assert [each.seq for each in left] == seqs[1:]
    inventory.forget(left[1])
    assert [each.seq for each in await inventory.take()] == [seqs[1], seqs[3], seqs[4]]
    assert read == seqs

    await bus.js.publish(act(new_id()), b"of a later version")
    for _ in range(2):
        await inventory.take()
    assert read == [*seqs, seqs[-1] + 1]


async def test_an_inventory_is_taken_anew_now_and_then(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was forgotten by mistake is found again; and after a restore, that has the sequences begin anew, all is."""
    inventory = Inventory(bus)
    seq = await submit(bus, _work_of(new_id()), wait_s=0)
    [queued] = await inventory.take()
    inventory.forget(queued)
    assert await inventory.take() == []
    monkeypatch.setattr("mayfly.bus.queue.READ_ANEW_S", 0.0)
    assert [each.seq for each in await inventory.take()] == [seq]

    monkeypatch.setattr("mayfly.bus.queue.READ_ANEW_S", 3600.0)
    for _ in range(3):
        await submit(bus, _work_of(new_id()), wait_s=0)
    assert len(await inventory.take()) == 4
    config = (await bus.js.stream_info("ACT")).config
    await bus.js.delete_stream("ACT")
    await bus.js.add_stream(config)
    seq = await submit(bus, _work_of(new_id()), wait_s=0)
    assert [each.seq for each in await inventory.take()] == [seq] == [1]


async def test_bootstrap_can_be_repeated_and_raises_limits(nats: Installation, bus: Bus) -> None:
    """Making the shapes again changes nothing; higher limits are in force at once, with activations in flight."""
    assert await bootstrap(bus, nats.bootstrap_settings) == []
    for _ in range(4):
        await submit(bus, _work_of(new_id()), wait_s=0)

    higher = nats.bootstrap_settings.model_copy(update={"max_activations": 16, "max_activations_per_user": 8})
    await bootstrap(bus, higher)

    assert await limits_in_force(bus) == (16, 8)
    assert await in_flight(bus) == 4


async def test_bootstrap_refuses_to_drop_activations(nats: Installation, bus: Bus) -> None:
    """The limit per user is not lowered while something is in flight: NATS would delete the oldest."""
    user = new_id()
    for _ in range(3):
        await submit(bus, _work_of(user), wait_s=0)
    lower = nats.bootstrap_settings.model_copy(update={"max_activations_per_user": 1})

    with pytest.raises(PreconditionFailed, match="from 4 to 1 while 3 activations are in flight"):
        await bootstrap(bus, lower)

    assert await in_flight(bus, user) == 3


async def test_the_limit_of_the_platform_is_lowered_under_way(nats: Installation, bus: Bus) -> None:
    """M below what is in flight deletes nothing; nobody is admitted until there is room under the new M."""
    works = [_work_of(new_id()) for _ in range(4)]
    for work in works:
        await submit(bus, work, wait_s=0)

    await bootstrap(bus, nats.bootstrap_settings.model_copy(update={"max_activations": 3}))

    assert await in_flight(bus) == 4
    with pytest.raises(Refused):
        await submit(bus, _work_of(new_id()), wait_s=0)
    for queued in [queued async for queued in walk(bus)][:2]:
        await delete_queued(bus, queued.seq)
    await submit(bus, _work_of(new_id()), wait_s=0)
    assert await in_flight(bus) == 3


async def test_without_a_maximum_nobody_is_refused() -> None:
    """With both limits `none`, 300 submissions of one user are all admitted."""
    async with (
        installation(max_activations="none", max_activations_per_user="none") as nats,
        nats.connect("api") as bus,
    ):
        user = new_id()
        await asyncio.gather(*(submit(bus, _work_of(user), wait_s=0) for _ in range(300)))

        assert await in_flight(bus) == 300
        assert await limits_in_force(bus) == (None, None)


def _work_of(user: str) -> Work:
    work = some_work()
    user_id = UserId(user)
    record, function = replace(work.record, user_id=user_id), replace(work.function, user_id=user_id)
    return replace(work, user_id=user_id, record=record, function=function)


async def _submit_when_back(bus: Bus, work: Work) -> None:
    while True:
        try:
            await submit(bus, work, wait_s=0)
        except QueueUnavailable:
            await asyncio.sleep(0.1)
        else:
            return
