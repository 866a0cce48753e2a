"""An operator drains a worker: it claims nothing more, finishes what runs, stays, and works again when it may."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mayfly.bus.connection import Bus
from mayfly.bus.queue import in_flight
from mayfly.bus.stores import Stores
from mayfly.containers.runtime import Container, ContainerSpec
from mayfly.domain.errors import NotFound
from mayfly.domain.worker import WorkerBeat
from mayfly.services.operators import Operators
from mayfly.services.status import read_workers
from mayfly.services.users import give_role
from mayfly.worker.loop import Worker
from tests.support.bus import Installation
from tests.support.whole import whole
from tests.support.world import World

pytestmark = [pytest.mark.A5, pytest.mark.F13]


@pytest.fixture
async def operators(world: World) -> Operators:
    """What operators do, on the world's connection; nobody's account is touched here."""
    return Operators(world.bus, world.stores, None, world.canceller)  # type: ignore[arg-type]


async def listed(world: World) -> list[WorkerBeat]:
    """What the list of workers says, once they have given a sign of life."""
    async with asyncio.timeout(10):
        while not (alive := (await read_workers(world.stores)).alive):
            await asyncio.sleep(0.02)
    return list(alive)


async def signs_of_life(world: World, count: int) -> None:
    """Wait until the only worker has given so many more."""
    (first,) = await listed(world)
    seen = {first.beat_at}
    async with asyncio.timeout(20):
        while len(seen) <= count:
            seen |= {beat.beat_at for beat in await listed(world)}
            await asyncio.sleep(0.05)


def id_of(worker: Worker) -> str:
    """The worker's id."""
    return worker._tools.worker_id


async def test_a_drained_worker_finishes_what_runs_and_claims_nothing_more(world: World, operators: Operators) -> None:
    """What runs ends well; a call that comes then waits until the worker may claim again; the list says so at once."""
    world.runtime.gate.clear()
    function = await world.function()
    async with world.worker() as worker:
        await listed(world)
        running = asyncio.create_task(world.invoke(function, b"running"))
        await world.until_started(1)
        said = await operators.drain(id_of(worker), drained=True)
        (shown,) = await listed(world)
        world.runtime.gate.set()
        assert await running == b"running"

        waiting = asyncio.create_task(world.invoke(await world.function(), b"waiting"))
        await world.until(1)
        await signs_of_life(world, 2)  # a second apart; by then no pull of before is open
        assert not waiting.done()
        assert len(world.runtime.calls) == 1
        resumed = await operators.drain(id_of(worker), drained=False)
        assert await waiting == b"waiting"

    assert (said.draining, shown.draining, resumed.draining) == (True, True, False)


async def test_what_a_drained_worker_has_not_started_another_one_runs(world: World, operators: Operators) -> None:
    """A call whose container is just being made goes back at once, and is carried out elsewhere, once."""
    world.runtime.may_create.clear()
    function = await world.function()
    async with world.worker() as worker:
        await listed(world)
        calling = asyncio.create_task(world.invoke(function, b"x"))
        await world.runtime.asked_to_create.wait()
        await operators.drain(id_of(worker), drained=True)
        world.runtime.may_create.set()
        async with world.worker():
            assert await calling == b"x"
            assert worker._tasks == {}

    assert len(world.runtime.calls) == 1


async def test_a_drained_worker_can_be_stopped_and_a_new_one_is_not_drained(world: World, operators: Operators) -> None:
    """It leaves at once, with its last words; who starts after it has another id, and claims."""
    async with world.worker() as worker:
        await listed(world)
        former = id_of(worker)
        await operators.drain(former, drained=True)
    async with world.worker():
        assert await world.invoke(await world.function(), b"x") == b"x"
        with pytest.raises(NotFound):
            await operators.drain(former, drained=False)
        await world.until(0)
    assert await in_flight(world.bus) == 0


@pytest.mark.A2
@pytest.mark.F11
async def test_an_operator_drains_and_kills_over_https(nats: Installation, bus: Bus, tmp_path: Path) -> None:
    """
    Through an API server and with the permissions of a deployment: a worker is drained, a call that runs on it killed,
    its caller told by whom, and the worker let work again.
    """
    async with whole(nats, tmp_path) as it:
        it.runtime.gate.clear()
        name = (await it.client.get("/v1/users/me")).json()["username"]
        operator = await it.api.registered()
        await give_role(Stores.on(bus), operator["username"], "operator")
        async with it.api.client(operator["access_token"]) as client:
            calling = asyncio.create_task(it.call())
            await it.until_running(1)
            (worker,) = (await client.get("/v1/admin/workers")).json()["workers"]
            drained = (await client.post(f"/v1/admin/workers/{worker['id']}/drain")).json()
            (call,) = (await client.get(f"/v1/admin/users/{name}/activations?state=running")).json()["activations"]
            killed = await client.delete(f"/v1/admin/users/{name}/activations/{call['id']}")
            told = await calling
            (idle,) = (await client.get("/v1/admin/workers")).json()["workers"]
            undrained = (await client.delete(f"/v1/admin/workers/{worker['id']}/drain")).json()
            it.runtime.gate.set()
            await it.until_it_works()

    assert (worker["draining"], drained["draining"], idle["draining"], undrained["draining"]) == (
        False, True, True, False,
    )  # fmt: skip
    assert call["worker"] == worker["id"]
    assert (killed.status_code, killed.json()["state"]) == (200, "cancelled")
    assert (told.status_code, told.json()["code"], told.json()["ran"]) == (499, "cancelled", "yes")
    assert "by an operator" in told.json()["detail"]


async def test_draining_again_interrupts_no_tidying_up(
    world: World, operators: Operators, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that was half made is removed to its end, and its call goes back, however often one drains."""
    tidying, may_tidy, tidied = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def create(_: ContainerSpec) -> Container:
        world.runtime.asked_to_create.set()
        try:
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]
        finally:
            tidying.set()
            await may_tidy.wait()
            tidied.set()

    function = await world.function()
    async with world.worker() as worker:
        await listed(world)
        monkeypatch.setattr(world.runtime, "create", create)
        calling = asyncio.create_task(world.invoke(function, b"x"))
        await world.runtime.asked_to_create.wait()
        await operators.drain(id_of(worker), drained=True)
        await tidying.wait()
        await operators.drain(id_of(worker), drained=True)
        monkeypatch.undo()
        may_tidy.set()
        async with asyncio.timeout(10), world.worker():
            await tidied.wait()
            assert await calling == b"x"
