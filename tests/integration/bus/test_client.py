"""Our client on nats-py's: who asks gets the answer to that, in whatever order answers come; and what it leaves."""

from __future__ import annotations

import asyncio

import pytest
from nats.aio.msg import Msg
from nats.errors import TimeoutError as Unanswered

from mayfly.bus.client import WRITTEN_AT_ONCE_BYTES
from mayfly.bus.connection import Bus
from tests.support.bus import Installation

pytestmark = [pytest.mark.A3]

ASKED = "worker.w.owns"


async def answering(worker: Bus, at_once: int, heard: list[Msg]) -> None:
    """Answer questions with themselves, the last first, as soon as there are so many."""

    async def hear(message: Msg) -> None:
        heard.append(message)
        if len(heard) == at_once:
            for each in reversed(heard):
                await each.respond(each.data)

    await worker.client.subscribe(ASKED, cb=hear)
    await worker.client.flush()


async def test_answers_go_to_who_asked(nats: Installation) -> None:
    """A hundred ask at once, and are answered the other way round: none gets another's answer, and nothing is kept."""
    heard: list[Msg] = []
    async with nats.connect("api") as bus, nats.connect("worker") as worker:
        await answering(worker, 100, heard)
        asked = [str(number).encode() for number in range(100)]
        asking = [asyncio.create_task(bus.client.request(ASKED, each, timeout=10)) for each in asked]
        await asyncio.sleep(0)
        inboxes = list(bus.client._asked)
        answers = await asyncio.gather(*asking)

        assert [answer.data for answer in answers] == asked
        assert bus.client._asked == {}
    assert len(set(inboxes)) == 100
    assert all(len({inbox[place] for inbox in inboxes}) > 20 for place in range(21)), "some of it can be guessed"


async def test_an_answer_that_comes_too_late_is_nobodys(nats: Installation) -> None:
    """Who has given up, or was told to, is not waited for; the next question gets its own answer."""
    heard: list[Msg] = []
    async with nats.connect("api") as bus, nats.connect("worker") as worker:
        await answering(worker, 3, heard)
        with pytest.raises(Unanswered):
            await bus.client.request(ASKED, b"first", timeout=0.05)
        second = asyncio.create_task(bus.client.request(ASKED, b"second", timeout=10))
        async with asyncio.timeout(10):
            while len(heard) < 2:
                await asyncio.sleep(0.01)
        second.cancel()
        await asyncio.wait({second})
        assert second.cancelled()
        assert bus.client._asked == {}

        assert (await bus.client.request(ASKED, b"third", timeout=10)).data == b"third"


async def test_what_is_published_arrives_in_order(nats: Installation) -> None:
    """Also when the socket is full in between, and the rest is written by nats-py's task."""
    sizes = [10, 3 * WRITTEN_AT_ONCE_BYTES] * 40
    heard: list[bytes] = []

    async def hear(message: Msg) -> None:
        heard.append(message.data)

    async with nats.connect("worker") as worker, nats.connect("admin") as admin:
        await admin.client.subscribe("ordered", cb=hear)
        await admin.client.flush()
        async with nats.connect("admin") as bus:
            nats.server.freeze()
            publishing = asyncio.create_task(publish_all(bus, sizes))
            await asyncio.wait({publishing}, timeout=1)
            was_full = bus.client._free_writer() is None
            nats.server.thaw()
            await publishing
            await bus.client.flush()
        async with asyncio.timeout(10):
            while len(heard) < len(sizes):
                await asyncio.sleep(0.01)
        assert worker.reconnects == 0

    assert was_full
    assert heard == [number.to_bytes(4, "big") + bytes(size) for number, size in enumerate(sizes)]


async def publish_all(bus: Bus, sizes: list[int]) -> None:
    """Publish numbered messages of these sizes."""
    for number, size in enumerate(sizes):
        await bus.client.publish("ordered", number.to_bytes(4, "big") + bytes(size))


async def test_who_hears_a_message_badly_ends_nothing(nats: Installation) -> None:
    """What is told in the course of reading may fail: the next message is told all the same, until it is enough."""
    heard: list[tuple[str, bytes]] = []

    def hear(subject: str, data: bytes) -> None:
        heard.append((subject, data))
        if data == b"bad":
            raise ValueError(data)

    async with nats.connect("admin") as bus, nats.connect("admin") as other:
        subscription = await bus.client.hear("told.*", hear)
        await bus.client.flush()
        for data in (b"first", b"bad", b"last"):
            await other.client.publish("told.x", data)
        await other.client.flush()
        await bus.client.flush()
        await subscription.unsubscribe()
        await other.client.publish("told.x", b"too late")
        await other.client.flush()
        await bus.client.flush()

        assert bus.client._heard == {}
    assert heard == [("told.x", b"first"), ("told.x", b"bad"), ("told.x", b"last")]
