"""Reading activations: what a page costs, however few records fit; and those that nobody else ends."""

from __future__ import annotations

import pytest

from mayfly.bus.responses import Listener
from mayfly.bus.schema import LEAK_BACKSTOP_S
from mayfly.bus.stores import Stores
from mayfly.domain.activation import State
from mayfly.domain.ids import WorkerId, new_id
from mayfly.services import activations
from mayfly.services.activations import Activations, Wanted
from tests.support.bus import Installation
from tests.support.world import World

pytestmark = [pytest.mark.A2, pytest.mark.F10, pytest.mark.F12]


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


async def test_a_call_that_an_outage_outlived_does_not_run_for_ever(nats: Installation) -> None:
    """Its message has left the stream, so no janitor finds it: who reads its record is told that it was lost."""
    async with nats.connect("admin") as bus:
        world = World(nats, bus)
        function = await world.function()
        deadline_at = bus.clock.now() - LEAK_BACKSTOP_S - 1
        work = await world.queued(function, deadline_at=deadline_at)
        await world.move(work, State.RUNNING, worker=WorkerId(new_id()), attempt=new_id(), ran="unknown")
        found = await Activations(bus, Stores.on(bus), Listener(new_id()), keep_s=3600).get(
            function.user_id, work.record.id
        )

    assert (found.state, found.ran) == (State.WORKER_LOST, "unknown")
