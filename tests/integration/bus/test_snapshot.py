"""Streams as archives: what is saved comes back, between one server and a cluster too, and a failure leaves no half."""

from __future__ import annotations

import asyncio
import json
import os

import pytest
from nats.aio.msg import Msg

from mayfly.bus import snapshot as snapshots
from mayfly.bus.connection import Bus
from mayfly.bus.snapshot import StreamState, empty, replace, snapshot, stream_state
from mayfly.domain.errors import PreconditionFailed, QueueUnavailable
from tests.support.bus import Installation
from tests.support.cluster import cluster

pytestmark = [pytest.mark.A3, pytest.mark.A4]

STREAM = "KV_functions"


async def fill(bus: Bus, *, entries: int, size: int = 100) -> dict[str, bytes]:
    """Write entries that do not compress, and return them."""
    written = {f"$KV.functions.u{number}.f": os.urandom(size) for number in range(entries)}
    for subject, value in written.items():
        await bus.js.publish(subject, value)
    return written


async def content(bus: Bus) -> dict[str, bytes]:
    """Everything in the bucket."""
    info = await bus.js.stream_info(STREAM, subjects_filter=">")
    found = [await bus.js.get_last_msg(STREAM, subject) for subject in info.state.subjects or ()]
    return {message.subject or "": message.data or b"" for message in found}


async def saved(bus: Bus) -> tuple[StreamState, list[bytes]]:
    """Save the bucket."""
    async with snapshot(bus, STREAM) as taken:
        return taken.stood, [chunk async for chunk in taken.chunks()]


async def test_what_is_saved_comes_back(bus: Bus) -> None:
    """Entries, their revisions and the configuration are after a restore as they were, and it can be written again."""
    written = await fill(bus, entries=50)
    before = await stream_state(bus, STREAM)
    stood, chunks = await saved(bus)
    await empty(bus, STREAM)
    await fill(bus, entries=3)

    await replace(bus, STREAM, state=stood.state, chunks=chunks)
    stands = await stream_state(bus, STREAM)

    assert await content(bus) == written
    assert (stands.messages, stands.last_seq, stands.config) == (50, 50, before.config)
    assert (await bus.js.publish("$KV.functions.new.f", b"x")).seq == 51


async def test_more_than_a_window_is_saved(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream larger than what the server sends ahead arrives whole: each chunk is acknowledged."""
    monkeypatch.setattr(snapshots, "WINDOW_BYTES", 1 << 20)
    monkeypatch.setattr(snapshots, "CHUNK_BYTES", 64 << 10)
    written = await fill(bus, entries=60, size=100_000)
    stood, chunks = await saved(bus)
    assert sum(map(len, chunks)) > 5 << 20

    await replace(bus, STREAM, state=stood.state, chunks=chunks)

    assert await content(bus) == written


async def test_an_empty_stream_is_saved_too(bus: Bus) -> None:
    """Nothing comes back as nothing."""
    stood, chunks = await saved(bus)
    await fill(bus, entries=2)

    await replace(bus, STREAM, state=stood.state, chunks=chunks)
    assert (await stream_state(bus, STREAM)).messages == 0


async def test_what_was_to_end_ends(bus: Bus) -> None:
    """A time to live goes on over a restore: the entry leaves when it would have left."""
    await bus.js.publish("$KV.functions.short.f", b"x", msg_ttl=2)
    await bus.js.publish("$KV.functions.long.f", b"x", msg_ttl=3600)
    stood, chunks = await saved(bus)
    await replace(bus, STREAM, state=stood.state, chunks=chunks)

    async with asyncio.timeout(10):
        while (await stream_state(bus, STREAM)).messages > 1:
            await asyncio.sleep(0.05)
    assert list(await content(bus)) == ["$KV.functions.long.f"]


async def test_one_server_and_a_cluster_read_each_other(bus: Bus) -> None:
    """What one server saved goes into a cluster with three copies, and what that saves back onto one server."""
    written = await fill(bus, entries=20)
    stood, chunks = await saved(bus)
    async with cluster() as nats, nats.connect("admin") as three:
        await replace(three, STREAM, state=stood.state, chunks=chunks)
        stands = await stream_state(three, STREAM)
        assert stands.config["num_replicas"] == 3
        assert await content(three) == written
        more = await fill(three, entries=25)
        stood, chunks = await saved(three)

    await replace(bus, STREAM, state=stood.state, chunks=chunks)
    stands = await stream_state(bus, STREAM)

    assert stands.config["num_replicas"] == 1
    assert await content(bus) == more


@pytest.mark.parametrize("damage", ["cut", "changed", "foreign", "nothing"])
async def test_a_damaged_archive_leaves_an_empty_stream_of_the_same_shape(bus: Bus, damage: str) -> None:
    """The server says what is wrong; no half of an archive stays, and the stream is there for what comes next."""
    await fill(bus, entries=50, size=20_000)
    before = await stream_state(bus, STREAM)
    stood, chunks = await saved(bus)
    chunks = {
        "cut": chunks[: len(chunks) // 2],
        "changed": [chunks[0][:1000] + bytes(1000) + chunks[0][2000:], *chunks[1:]],
        "foreign": [b"no archive at all" * 100],
        "nothing": [],
    }[damage]

    with pytest.raises((PreconditionFailed, QueueUnavailable)):
        await replace(bus, STREAM, state=stood.state, chunks=chunks)

    stands = await stream_state(bus, STREAM)
    assert stands.messages == 0
    assert stands.config == before.config
    assert (await bus.js.publish("$KV.functions.new.f", b"x")).seq >= 1


async def test_a_stream_that_is_not_there_is_said(bus: Bus) -> None:
    """Saving, restoring and asking about a stream that was never made name what is wrong."""
    with pytest.raises(PreconditionFailed, match="stream not found"):
        async with snapshot(bus, "NOTHING"):
            pytest.fail("saved")
    with pytest.raises(PreconditionFailed, match="stream not found"):
        await replace(bus, "NOTHING", state={}, chunks=[])


async def test_the_other_roles_cannot_save_or_restore(nats: Installation) -> None:
    """A snapshot has everybody's password hash: neither an API server nor a worker is given one."""
    for role in ("api", "worker"):
        async with nats.connect(role) as bus:
            bus.watch.last_error = ""
            await bus.client.publish("$JS.API.STREAM.SNAPSHOT.KV_users", b"{}")
            await bus.client.flush()
            await bus.client.flush()
            assert "permissions violation" in bus.watch.last_error.lower()


async def test_servers_that_seem_offline_are_asked_again(bus: Bus) -> None:
    """A cluster that has just started says so of servers that are there; any other refusal is final at once."""
    refusals = [(10005, "no suitable peers for placement, peer offline"), (10008, "temporarily unavailable")] * 2
    asked = 0

    async def refuse(message: Msg) -> None:
        nonlocal asked
        asked += 1
        error = refusals.pop(0) if refusals else None
        await message.respond(
            json.dumps({"error": {"err_code": error[0], "description": error[1]}} if error else {}).encode()
        )

    await bus.client.subscribe("place.it", cb=refuse)
    assert await snapshots._ask(bus, "place.it", {}) == {}
    assert asked == 5

    refusals.append((10058, "stream name already in use"))
    with pytest.raises(PreconditionFailed, match="already in use"):
        await snapshots._ask(bus, "place.it", {})
    assert asked == 6
