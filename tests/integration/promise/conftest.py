"""A whole system in one process, on one nats-server and on a cluster of three, that can be shaken."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from mayfly.bus.connection import translated
from mayfly.bus.queue import in_flight
from mayfly.bus.subjects import ACT
from mayfly.domain.errors import QueueUnavailable
from tests.support.bus import installation
from tests.support.cluster import Cluster, cluster
from tests.support.world import World, a_world

LIMITS = {"max_activations": 8, "max_activations_per_user": 6}


@dataclass
class Shaken:
    """One system: an API server `world`, a second one `other`, and what makes NATS fail and come back."""

    world: World
    other: World
    shake: Callable[[], Coroutine[Any, Any, None]]

    async def until_empty(self) -> None:
        """Wait until nothing is in flight, with the janitors at work."""
        async with asyncio.timeout(40):
            while await in_flight(self.world.bus):
                await self.world.janitor.sweep()
                await asyncio.sleep(0.2)


@pytest_asyncio.fixture(params=[1, 3], ids=["one-server", "three-servers"], scope="module", loop_scope="module")
async def system(request: pytest.FixtureRequest) -> AsyncIterator[Shaken]:
    """One for all tests of a file; each makes its own users and functions."""
    async with AsyncExitStack() as stack:
        if request.param == 1:
            one = await stack.enter_async_context(installation(**LIMITS))
            world, other = [await stack.enter_async_context(a_world(one)) for _ in range(2)]
            yield Shaken(world, other, shake=one.server.restart)
        else:
            three = await stack.enter_async_context(cluster(**LIMITS))
            world, other = [await stack.enter_async_context(a_world(three)) for _ in range(2)]
            yield Shaken(world, other, shake=lambda: _lose_a_leader(three, world))


async def _lose_a_leader(three: Cluster, world: World) -> None:
    """Kill the server that leads the work stream, and start it again when another leads."""
    leader = await _leader(world)
    node = next(node for node in three.nodes if node.name == leader)
    await node.end(signal.SIGKILL)
    async with asyncio.timeout(30):
        while await _leader(world) in (None, "", node.name):
            await asyncio.sleep(0.2)
    node.start()
    await three.until_ready()


async def _leader(world: World) -> str | None:
    """Who leads the work stream; None while nobody answers."""
    try:
        with translated("ask for the leader"):
            found = (await world.bus.js.stream_info(ACT)).cluster
    except QueueUnavailable:
        return None
    return found.leader if found else None
