"""Looking into streams and buckets while they are written to."""

from __future__ import annotations

import asyncio

import pytest

from mayfly.bus import inspect, subjects
from mayfly.bus.connection import Bus
from mayfly.bus.stores import Stores
from tests.integration.bus.test_store import a_function

pytestmark = [pytest.mark.A3, pytest.mark.A4]


async def test_it_ends_though_messages_come_faster_than_they_are_read(bus: Bus) -> None:
    """What was there at the beginning is shown, also when each message that is read is followed by another one."""
    for number in range(3):
        await bus.js.publish("audit.login", str(number).encode())
    seen = []
    async with asyncio.timeout(10):
        async for message in inspect.messages(bus, subjects.AUDIT):
            seen.append(message.seq)
            await bus.js.publish("audit.login", b"more")

    assert seen == [1, 2, 3]


async def test_it_ends_though_the_newest_one_is_replaced(bus: Bus) -> None:
    """A value that has moved up beyond the end since is not shown as if it had been there."""
    functions = Stores.on(bus).functions
    one, other = a_function(), a_function()
    await functions.put(one.key, one)
    await functions.put(other.key, other)
    seen = []
    async with asyncio.timeout(10):
        async for message in inspect.messages(bus, subjects.FUNCTIONS):
            seen.append(message.seq)
            await functions.put(other.key, other)

    assert seen == [1]


async def test_of_many_those_among_the_last_sequences_are_shown(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a bucket whose entries are replaced the last sequences hold fewer messages than there are sequences."""
    monkeypatch.setattr(inspect, "MOST", 4)
    functions = Stores.on(bus).functions
    made = [a_function() for _ in range(5)]
    for function in (*made, made[-1], made[-1], made[-1]):  # the last one has sequence 8, and 5 to 7 are gone
        await functions.put(function.key, function)

    assert [message.seq async for message in inspect.messages(bus, subjects.FUNCTIONS)] == [8]


async def test_nothing_is_shown_of_what_is_empty(bus: Bus) -> None:
    """A bucket that never had anything, and one that was emptied, have no messages."""
    assert [message async for message in inspect.messages(bus, subjects.USERS)] == []
    await bus.js.publish("audit.login", b"x")
    await bus.js.purge_stream(subjects.AUDIT)

    assert [message async for message in inspect.messages(bus, subjects.AUDIT)] == []
