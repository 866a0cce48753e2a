"""What was deleted stays deleted, also when nats-server is killed, on a real one."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import pytest

from mayfly.bus.connection import Bus
from mayfly.bus.store import Conflict, Store
from mayfly.bus.subjects import FUNCTIONS, kv_stream, kv_subject, message_get
from mayfly.domain.function import Function
from tests.integration.bus.test_store import a_function
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
