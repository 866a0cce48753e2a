"""How the queue and the streams stand, asked of real servers: one alone, and three of which some are dead."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress

import pytest

from mayfly.bus.connection import Bus
from mayfly.bus.health import STREAMS, StreamHealth, streams_health, waiting
from mayfly.bus.queue import submit
from mayfly.bus.stores import Stores
from mayfly.bus.subjects import ACT, RESPONSES, WORKERS, kv_stream
from mayfly.domain.errors import QueueUnavailable
from mayfly.domain.ids import UserId, new_id
from mayfly.services.status import remarks_on, status
from tests.integration.bus.test_queue import Puller, _work_of
from tests.support.bus import Installation
from tests.support.cluster import Cluster, Node, cluster

pytestmark = [pytest.mark.A2, pytest.mark.A3, pytest.mark.A4]

BEATS = kv_stream(WORKERS)
NOTICED_S = 60.0
COUNTED_S = 2.0


async def test_a_server_alone_leads_every_stream(nats: Installation) -> None:
    """With an API server's permissions each stream says who leads it, that its copy is current, and what lies in it."""
    async with nats.connect("api") as bus:
        await submit(bus, _work_of(new_id()), wait_s=0)
        found = {each.name: each for each in await streams_health(bus)}

    assert set(found) == set(STREAMS)
    assert {(each.leader, each.replicas, each.current, each.behind) for each in found.values()} == {
        ("mayfly", 1, 1, ())
    }
    assert (found[ACT].messages, found[ACT].drops_oldest, found[ACT].max_bytes) == (1, False, None)
    assert found[ACT].size_bytes > 0
    assert found[RESPONSES].drops_oldest
    assert found[RESPONSES].max_bytes == nats.bootstrap_settings.responses_max_bytes


async def test_what_waits_is_what_no_worker_was_given(nats: Installation) -> None:
    """Of three admitted activations two wait when a worker with one slot has claimed, and none when all are claimed."""
    async with nats.connect("api") as bus, nats.connect("worker") as worker_bus:
        for _ in range(3):
            await submit(bus, _work_of(new_id()), wait_s=0)
        async with asyncio.timeout(COUNTED_S):
            while await waiting(bus) != 3:
                await asyncio.sleep(0.01)
        puller = Puller(worker_bus, slots=1)
        for left in (2, 1, 0):
            claim = await puller.next()
            assert await waiting(bus) == left
            await puller.finish(claim)
        await puller.stop()
        assert await waiting(bus) == 0


async def test_without_a_server_nobody_is_said_to_lag(nats: Installation) -> None:
    """When nothing answers that is an error, not a list of streams without leaders."""
    async with nats.connect("api") as bus:
        nats.server.freeze()
        try:
            with pytest.raises(QueueUnavailable):
                await streams_health(bus)
        finally:
            nats.server.thaw()


async def test_the_copies_of_a_dead_server_are_named() -> None:
    """
    Of three servers one dies: all its copies are behind, by its name, and every stream still has a leader. The stream
    of which it had the only copy has none, and the others' health is told all the same. An operator who
    asks for the status, which needs that stream, is told so instead of waiting for it.
    """
    async with cluster() as nats, nats.connect("admin") as admin:
        await until(admin, lambda found: all((each.replicas, each.current) == (3, 3) for each in found.values()))
        config = (await admin.js.stream_info(BEATS)).config
        config.num_replicas = 1
        await admin.js.update_stream(config)
        found = await until(admin, lambda found: is_alone(found[BEATS]))

        dead = node_named(nats, found[BEATS].leader)
        others = [node for node in nats.nodes if node is not dead]
        async with nats.connect("api", nats_url=",".join(node.url for node in others)) as bus:
            await dead.end(signal.SIGKILL)
            found = await until(bus, lambda found: all(is_behind(each, dead) for each in found.values()))
            assert found[BEATS] == StreamHealth(name=BEATS)
            leaderless, lagging = remarks_on(tuple(found.values()))
            assert leaderless.startswith(f"Without a leader, so neither read nor written: {BEATS}. ")
            assert lagging.startswith(f"{dead.name} is offline or lags behind: ")
            with pytest.raises(QueueUnavailable) as told:
                await status(bus, Stores.on(bus), UserId(new_id()), operator=True)
            assert leaderless in told.value.detail

            dead.start()
            await until(bus, lambda found: all(each.leader and not each.behind for each in found.values()))


async def until(bus: Bus, fits: Callable[[dict[str, StreamHealth]], bool]) -> dict[str, StreamHealth]:
    """Ask until what is told fits; a cluster takes its time to notice things."""
    async with asyncio.timeout(NOTICED_S):
        while True:
            with suppress(QueueUnavailable):
                found = {each.name: each for each in await streams_health(bus)}
                if fits(found):
                    return found
            await asyncio.sleep(0.2)


def is_alone(stream: StreamHealth) -> bool:
    """Whether the other copies of a stream are given up."""
    return stream.leader is not None and (stream.replicas, stream.current, stream.behind) == (1, 1, ())


def is_behind(stream: StreamHealth, dead: Node) -> bool:
    """Whether a stream is as it should be without a server."""
    if stream.name == BEATS:
        return stream.leader is None
    return stream.leader not in (None, dead.name) and (stream.current, stream.behind) == (2, (dead.name,))


def node_named(nats: Cluster, name: str | None) -> Node:
    """The server of that name."""
    return next(node for node in nats.nodes if node.name == name)
