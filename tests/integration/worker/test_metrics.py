"""What a worker counts, over a runtime that starts nothing; and a whole `mayfly up`, scraped over HTTP."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from prometheus_client import generate_latest

from mayfly.bus.queue import in_flight
from mayfly.bus.stores import Stores
from mayfly.containers.fake import ending
from mayfly.domain.activation import State
from mayfly.domain.errors import FunctionFailed, ImageUnavailable, RuntimeFailed, WorkerLost
from mayfly.domain.ids import WorkerId, new_id
from mayfly.services.janitor import Janitor
from mayfly.services.settle import settle_lost
from mayfly.worker.loop import Worker
from mayfly.worker.metrics import WorkerMetrics
from mayfly.worker.run import Tools
from tests.integration.worker.conftest import Installation
from tests.support.bus import installation
from tests.support.scrape import Scrape
from tests.support.world import World

pytestmark = [pytest.mark.A5, pytest.mark.D4]

ENDED = "mayfly_worker_activations_total"


class Counted(World):
    """A world whose worker's metrics are at hand."""

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[WorkerMetrics]:
        """Run a worker of three slots."""
        metrics = WorkerMetrics()
        async with self.nats.connect("worker") as bus:
            metrics.follow(bus)
            tools = Tools(
                worker_id=WorkerId(new_id()),
                bus=bus,
                stores=Stores.on(bus),
                images=self.images,  # type: ignore[arg-type]
                runtime=self.runtime,
                keep_s=3600,
                metrics=metrics,
            )
            stop = asyncio.Event()
            running = asyncio.create_task(Worker(tools, slots=3).run(stop, grace_s=5))
            try:
                yield metrics
            finally:
                stop.set()
                await running


@pytest.fixture
async def world() -> AsyncIterator[Counted]:
    """A world with M=8, U=8."""
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(installation(max_activations=8, max_activations_per_user=8))
        bus = await stack.enter_async_context(nats.connect("api"))
        made = Counted(nats, bus)
        await stack.enter_async_context(made.listener.listening(bus))
        yield made


def now(metrics: WorkerMetrics) -> Scrape:
    """What a scrape would read."""
    return Scrape(generate_latest(metrics.registry).decode())


async def test_each_way_to_end_is_counted_once(world: Counted) -> None:
    """A result, an exit code, an image that is not there and a container that cannot be made: one each, by its code."""
    function = await world.function()
    async with world.counting() as metrics:
        await world.invoke(function)
        world.runtime.script = lambda *_: ending(exit_code=3)
        with pytest.raises(FunctionFailed):
            await world.invoke(function)
        world.images.error = ImageUnavailable("manifest unknown")
        with pytest.raises(ImageUnavailable):
            await world.invoke(function)
        world.images.error, world.runtime.create_error = None, RuntimeFailed("no room", ran="no")
        with pytest.raises(RuntimeFailed):
            await world.invoke(function)
        await world.until(0)

    found = now(metrics)
    ended = {tuple(labels.values()): found.value(ENDED, **labels) for labels in found.labels(ENDED)}
    assert {frozenset(key): value for key, value in ended.items()} == {
        frozenset({"succeeded", "none", "yes"}): 1,
        frozenset({"failed", "function-failed", "yes"}): 1,
        frozenset({"refused", "image-unavailable", "no"}): 1,
        frozenset({"refused", "runtime-failed", "no"}): 1,
    }
    steps = {step: found.value("mayfly_activation_step_duration_seconds_count", step=step) for step in ("queue", "run")}
    assert steps == {"queue": 4, "run": 2}
    assert found.value("mayfly_containers_created_total") == found.value("mayfly_containers_removed_total") == 2


async def test_slots_in_use_are_those_of_now(world: Counted) -> None:
    """While two calls run, two of three slots are in use; afterwards none is."""
    function = await world.function()
    world.runtime.gate.clear()
    async with world.counting() as metrics:
        calls = [asyncio.create_task(world.invoke(function)) for _ in range(2)]
        await world.until_started(2)
        assert now(metrics).value("mayfly_worker_slots") == 3
        assert now(metrics).value("mayfly_worker_slots_in_use") == 2
        assert now(metrics).value("mayfly_nats_connected") == 1
        world.runtime.gate.set()
        await asyncio.gather(*calls)
        await world.until(0)
    assert now(metrics).value("mayfly_worker_slots_in_use") == 0


async def test_a_container_that_stays_is_counted(world: Counted) -> None:
    """A container that cannot be removed counts as left, and not as removed."""
    function = await world.function()
    world.runtime.remove_error = RuntimeFailed("a mount is busy")
    async with world.counting() as metrics:
        await world.invoke(function)
        await world.until(0)
    found = now(metrics)
    assert found.value("mayfly_containers_left_total") == 1
    assert found.value("mayfly_containers_removed_total") == 0


async def test_a_fence_that_somebody_else_won_is_counted(world: Counted) -> None:
    """A message whose record is settled already runs nothing and counts as a start fence lost."""
    function = await world.function()
    work = await world.queued(function)
    await world.move(work, State.REFUSED, ended_at=1.0)
    async with world.counting() as metrics:
        await world.until(0)
    assert now(metrics).value("mayfly_fences_lost_total", fence="start") == 1
    assert now(metrics).value("mayfly_fences_lost_total", fence="result") == 0
    assert world.runtime.calls == []


async def test_a_result_that_came_too_late_is_counted_as_that_alone(world: Counted) -> None:
    """When a worker was taken for lost while it ran, its result counts as a lost fence and not as an activation."""
    function = await world.function()
    world.runtime.gate.clear()
    async with world.counting() as metrics:
        call = asyncio.create_task(world.invoke(function))
        await world.until_started(1)
        [key] = await world.stores.activations.keys(function.user_id)
        entry = await world.stores.activations.get(key)
        assert entry
        assert await settle_lost(world.stores.activations, entry, keep_s=3600)
        with pytest.raises(WorkerLost):
            await call
        world.runtime.gate.set()
        await world.until(0)
    found = now(metrics)
    assert found.value("mayfly_fences_lost_total", fence="result") == 1
    assert found.value(ENDED, state="succeeded", code="none", ran="yes") == 0
    assert found.value("mayfly_containers_removed_total") == 1


@pytest.mark.F13
async def test_the_janitor_tells_what_it_has_put_right(world: Counted) -> None:
    """One that was out of time is ended, one whose worker is gone is lost, and a slot that nobody has is given back."""
    function = await world.function()
    told: Counter[str] = Counter()
    janitor = Janitor(world.bus, world.stores, keep_s=3600, on_action=lambda action: told.update((action,)))
    final = await world.queued(function)
    await world.move(final, State.REFUSED, ended_at=1.0)
    await world.queued(function, deadline_at=1.0)
    lost = await world.queued(function)
    await world.move(lost, State.RUNNING, worker=WorkerId(new_id()), attempt=new_id())

    async with asyncio.timeout(20):
        while await in_flight(world.bus) > 1 or not told["worker-lost"]:
            await janitor.sweep()
            await asyncio.sleep(0.1)
    assert told == {"slot-returned": 2, "timed-out": 1, "worker-lost": 1}


@pytest.mark.root
@pytest.mark.D2
async def test_both_roles_of_a_whole_system_agree(installed: Installation) -> None:
    """Real calls of real containers grow by as much in the API server as in the worker, and nothing of them is left."""
    async with await installed.up.user() as client:
        for name, script in (("good", "cat"), ("bad", "exit 3")):
            body = {"name": name, "image": installed.image, "command": ["/bin/sh", "-c", script]}
            assert (await client.post("/v1/functions", json=body)).status_code == 201
        api_before, worker_before = await installed.scrape()
        for name, status in (("good", 200), ("good", 200), ("bad", 502)):
            assert (await client.post(f"/v1/functions/{name}/activations", content=b"x")).status_code == status

        async with asyncio.timeout(20):  # the container is removed behind the answer
            while True:
                api, worker = await installed.scrape()
                removed = worker.grown(worker_before).get("mayfly_containers_removed_total")
                if removed == 3 and api.value("mayfly_activations_in_flight") == 0:
                    break
                await asyncio.sleep(0.1)
        api, worker = await installed.scrape()  # a scrape is no moment: what it read first may have moved since
    grown = {**api.grown(api_before), **worker.grown(worker_before)}
    for counted in ("mayfly_activations_total", ENDED):
        assert grown[counted + '{code="none",ran="yes",state="succeeded"}'] == 2
        assert grown[counted + '{code="function-failed",ran="yes",state="failed"}'] == 1
    assert grown["mayfly_containers_created_total"] == 3
    for step in ("admit", "queue", "image", "start", "run"):
        assert grown[f'mayfly_activation_step_duration_seconds_count{{step="{step}"}}'] == 3
        assert grown[f'mayfly_activation_step_duration_seconds_sum{{step="{step}"}}'] > 0
    assert (api.value("mayfly_workers"), api.value("mayfly_slots"), worker.value("mayfly_worker_slots")) == (1, 2, 2)


@pytest.mark.root
@pytest.mark.F6
async def test_images_of_a_real_worker_are_counted(installed: Installation) -> None:
    """A pulled image takes its bytes in the cache; one that the registry does not have is a pull that failed."""
    async with await installed.up.user() as client:
        body = {"name": "f", "image": installed.image}
        assert (await client.post("/v1/functions", json=body)).status_code == 201
        _, before = await installed.scrape()
        body = {"name": "g", "image": installed.image.replace("busybox", "not-there")}
        assert (await client.post("/v1/functions", json=body)).status_code == 422
        _, after = await installed.scrape()
    assert after.grown(before)['mayfly_image_pulls_total{outcome="failed"}'] == 1
    assert after.value("mayfly_image_pulls_total", outcome="pulled") >= 1
    assert after.value("mayfly_image_cache_images") == 1
    assert 0 < after.value("mayfly_image_cache_bytes") < after.value("mayfly_image_cache_limit_bytes")
