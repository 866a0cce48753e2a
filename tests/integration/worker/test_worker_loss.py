"""
Real workers with real containers that are lost in each way a worker can be: killed, frozen, stuck, cut off from NATS.

The caller is told, and no container lives when its slot is given to another.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mayfly.bus.connection import Bus
from mayfly.bus.queue import in_flight
from mayfly.bus.responses import Listener
from mayfly.bus.stores import Stores
from mayfly.domain.activation import Activation, State
from mayfly.domain.errors import MayflyError, RuntimeFailed, WorkerLost
from mayfly.domain.function import Function
from mayfly.domain.ids import FunctionName, UserId, new_id
from mayfly.domain.limits import Limits
from mayfly.domain.worker import LEASE_S
from mayfly.services import call as calls
from mayfly.services.invoke import Invoker
from mayfly.services.janitor import FENCE_S, Janitor
from tests.support.bus import Installation, installation
from tests.support.images import build_and_push
from tests.support.need import need
from tests.support.proxy import Proxy
from tests.support.registry import Registry

pytestmark = [pytest.mark.root, pytest.mark.A5, pytest.mark.F11]

TOLD_S = 5.0
STUCK_AT_SIGUSR1 = """
import signal, sys, threading
signal.signal(signal.SIGUSR1, lambda *_: threading.Event().wait())
from mayfly.__main__ import main
sys.argv = ["mayfly", "worker"]
main()
"""


@dataclass
class LoneWorker:
    """A `mayfly worker` in processes of its own, with a link to NATS of its own."""

    process: subprocess.Popen[bytes]
    proxy: Proxy
    state_dir: Path

    @property
    def id(self) -> str:
        """What it calls itself."""
        return str(json.loads((self.state_dir / "worker.json").read_bytes())["id"])

    @property
    def outer(self) -> int:
        """The watchdog."""
        return self.process.pid

    @property
    def process_1(self) -> int:
        """The first of its namespaces."""
        return _child(self.outer)

    @property
    def inner(self) -> int:
        """The worker itself."""
        return _child(self.process_1)


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@dataclass
class Scene:
    """A server, a registry with one image, an API server's side, a janitor."""

    made: Installation
    bus: Bus
    stores: Stores
    invoker: Invoker
    registry: str
    image: str
    place: Path

    @asynccontextmanager
    async def worker(self, name: str, runtime: str = "native") -> AsyncIterator[LoneWorker]:
        """Run a worker with one slot; the second one of a name is the first one's successor."""
        async with Proxy(self.made.server.port) as proxy:
            state_dir = self.place / name
            environment = {
                "PATH": os.environ["PATH"],
                "MAYFLY_RUNTIME": runtime,
                "MAYFLY_NATS_URL": proxy.url,
                "MAYFLY_NATS_USER": "worker",
                "MAYFLY_NATS_PASSWORD_FILE": str(self.made.password_file("worker")),
                "MAYFLY_PRIVATE_REGISTRIES": self.registry,
                "MAYFLY_PLAIN_HTTP_REGISTRIES": self.registry,
                "MAYFLY_STATE_DIR": str(state_dir),
                "MAYFLY_IMAGE_DIR": str(self.place / f"images-{name}"),
                "MAYFLY_SLOTS": "1",
                "MAYFLY_STOP_GRACE_S": "0",
                "MAYFLY_METRICS_LISTEN": "",
            }
            former = state_dir / "worker.json"
            before = former.read_bytes() if former.exists() else b""
            worker = LoneWorker(
                subprocess.Popen([sys.executable, "-c", STUCK_AT_SIGUSR1], env=environment), proxy, state_dir
            )
            try:
                async with asyncio.timeout(30):
                    while not former.exists() or former.read_bytes() == before:
                        assert worker.process.poll() is None
                        await asyncio.sleep(0.05)
                    while not await self.stores.workers.get(worker.id):
                        await asyncio.sleep(0.05)
                yield worker
            finally:
                proxy.heal()
                worker.process.terminate()
                await asyncio.to_thread(worker.process.wait, 30)

    async def call(self) -> Call:
        """Start a call that sleeps, and return when its container runs."""
        seconds = str(100_000 + secrets.randbelow(1_000_000))
        function = Function(
            id=new_id(),
            user_id=UserId(new_id()),
            name=FunctionName("f"),
            image=self.image,
            command=("/bin/sleep", seconds),
            limits=Limits(timeout_s=120),
            created_at=1,
            updated_at=1,
        )
        await self.stores.functions.create(function.key, function)
        invoking = asyncio.create_task(self._outcome(function))
        call = Call(self, function, seconds, invoking)
        async with asyncio.timeout(30):
            while not call.alive():
                assert not invoking.done(), invoking.result()
                await asyncio.sleep(0.05)
        return call

    async def _outcome(self, function: Function) -> MayflyError:
        with pytest.raises(MayflyError) as caught:
            await self.invoker.invoke(calls.Call(function.user_id, function, b""))
        return caught.value


@dataclass
class Call:
    """One call that runs for as long as its worker lets it."""

    scene: Scene
    function: Function
    seconds: str
    invoking: asyncio.Task[MayflyError]

    def alive(self) -> list[int]:
        """The processes of its function, wherever they are."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if (
                    entry.name.isdigit()
                    and (entry / "cmdline").read_bytes() == f"/bin/sleep\0{self.seconds}\0".encode()
                ):
                    found.append(int(entry.name))
        return found

    async def record(self) -> Activation:
        """Its record."""
        [key] = await self.scene.stores.activations.keys(self.function.user_id)
        entry = await self.scene.stores.activations.get(key)
        assert entry
        return entry.value

    async def is_in_flight(self) -> bool:
        """Whether it has its slot."""
        return bool(await in_flight(self.scene.bus, self.function.user_id))

    async def is_told_in_time(self) -> None:
        """Its caller hears within 5 s that the worker was lost, and that nobody knows whether it ran."""
        async with asyncio.timeout(TOLD_S):
            error = await self.invoking
        assert isinstance(error, WorkerLost)
        assert error.ran == "unknown"
        assert (await self.record()).state is State.WORKER_LOST

    async def is_dead_before_its_slot_is_free(self) -> None:
        """Whoever gets the slot is alone in it; and the container lives no longer than the lease, counted from now."""
        began = time.monotonic()
        while alive := self.alive():
            assert time.monotonic() - began < LEASE_S + 1, "it outlives the lease"
            assert await self.is_in_flight(), f"{alive} live in a slot that was given back"
            await asyncio.sleep(0.05)

    async def slot_is_free_within(self, seconds: float) -> None:
        """It comes back."""
        async with asyncio.timeout(seconds):
            while await self.is_in_flight():
                await asyncio.sleep(0.05)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """One with its janitor at work."""
    need(os.geteuid() == 0, "root")
    need(shutil.which("docker-registry") and shutil.which("crun"), "docker-registry and crun")
    async with installation() as made, made.connect("api") as bus, Registry() as registry:
        image = await build_and_push(registry.url, "sleep")
        listener, stores = Listener(new_id()), Stores.on(bus)
        async with listener.listening(bus):
            invoker = Invoker(bus, stores, listener, wait_ms=0, keep_s=3600)
            janitor = asyncio.create_task(Janitor(bus, stores, keep_s=3600).run())
            yield Scene(made, bus, stores, invoker, registry.url, image, tmp_path)
            janitor.cancel()


def freeze(worker: LoneWorker) -> None:
    """The worker alone."""
    os.kill(worker.inner, signal.SIGSTOP)


def freeze_with_process_1(worker: LoneWorker) -> None:
    """The worker, and the one that would see it end."""
    os.kill(worker.process_1, signal.SIGSTOP)
    freeze(worker)


def freeze_process_1_and_kill(worker: LoneWorker) -> None:
    """The worker ends, and process 1 does not see it."""
    os.kill(worker.process_1, signal.SIGSTOP)
    os.kill(worker.inner, signal.SIGKILL)


def block(worker: LoneWorker) -> None:
    """Its event loop is kept from going on."""
    os.kill(worker.inner, signal.SIGUSR1)


def cut_off(worker: LoneWorker) -> None:
    """It lives, and reaches nobody."""
    worker.proxy.cut()


async def test_no_container_of_a_lost_worker_lives_when_its_slot_is_given_back(scene: Scene) -> None:
    """
    However a worker is lost that still lives (frozen, process 1 too; its event loop stuck; cut off from NATS without a
    word): its caller is told within 5 s, its containers are dead within its lease, and only then the slot is free.
    """

    async def lose(how: Callable[[LoneWorker], None]) -> None:
        async with scene.worker(how.__name__) as worker:
            call = await scene.call()
            assert (await call.record()).worker == worker.id
            started.release()
            async with everybody_runs:
                await everybody_runs.wait()
            how(worker)
            await call.is_told_in_time()
            await call.is_dead_before_its_slot_is_free()
            await call.slot_is_free_within(FENCE_S + 5)
            if how is cut_off:
                assert worker.process.poll() is None  # it killed its containers itself, and is there for what comes
            else:
                assert await asyncio.to_thread(worker.process.wait, 5) == 128 + signal.SIGKILL

    ways = (freeze, freeze_with_process_1, freeze_process_1_and_kill, block, cut_off)
    started, everybody_runs = asyncio.Semaphore(0), asyncio.Condition()
    async with asyncio.TaskGroup() as group:
        for how in ways:
            group.create_task(lose(how), name=how.__name__)
            await started.acquire()  # one after the other, so that each call is where its worker has the free slot
        async with everybody_runs:
            everybody_runs.notify_all()


def kill_worker(worker: LoneWorker) -> None:
    """The worker itself."""
    os.kill(worker.inner, signal.SIGKILL)


def kill_process_1(worker: LoneWorker) -> None:
    """The first process of its namespaces."""
    os.kill(worker.process_1, signal.SIGKILL)


def kill_outer(worker: LoneWorker) -> None:
    """Its watchdog."""
    os.kill(worker.outer, signal.SIGKILL)


@pytest.mark.parametrize("how", [kill_worker, kill_process_1, kill_outer])
async def test_a_killed_workers_slot_comes_back_when_its_successor_has_proved_it_gone(
    scene: Scene, how: Callable[[LoneWorker], None]
) -> None:
    """Whichever of its processes is killed: the caller is told within 5 s, and need not wait for the fence."""
    async with scene.worker("w") as worker:
        call, former = await scene.call(), worker.id
        how(worker)
        await call.is_told_in_time()
        assert await scene.stores.workers.get(former) is not None
        assert await call.is_in_flight()  # that nothing is heard of it is no proof
        async with asyncio.timeout(1):
            while call.alive():
                await asyncio.sleep(0.02)
    async with scene.worker("w"):
        entry = await scene.stores.workers.get(former)
        assert entry
        assert entry.value.gone
        await call.slot_is_free_within(3)


async def test_a_worker_in_another_place_proves_nothing(scene: Scene) -> None:
    """Another worker on the machine says nothing of one that was killed, even with a copy of what it left."""
    async with scene.worker("w") as worker:
        call, former = await scene.call(), worker.id
        kill_worker(worker)
        await call.is_told_in_time()
    (scene.place / "copy").mkdir()
    shutil.copy(scene.place / "w" / "worker.json", scene.place / "copy" / "worker.json")
    async with scene.worker("copy"):
        entry = await scene.stores.workers.get(former)
        assert entry is None or not entry.value.gone


async def test_an_outage_of_nats_shorter_than_the_lease_kills_nothing(scene: Scene) -> None:
    """After a restart, and eight seconds without an answer, which is more than a change of leader takes, it runs on."""
    async with scene.worker("w") as worker:
        call = await scene.call()
        [pid] = call.alive()
        await scene.made.server.restart()
        await asyncio.sleep(LEASE_S + 1)  # here and below: what is tested is how long something lasts
        assert call.alive() == [pid]
        scene.made.server.freeze()
        await asyncio.sleep(8)
        scene.made.server.thaw()
        await asyncio.sleep(LEASE_S - 8 + 1)
        assert call.alive() == [pid]
        assert (await call.record()).state is State.RUNNING
        assert worker.process.poll() is None
    error = await call.invoking  # told to stop, it had no time to wait
    assert isinstance(error, WorkerLost)


@pytest.mark.parametrize(("runtime", "victims"), [("native", ("init",)), ("crun", ("crun", "init"))])
async def test_what_kills_a_container_alone_is_no_loss_of_its_worker(
    runtime: str, victims: tuple[str, ...], scene: Scene
) -> None:
    """When crun or the held init is killed, the caller is told at once, and that nobody knows whether it ran."""
    async with scene.worker("w", runtime) as worker:
        for victim in victims:
            call = await scene.call()
            [function] = call.alive()
            init = _parent(function)
            os.kill(init if victim == "init" else _parent(init), signal.SIGKILL)
            async with asyncio.timeout(TOLD_S):
                error = await call.invoking
            assert isinstance(error, RuntimeFailed)
            assert error.ran == "unknown", victim
            assert not call.alive()
            await call.slot_is_free_within(TOLD_S)
        assert worker.process.poll() is None


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
