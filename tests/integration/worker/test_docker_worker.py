"""A real worker process at a real Docker daemon: from a call on NATS to its answer, and to nothing left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from examples.oci import Image, push
from mayfly.bus.connection import Bus
from mayfly.bus.responses import Listener
from mayfly.bus.stores import Stores
from mayfly.domain.activation import State
from mayfly.domain.errors import FunctionFailed, TimedOut, WorkerLost
from mayfly.domain.function import Function
from mayfly.domain.ids import FunctionName, UserId, new_id
from mayfly.domain.limits import Limits
from mayfly.domain.worker import LEASE_S
from mayfly.services.call import Call
from mayfly.services.invoke import Invoker
from tests.support import dockerd_bare
from tests.support.bus import Installation, installation
from tests.support.docker_certificates import make_certificates
from tests.support.images import build_and_push
from tests.support.need import need
from tests.support.processes import is_alive
from tests.support.registry import Registry

pytestmark = [pytest.mark.root, pytest.mark.A5, pytest.mark.F9]

STOP_S = 30.0
TOLD_S = 5.0
NOBODY = 65_534


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dockerd_bare.Daemon]:
    """A Docker daemon for these tests, at a socket and by TLS."""
    need(os.geteuid() == 0, "root")
    need(dockerd_bare.PROGRAM, "dockerd")
    with dockerd_bare.dockerd(make_certificates(tmp_path_factory.mktemp("tls"))) as daemon:
        yield daemon


@asynccontextmanager
async def worker(
    made: Installation, daemon: dockerd_bare.Daemon, registry: str, place: Path, *, by_tls: bool
) -> AsyncIterator[int]:
    """`mayfly worker` with docker; yields its process id. It is stopped in good order, unless it is dead by then."""
    environment = {
        "PATH": os.environ["PATH"],
        "MAYFLY_RUNTIME": "docker",
        "MAYFLY_DOCKER_HOST": daemon.unix.host,
        "MAYFLY_NATS_URL": made.server.url,
        "MAYFLY_NATS_USER": "worker",
        "MAYFLY_NATS_PASSWORD_FILE": str(made.password_file("worker")),
        "MAYFLY_PRIVATE_REGISTRIES": registry,
        "MAYFLY_PLAIN_HTTP_REGISTRIES": registry,
        "MAYFLY_STATE_DIR": str(place / "state"),
        "MAYFLY_IMAGE_DIR": str(place / "images"),
        "MAYFLY_SLOTS": "2",
    }
    if by_tls:
        environment |= {"MAYFLY_DOCKER_HOST": daemon.tcp, "MAYFLY_DOCKER_TLS_DIR": str(daemon.tls)}
    process = subprocess.Popen([sys.executable, "-m", "mayfly", "worker"], env=environment)
    try:
        yield process.pid
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, STOP_S)


@dataclass
class World:
    """An API server's invoker, and functions of one user."""

    bus: Bus
    stores: Stores
    invoker: Invoker

    async def function(self, image: str, **given: object) -> Function:
        """Register one."""
        function = Function(
            id=new_id(),
            user_id=UserId(new_id()),
            name=FunctionName("f"),
            image=image,
            created_at=1,
            updated_at=1,
            **given,  # type: ignore[arg-type]
        )
        await self.stores.functions.create(function.key, function)
        return function

    async def invoke(self, function: Function, parameter: bytes = b"") -> bytes:
        """Call it."""
        return (await self.invoker.invoke(Call(function.user_id, function, parameter))).result


@asynccontextmanager
async def world(made: Installation) -> AsyncIterator[World]:
    """Connect as an API server."""
    async with made.connect("api") as bus:
        listener = Listener(new_id())
        async with listener.listening(bus):
            yield World(bus, Stores.on(bus), Invoker(bus, Stores.on(bus), listener, wait_ms=0, keep_s=3600))


@dataclass
class Scene:
    """What all these tests need."""

    made: Installation
    world: World
    registry: str
    daemon: dockerd_bare.Daemon
    place: Path

    def worker(self, *, by_tls: bool = False) -> AbstractAsyncContextManager[int]:
        """Run a worker; the second one in the same place is the first one's successor."""
        return worker(self.made, self.daemon, self.registry, self.place, by_tls=by_tls)

    def containers(self) -> list[dict[str, object]]:
        """All of the daemon's."""
        listed: list[dict[str, object]] = self.daemon.ask("GET", "/containers/json?all=1").json()
        return listed

    async def until_containers(self, count: int, *, running: bool = False) -> None:
        """Wait until the daemon has so many."""
        async with asyncio.timeout(30):
            while sum(not running or each["State"] == "running" for each in self.containers()) != count:
                await asyncio.sleep(0.02)


@pytest.fixture
async def scene(daemon: dockerd_bare.Daemon, tmp_path: Path) -> AsyncIterator[Scene]:
    """A server, a registry, an API server's side; no worker yet."""
    async with installation() as made, Registry() as registry, world(made) as us:
        yield Scene(made, us, registry.url, daemon, tmp_path)


@pytest.mark.parametrize("by_tls", [False, True], ids=["socket", "tls"])
async def test_a_call_is_answered_by_a_container_of_docker(scene: Scene, by_tls: bool) -> None:
    """Pulled from a registry, imported, run, removed: the parameter comes back, and so do exit code and user."""
    before = set(scene.daemon.everything()["images"])
    image = await build_and_push(scene.registry, "cat", cmd=("/bin/cat",), user="app")
    function = await scene.world.function(image)
    failing = await scene.world.function(image, command=("/bin/sh", "-c", "id -u >&2; exit 3"))
    async with scene.worker(by_tls=by_tls):
        assert await scene.world.invoke(function, b"hello") == b"hello"
        assert await scene.world.invoke(function, b"x" * (1 << 20)) == b"x" * (1 << 20)
        with pytest.raises(FunctionFailed, match="3"):
            await scene.world.invoke(failing)
        await scene.until_containers(0)
    assert len(set(scene.daemon.everything()["images"]) - before) == 1


def mayfly(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with docker for a runtime."""
    environment = {"PATH": os.environ["PATH"], "MAYFLY_RUNTIME": "docker", **settings}
    command = [sys.executable, "-m", "mayfly", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_settings_say_which_daemon_answers(daemon: dockerd_bare.Daemon) -> None:
    """Its version, whose wish it is, where it is, and the version of the API."""
    version = daemon.ask("GET", "/version").json()["Version"]
    shown = mayfly("settings", "worker", MAYFLY_DOCKER_HOST=daemon.unix.host).stdout.splitlines()[-1]
    assert shown.startswith(f"runtime in use: docker {version}: set by the operator; {daemon.unix.host}, API 1.4")


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("unix:///nowhere", "There is no Docker socket at /nowhere. Is MAYFLY_DOCKER_HOST right, and is it mounted?"),
        ("tcp://127.0.0.1:2375", "MAYFLY_DOCKER_HOST is a tcp address without MAYFLY_DOCKER_TLS_DIR"),
        ("127.0.0.1:2375", "it takes unix:///path, or tcp://host:2376 with MAYFLY_DOCKER_TLS_DIR."),
    ],
)
def test_a_daemon_that_cannot_be_asked_is_said_in_a_sentence(host: str, words: str) -> None:
    """By the worker, which does not start, and beside all the settings by `mayfly settings`."""
    ended = mayfly("worker", MAYFLY_DOCKER_HOST=host, MAYFLY_NATS_URL="nats://127.0.0.1:1")
    assert ended.returncode == 6
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    shown = mayfly("settings", "worker", MAYFLY_DOCKER_HOST=host)
    assert shown.returncode == 0
    assert "MAYFLY_SLOTS" in shown.stdout
    assert shown.stdout.splitlines()[-1].startswith("runtime in use: none: ")
    assert words in shown.stdout.splitlines()[-1]


def test_a_socket_for_others_is_said_in_a_sentence(daemon: dockerd_bare.Daemon) -> None:
    """With the remedy."""
    script = f"""
        import os
        from mayfly.containers.choose import DockerAddress, explain_runtime
        from mayfly.domain.errors import RuntimeFailed
        os.setuid({NOBODY})
        try:
            explain_runtime("docker", docker=DockerAddress(host="{daemon.unix.host}"))
        except RuntimeFailed as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "may not use the Docker socket" in said
    assert "(MAYFLY_DOCKER_HOST). Run it as root, or in the group that owns the socket." in said


class Odd(Image):
    """An image with all that a configuration may ask of a daemon."""

    def config(self, diff_id: str) -> dict[str, Any]:
        """Volumes, labels of ours, a health check, ports, a signal and a shell, beside the usual."""
        whole = super().config(diff_id)
        whole["config"] |= {
            "Volumes": {"/data": {}, "/": {}, "/proc": {}},
            "Labels": {"mayfly.worker": "another", "mayfly.rootfs": "/", 'a"; $(x)': "`y`"},
            "Healthcheck": {"Test": ["CMD-SHELL", "touch /checked"], "Interval": 1000000},
            "ExposedPorts": {"22/tcp": {}},
            "StopSignal": "SIGCONT",
            "Shell": ["/bin/false"],
            "OnBuild": ["RUN false"],
        }
        return whole


async def test_an_image_decides_about_its_process_and_nothing_else(scene: Scene) -> None:
    """USER, WORKDIR, ENTRYPOINT, CMD and ENV hold; volumes, labels, health checks and ports come to nothing."""
    script = """id -u; id -g; pwd; echo "$GREETING $0"; mount | grep -c ' /data '; ls / | grep checked"""
    odd = Odd(
        entrypoint=("/bin/sh", "-c", f"{script}; true"),
        cmd=("argument",),
        env={"GREETING": "from the image"},
        user="app:777",
        workdir="/srv/work",
    )
    reference = f"{scene.registry}/odd:1"
    await asyncio.to_thread(push, odd, reference)
    function = await scene.world.function(reference)
    async with scene.worker():
        assert await scene.world.invoke(function) == b"1234\n777\n/srv/work\nfrom the image argument\n0\n"
        await scene.until_containers(0)
    assert scene.daemon.everything()["volumes"] == []
    for image in scene.daemon.ask("GET", "/images/json").json():
        assert image["Labels"].keys() == {"mayfly.worker", "mayfly.rootfs"}
        assert image["Labels"]["mayfly.worker"] != "another"


async def test_a_call_during_a_restart_of_the_daemon_waits_for_it(scene: Scene) -> None:
    """The worker lives on, and so does the call: nothing of it has run before the daemon is back."""
    image = await build_and_push(scene.registry, "cat", cmd=("/bin/cat",))
    function = await scene.world.function(image)
    async with scene.worker():
        assert await scene.world.invoke(function, b"before") == b"before"
        await asyncio.to_thread(scene.daemon.stop)
        calling = asyncio.create_task(scene.world.invoke(function, b"meanwhile"))
        await asyncio.to_thread(scene.daemon.start)
        assert await calling == b"meanwhile"
        await scene.until_containers(0)


async def test_a_call_that_takes_too_long_is_ended(scene: Scene) -> None:
    """At its deadline the container is killed and removed, and the caller is told."""
    image = await build_and_push(scene.registry, "sleep", cmd=("/bin/sleep", "60"))
    function = await scene.world.function(image, limits=Limits(timeout_s=5))
    async with scene.worker():
        with pytest.raises(TimedOut):
            await scene.world.invoke(function)
        await scene.until_containers(0)


async def test_a_frozen_workers_container_ends_within_its_lease(scene: Scene) -> None:
    """The watchdog kills the worker, whose connections close, so the daemon ends the container; the caller is told."""
    image = await build_and_push(scene.registry, "sleep", cmd=("/bin/sleep", "60"))
    function = await scene.world.function(image)
    async with scene.worker() as watchdog:
        calling = asyncio.create_task(scene.world.invoke(function))
        await scene.until_containers(1, running=True)
        inner = int(Path(f"/proc/{watchdog}/task/{watchdog}/children").read_text().split()[0])
        await running(scene.world, function)
        os.kill(inner, signal.SIGSTOP)
        async with asyncio.timeout(TOLD_S):
            with pytest.raises(WorkerLost):
                await calling
        async with asyncio.timeout(LEASE_S + 1):
            await scene.until_containers(0, running=True)
            while is_alive(inner):
                await asyncio.sleep(0.02)
    async with scene.worker():
        await scene.until_containers(0)


async def running(world: World, function: Function) -> None:
    """Return when the one activation of a function's owner is running."""
    async with asyncio.timeout(20):
        while True:
            for key in await world.stores.activations.keys(function.user_id):
                entry = await world.stores.activations.get(key)
                if entry and entry.value.state is State.RUNNING:
                    return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("by_tls", [False, True], ids=["socket", "tls"])
async def test_a_killed_workers_container_ends_and_its_successor_removes_it(scene: Scene, by_tls: bool) -> None:
    """Kill -9 of the worker ends its container, which stays until the next worker starts; the caller is told."""
    image = await build_and_push(scene.registry, "sleep", cmd=("/bin/sleep", "60"))
    function = await scene.world.function(image)
    async with scene.worker(by_tls=by_tls) as pid:
        calling = asyncio.create_task(scene.world.invoke(function))
        await scene.until_containers(1, running=True)  # it may still be held
        await running(scene.world, function)
        os.kill(pid, signal.SIGKILL)
        await scene.until_containers(0, running=True)
        assert len(scene.containers()) == 1
    async with scene.worker(by_tls=by_tls):
        await scene.until_containers(0)
        with pytest.raises(WorkerLost):
            await calling
