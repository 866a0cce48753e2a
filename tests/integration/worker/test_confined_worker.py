"""A real worker process without privileges: from a call on NATS to its answer, and to nothing left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mayfly.containers.confined.requirements import LANDLOCK_MIN, landlock_version
from mayfly.containers.confined.users import BLOCKS, CALLS, FIRST
from mayfly.domain.errors import FunctionFailed, RuntimeFailed, WorkerLost
from mayfly.domain.function import Network
from mayfly.domain.limits import Limits
from mayfly.domain.sandbox import LOST_WITH_CONFINED
from tests.integration.worker.test_docker_worker import World, world
from tests.support.bus import Installation, installation
from tests.support.containers import processes_of_users
from tests.support.images import build_and_push
from tests.support.need import need
from tests.support.registry import Registry

pytestmark = [pytest.mark.root, pytest.mark.A5, pytest.mark.F9]

STOP_S = 30.0


@asynccontextmanager
async def worker(made: Installation, registry: str, place: Path) -> AsyncIterator[int]:
    """`mayfly worker` with confined; yields its process id. It is stopped in good order, unless it is dead by then."""
    environment = {
        "PATH": os.environ["PATH"],
        "MAYFLY_RUNTIME": "confined",
        "MAYFLY_NATS_URL": made.server.url,
        "MAYFLY_NATS_USER": "worker",
        "MAYFLY_NATS_PASSWORD_FILE": str(made.password_file("worker")),
        "MAYFLY_PRIVATE_REGISTRIES": registry,
        "MAYFLY_PLAIN_HTTP_REGISTRIES": registry,
        "MAYFLY_STATE_DIR": str(place / "state"),
        "MAYFLY_IMAGE_DIR": str(place / "images"),
        "MAYFLY_LOG_FORMAT": "json",
        "MAYFLY_SLOTS": "2",
    }
    with (place / "log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "mayfly", "worker"], env=environment, stderr=log, stdout=log)
    try:
        yield process.pid
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, STOP_S)


def living(place: Path) -> list[int]:
    """Processes of confined calls, in images of this worker."""
    found = []
    for pid in processes_of_users(range(FIRST, FIRST + BLOCKS * 2 * CALLS)):
        with contextlib.suppress(OSError):  # it has just ended
            found += [pid] if Path(f"/proc/{pid}/root").readlink().is_relative_to(place) else []
    return found


def rooms(place: Path) -> list[Path]:
    """The directories of calls in the unpacked images."""
    return list(place.glob("images/trees/*/rootfs/dev/mayfly/*"))


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[tuple[Installation, World, str]]:
    """A server, an API server's side, a registry; no worker yet."""
    need(os.geteuid() == 0, "root")
    need(landlock_version() >= LANDLOCK_MIN, "Landlock, version 6")
    async with installation() as made, Registry() as registry, world(made) as us:
        yield made, us, registry.url


async def test_a_call_is_answered_by_a_confined_process(scene: tuple[Installation, World, str], tmp_path: Path) -> None:
    """Pulled from a registry, run, removed: the parameter comes back, and the exit code; and what is lost is logged."""
    made, us, registry = scene
    image = await build_and_push(registry, "cat", cmd=("/bin/cat",), user="app")
    function = await us.function(image)
    failing = await us.function(image, command=("/bin/sh", "-c", "echo x > $HOME/y; exit 3"))
    outgoing = await us.function(image, network=Network.EGRESS)
    async with worker(made, registry, tmp_path):
        assert await us.invoke(function, b"hello") == b"hello"
        assert await us.invoke(function, b"x" * (1 << 20)) == b"x" * (1 << 20)
        with pytest.raises(FunctionFailed, match="3"):
            await us.invoke(failing)
        with pytest.raises(RuntimeFailed, match="network: egress"):
            await us.invoke(outgoing)
    assert (living(tmp_path), rooms(tmp_path)) == ([], [])
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    said = {line["lost"]: line["instead"] for line in lines if line["event"] == "worker.confined"}
    assert said == LOST_WITH_CONFINED


async def test_a_killed_worker_takes_its_calls_along(scene: tuple[Installation, World, str], tmp_path: Path) -> None:
    """All processes die at once, by whichever of its processes is killed; its successor removes what they wrote."""
    made, us, registry = scene
    image = await build_and_push(registry, "sleep", cmd=("/bin/cat",))
    script = "echo x > $HOME/y; setsid sleep 100 & sleep 100"
    function = await us.function(image, command=("/bin/sh", "-c", script), limits=Limits(timeout_s=60))
    async with worker(made, registry, tmp_path) as pid:
        call = asyncio.create_task(us.invoke(function))
        async with asyncio.timeout(60):
            while len(living(tmp_path)) < 2:
                await asyncio.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            while living(tmp_path):
                await asyncio.sleep(0.02)
    [left] = rooms(tmp_path)
    echo = await us.function(image)
    async with worker(made, registry, tmp_path):
        assert await us.invoke(echo, b"again") == b"again"
        assert not left.exists()
        with pytest.raises(WorkerLost):
            await call
