"""
A store that is full: JetStream at its limit, the disk at its end, or one stream that refuses. New calls are refused
before anything runs, and those under way keep their outcome.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from nats.js.errors import APIError

from mayfly.bus import subjects
from mayfly.bus.connection import Bus
from mayfly.bus.health import StoreUsage
from mayfly.bus.queue import in_flight
from mayfly.bus.room import Room, StoreRefuses, read_room, try_response
from mayfly.domain.errors import QueueUnavailable
from mayfly.domain.limits import MIB
from mayfly.ops.nats_config import STORE_BYTES
from mayfly.services.janitor import FENCE_S
from mayfly.services.room import BETWEEN_LOOKS, CALL_BYTES, MARGIN_BYTES, Guard, reserve_bytes
from mayfly.worker.run import Run
from tests.support.bus import Installation, installation
from tests.support.cluster import cluster
from tests.support.need import need
from tests.support.whole import Whole, assert_refused, whole

pytestmark = [pytest.mark.A3, pytest.mark.F9, pytest.mark.F12]

M = 4
STORE = 400 * MIB  # a little more than the trail reserves
SMALL: dict[str, Any] = {"responses_max_bytes": 4 * MIB, "max_activations": M, "max_activations_per_user": M}
FILLED = "KV_idempotency"
AN_ENTRY = b"x" * 4_000


@pytest.fixture
async def nats() -> AsyncIterator[Installation]:
    """A server that may store little, and M=4."""
    async with installation(store_bytes=STORE, **SMALL) as made:
        yield made


@pytest.fixture
async def bus(nats: Installation) -> AsyncIterator[Bus]:
    """An admin's connection."""
    async with nats.connect("admin") as bus:
        yield bus


@pytest.fixture
async def system(nats: Installation, tmp_path: Path) -> AsyncIterator[Whole]:
    """An API server and a worker on it."""
    async with whole(nats, tmp_path) as made:
        yield made


async def fill(bus: Bus, *, down_to: int) -> None:
    """Store things until there is no more room than that."""
    number, largest = 0, 3 * MIB
    while (free := int((await read_room(bus)).free_bytes)) > down_to:
        size = min(largest, free - down_to)
        try:
            await bus.js.publish(f"$KV.idempotency.filled.{number}", b"x" * max(1, size - 200))
        except APIError:
            if size <= 300:
                return
            largest = size // 2
        number += 1


async def make_room(bus: Bus) -> None:
    """Remove what `fill` has stored."""
    await bus.js.purge_stream(FILLED)


async def until_empty(bus: Bus) -> None:
    """Wait until nothing is in flight, not even a slot whose worker was lost."""
    async with asyncio.timeout(FENCE_S + 15):
        while await in_flight(bus):
            await asyncio.sleep(0.1)


async def change(bus: Bus, stream: str, **config: Any) -> dict[str, Any]:
    """Change the configuration of a stream; what it was."""
    before = (await bus.js.stream_info(stream)).config
    await bus.js.update_stream(before.evolve(**config))
    return {name: getattr(before, name) for name in config}


async def test_a_nearly_full_store_refuses_new_calls_and_keeps_room_for_those_under_way(
    system: Whole, bus: Bus
) -> None:
    """While less is free than the admitted calls may need, a new one gets 503 and leaves no record; one that runs ends
    with the largest result there can be; and when there is room again, calls are taken again by themselves."""
    system.runtime.gate.clear()
    parameter = b"y" * MIB
    running = asyncio.create_task(system.call(parameter))
    await system.until_running(1)
    await fill(bus, down_to=M * CALL_BYTES + MARGIN_BYTES - MIB)
    await system.api.event("room.closed")

    refused = await system.call(b"refused")

    assert_refused(refused)
    assert refused.headers["Retry-After"] == "5"
    assert len(await system.records()) == 1
    system.runtime.gate.set()
    answer = await running
    assert (answer.status_code, answer.content) == (200, parameter)
    await make_room(bus)
    await system.api.event("room.open")
    assert (await system.call(b"after")).content == b"after"
    assert system.started == [parameter, b"after"]


async def test_at_the_limit_an_outcome_waits_for_room(system: Whole, bus: Bus) -> None:
    """Even when JetStream refuses every write, a call under way is run once, and answered as soon as there is room."""
    system.runtime.gate.clear()
    running = asyncio.create_task(system.call(b"y" * MIB))
    await system.until_running(1)
    await fill(bus, down_to=0)
    await system.api.event("room.closed")
    system.runtime.gate.set()
    await system.until_running(0)

    assert_refused(await system.call(b"refused"))
    with pytest.raises(APIError) as refusal:
        await bus.js.publish("$KV.idempotency.one-more", AN_ENTRY)
    assert refusal.value.err_code == 10002, "resource limits exceeded for account"
    await make_room(bus)

    answer = await running
    assert (answer.status_code, len(answer.content)) == (200, MIB)
    assert len(system.started) == 1
    await system.until_it_works()


async def test_an_outcome_that_cannot_be_written_is_told_as_unknown(
    system: Whole, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the response is refused for as long as a worker offers it, the caller learns that his worker is lost and
    that nobody knows whether it ran, and so says the record; its slot comes back, and it does not run again."""
    monkeypatch.setitem(Run._persistently.__kwdefaults__ or {}, "for_s", 2.0)
    system.runtime.gate.clear()
    running = asyncio.create_task(system.call())
    await system.until_running(1)
    before = await change(bus, subjects.RESPONSES, max_msg_size=1)
    await system.api.event("room.closed")
    assert_refused(await system.call(b"refused"))
    system.runtime.gate.set()

    answer = await running

    assert (answer.status_code, answer.json()["code"], answer.json()["ran"]) == (502, "worker-lost", "unknown")
    record = await system.record(answer.json()["activation_id"])
    assert (record["state"], record["ran"]) == ("worker-lost", "unknown")
    await change(bus, subjects.RESPONSES, **before)
    await system.until_it_works()
    await until_empty(bus)
    assert system.started == [b"x", b"again"]


async def test_records_that_are_refused_keep_calls_out(system: Whole, bus: Bus) -> None:
    """When the bucket of records takes nothing, a new call is refused at once and none runs; one that runs is answered
    when the bucket takes its end."""
    system.runtime.gate.clear()
    running = asyncio.create_task(system.call())
    await system.until_running(1)
    before = await change(bus, subjects.kv_stream(subjects.ACTIVATIONS), max_bytes=1)

    assert_refused(await system.call(b"refused"))
    system.runtime.gate.set()
    await system.until_running(0)
    await change(bus, subjects.kv_stream(subjects.ACTIVATIONS), **before)

    assert (await running).content == b"x"
    assert system.started == [b"x"]
    await system.until_it_works()


async def test_a_queue_that_refuses_runs_nothing(system: Whole, bus: Bus) -> None:
    """When the work stream takes nothing for another reason than a limit, the call is refused and so is its record."""
    before = await change(bus, subjects.ACT, max_msg_size=1)

    refused = await system.call(b"refused")

    assert_refused(refused)
    record = await system.record(refused.json()["activation_id"])
    assert (record["state"], record["ran"]) == ("refused", "no")
    await change(bus, subjects.ACT, **before)
    await system.until_it_works()
    assert system.started == [b"again"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    need(os.geteuid() == 0, "root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@asynccontextmanager
async def full(disk: Path) -> AsyncIterator[None]:
    """Fill it with something else than NATS's, to the last byte."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65_536, 4_096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    yield
    ballast.unlink()


async def test_on_a_full_disk_nothing_new_runs_and_no_outcome_is_lost(small_disk: Path, tmp_path: Path) -> None:
    """
    When the disk's end comes before JetStream's limit, the streams that meet it take nothing any more, without a word.
    New calls are refused; one that runs is answered once there is room and nats-server was restarted; each ran once.
    """
    directory = tmp_path / "api"
    directory.mkdir()
    async with installation(store=small_disk, **SMALL) as nats, whole(nats, directory) as system:
        await system.until_it_works(b"before")
        system.runtime.gate.clear()
        running = asyncio.create_task(system.call(b"y" * MIB))
        await system.until_running(1)
        async with full(small_disk):
            system.runtime.gate.set()
            await system.until_running(0)
            await system.api.event("room.closed")
            assert_refused(await system.call(b"refused"))
            assert not running.done()
        await nats.server.restart()

        answer = await running
        assert (answer.status_code, len(answer.content)) == (200, MIB)
        await system.until_it_works(b"after")
        assert system.started == [b"before", b"y" * MIB, b"after"]
        async with nats.connect("admin") as bus:
            await until_empty(bus)


def test_the_reserve_is_what_admitted_calls_may_need() -> None:
    """It is for M calls, or for those in flight and the ones that may come until the next look, if that is less."""

    def a_room(in_flight: int, most: int | None) -> Room:
        return Room(StoreUsage(0, None), copies=3, in_flight=in_flight, most_in_flight=most)

    assert reserve_bytes(a_room(0, 8)) == reserve_bytes(a_room(8, 8)) == MARGIN_BYTES + 8 * CALL_BYTES
    for most in (None, 10_000):
        assert reserve_bytes(a_room(100, most)) == MARGIN_BYTES + (100 + BETWEEN_LOOKS) * CALL_BYTES


@pytest.mark.D4
async def test_in_a_cluster_room_is_counted_once_for_three_copies() -> None:
    """What JetStream says of an account is of all copies; what may still be written is a third of it."""
    async with cluster() as nats, nats.connect("admin") as admin, nats.connect("api") as api:
        before = await read_room(api)
        for number in range(4):
            await admin.js.publish(f"$KV.idempotency.filled.{number}", b"x" * MIB)
        async with asyncio.timeout(20):
            while (now := await read_room(api)).store.size_bytes < before.store.size_bytes + 3 * 4 * MIB:
                await asyncio.sleep(0.1)

        assert now.copies == 3
        assert now.store.max_bytes == 3 * (STORE_BYTES - STORE_BYTES // 16)
        assert 4 * MIB <= before.free_bytes - now.free_bytes < 5 * MIB


async def test_an_api_server_may_ask_and_try(nats: Installation) -> None:
    """With an API server's permissions the room is read and a response tried; what is tried is soon gone."""
    async with nats.connect("api") as api, nats.connect("admin") as admin:
        room = await read_room(api)
        assert (room.copies, room.in_flight, room.most_in_flight) == (1, 0, M)
        assert 0 < room.free_bytes <= STORE
        await try_response(api)
        async with asyncio.timeout(5):
            while (await admin.js.stream_info(subjects.RESPONSES)).state.messages:
                await asyncio.sleep(0.05)
        await change(admin, subjects.RESPONSES, max_msg_size=1)
        with pytest.raises(StoreRefuses):
            await try_response(api)


async def test_a_question_that_nobody_got_is_not_held_against_the_store(
    nats: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asked before a new leader had to be there. One that was asked later is, and calls are kept out."""
    monkeypatch.setattr("mayfly.services.room.FAILOVER_S", 1.0)
    async with nats.connect("api") as api:
        guard = Guard(api)
        await guard.check()  # which looks, and somebody has asked
        nats.server.freeze()
        await guard.look()  # which waits longer for its answer than a change of leader takes here
        await guard.check()
        await guard.look()
        with pytest.raises(QueueUnavailable, match="has not answered"):
            await guard.check()
        nats.server.thaw()


async def test_a_guard_sits_out_a_short_silence(nats: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not answer keeps calls out only after the time that a change of leader may take."""
    async with nats.connect("api") as api:
        guard = Guard(api)
        await guard.look()
        nats.server.freeze()
        await guard.look()
        await guard.check()
        monkeypatch.setattr("mayfly.services.room.FAILOVER_S", 0.0)
        await guard.look()
        with pytest.raises(QueueUnavailable) as refused:
            await guard.check()
        assert (refused.value.ran, refused.value.retry_after_s) == ("no", 5.0)
        nats.server.thaw()
        async with asyncio.timeout(10):
            while guard._trouble:
                await guard.look()
