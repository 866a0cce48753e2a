"""Reading activations: what a page costs, however few records fit; and those that nobody else ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from mayfly.bus import store
from mayfly.bus.connection import Bus
from mayfly.bus.responses import Listener
from mayfly.bus.schema import LEAK_BACKSTOP_S
from mayfly.bus.store import Store
from mayfly.bus.stores import Stores
from mayfly.bus.subjects import ACTIVATIONS
from mayfly.domain.activation import Activation, State
from mayfly.domain.ids import WorkerId, new_id
from mayfly.services import activations
from mayfly.services.activations import Activations, Wanted
from tests.support.bus import Installation
from tests.support.world import World

pytestmark = [pytest.mark.A2, pytest.mark.F10, pytest.mark.F12]


class Counting(Store[Activation]):
    """Records whose keys are listed when everybody has asked for them."""

    def __init__(self, bus: Bus) -> None:
        """None was listed."""
        super().__init__(bus, ACTIVATIONS, Activation)
        self.listed = self.at_once = self.most_at_once = 0
        self.may = asyncio.Event()

    async def portions(self, prefix: str | None = None) -> AsyncIterator[list[str]]:
        """List them."""
        self.listed += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.may.wait()
        self.at_once -= 1
        async for keys in super().portions(prefix):
            yield keys


async def test_pages_that_are_asked_for_at_once_cost_one_look_at_a_time(nats: Installation) -> None:
    """
    However often a user with very many records asks for a page, NATS lists his keys once at a time, and once for all
    who have to wait: they find what was there when they asked.
    """
    async with nats.connect("admin") as bus:
        function = await World(nats, bus).function()
        store = Counting(bus)
        listed = Activations(bus, replace(Stores.on(bus), activations=store), Listener(new_id()), keep_s=3600)
        asking = [asyncio.create_task(listed.list(function.user_id, limit=1))]
        async with asyncio.timeout(10):
            while not store.listed:
                await asyncio.sleep(0.01)
        work = await World(nats, bus).queued(function)
        asking += [asyncio.create_task(listed.list(function.user_id, limit=1)) for _ in range(50)]
        while len(asyncio.all_tasks()) < 51:
            await asyncio.sleep(0)
        store.may.set()
        found = [[record.ulid for record in records] for records, _ in await asyncio.gather(*asking)]

    assert found[1:] == [[work.ulid]] * 50
    assert (store.listed, store.most_at_once) == (2, 1)


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


async def test_pages_are_the_same_in_small_portions(nats: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Records of three API servers, whose keys come in portions of four: the pages have all of them, once each, the newest
    first, and go on after the last one whatever has come since.
    """
    monkeypatch.setattr(store, "PORTION", 4)
    async with nats.connect("admin") as bus:
        world = World(nats, bus)
        function = await world.function()
        works = []
        for _ in range(3):
            world.listener = Listener(new_id())
            works += [await world.queued(function) for _ in range(5)]
        listed = Activations(bus, Stores.on(bus), Listener(new_id()), keep_s=3600)

        first, after = await listed.list(function.user_id, limit=6)
        await world.queued(function)
        rest, end = await listed.list(function.user_id, limit=20, after=after)

    newest = sorted((work.ulid for work in works), reverse=True)
    assert [record.ulid for record in first] == newest[:6]
    assert [record.ulid for record in rest] == newest[6:]
    assert end is None


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
