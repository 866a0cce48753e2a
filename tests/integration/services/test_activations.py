"""Listing activations: what a page costs, however few of a user's records fit."""

from __future__ import annotations

import pytest

from mayfly.bus.responses import Listener
from mayfly.bus.stores import Stores
from mayfly.domain.activation import State
from mayfly.domain.ids import new_id
from mayfly.services import activations
from mayfly.services.activations import Activations, Wanted
from tests.support.bus import Installation
from tests.support.world import World

pytestmark = [pytest.mark.A2, pytest.mark.F10]


async def test_a_page_looks_at_so_many_records_only(nats: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 12 records the oldest one fits: pages without it have a cursor, each costs 5 reads, and it is found."""
    monkeypatch.setattr(activations, "LOOKED_AT_MOST", 5)
    async with nats.connect("admin") as bus:
        world = World(nats, bus)
        function = await world.function()
        works = sorted([await world.queued(function) for _ in range(12)], key=lambda work: work.ulid)
        await world.move(works[0], State.CANCELLED)
        listed = Activations(bus, Stores.on(bus), Listener(new_id()), keep_s=3600)

        pages: list[list[str]] = []
        after = None
        while not pages or after:
            found, after = await listed.list(function.user_id, Wanted(state=State.CANCELLED), limit=2, after=after)
            pages.append([record.ulid for record in found])
        everything, more = await listed.list(function.user_id, limit=12)

    assert pages == [[], [], [works[0].ulid]]
    assert ([record.ulid for record in everything], more) == ([work.ulid for work in reversed(works)], None)
