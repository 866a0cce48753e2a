"""Single messages by their sequence, on one nats-server and on three."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from nats.js.errors import APIError

from mayfly.bus import messages
from mayfly.bus.connection import Bus
from tests.support.bus import installation
from tests.support.cluster import cluster

pytestmark = [pytest.mark.A3, pytest.mark.A4]

STREAM = "KV_places"


@pytest.fixture(params=[1, 3], ids=["one-server", "three-servers"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    """An admin's connection."""
    made = installation() if request.param == 1 else cluster()
    async with made as nats, nats.connect("admin") as bus:
        yield bus


async def test_a_message_is_removed_once(bus: Bus) -> None:
    """The first, the last and one between are there, and then are not; nor is one that never was."""
    seqs = [(await bus.js.publish(f"$KV.places.user.function.{number}", b"x")).seq for number in range(5)]

    for seq in (seqs[2], seqs[0], seqs[4]):
        stored = await messages.read(bus, STREAM, seq=seq)
        assert stored is not None
        assert (stored.seq, stored.data) == (seq, b"x")
        assert await messages.delete(bus, STREAM, seq)
        assert not await messages.delete(bus, STREAM, seq)
        assert await messages.read(bus, STREAM, seq=seq) is None
    assert not await messages.delete(bus, STREAM, seqs[4] + 99)


async def test_any_other_error_is_raised(bus: Bus) -> None:
    """That there is no such stream is not taken for there being no such message."""
    for question in (messages.read(bus, "NONE", seq=1), messages.delete(bus, "NONE", 1)):
        with pytest.raises(APIError):
            await question
