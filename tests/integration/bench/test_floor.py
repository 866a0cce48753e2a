"""What Mayfly is compared with, run for real: bare namespaces, bare crun, and a Docker daemon."""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import cpu, docker, engine, spawn
from bench.connection import Connection
from bench.daemon import Docker, running_docker
from bench.floor import NAMES, running_floor
from tests.support.files import directories_below
from tests.support.need import need
from tests.support.processes import is_alive

pytestmark = pytest.mark.root
CGROUPS = Path("/sys/fs/cgroup")


@pytest.fixture(scope="module")
def running() -> Iterator[Docker]:
    """A daemon of the bench's own; afterwards its cgroups are gone from every hierarchy."""
    need(os.geteuid() == 0, "root")
    need(shutil.which("dockerd"), "dockerd")
    with running_docker() as made:
        yield made
    assert not [path for path in directories_below(CGROUPS) if path.name == f"mayfly-bench-{os.getpid()}"]


async def test_a_floor_is_measured_for_as_long_as_asked() -> None:
    """Each says how long every call took, and how much processor time the programs used: more than their starter."""
    need(os.geteuid() == 0, "root")
    need(shutil.which("crun"), "crun")
    async with running_floor() as floor:
        for name in NAMES:
            alone, two = await floor.block(name, 1, 0), await floor.block(name, 2, 0.3)
            assert len(alone.times_ms) == 1
            assert len(two.times_ms) >= 2
            assert two.seconds >= 0.3
            assert sum(two.times_ms) <= 2 * two.seconds * 1e3
            assert two.cpu_s["programs"] > two.cpu_s["client"] > 0
        pid = floor.pid
    assert not is_alive(pid)


async def test_a_floor_that_ends_is_an_error() -> None:
    """Asked for what it does not know, the program ends, and whoever asked is told."""
    need(os.geteuid() == 0, "root")
    need(shutil.which("crun"), "crun")
    async with running_floor() as floor:
        with pytest.raises(RuntimeError, match="has ended with 1 when asked for nothing"):
            await floor.block("nothing", 1, 0)


@pytest.mark.parametrize("script", ["cat; exit 3", "echo other"])
def test_a_program_that_does_something_else_is_an_error(script: str) -> None:
    """Another status, or another output, is no call."""
    with pytest.raises(RuntimeError, match="/bin/sh ended with"):
        spawn.block(lambda: ("/bin/sh", "-c", script), 2, 0)


async def test_the_engine_api_runs_a_container_for_each_call(running: Docker) -> None:
    """Several at once, over connections that are kept; no container is left, and the daemon's time is counted."""
    known: list[float] = []
    before = running.group.used_s()
    found = await engine.block(running, 2, 0, known)

    assert len(found.times_ms) == len(known) == 2
    assert statistics.mean(known) < statistics.mean(found.times_ms)
    assert found.cpu_s["dockerd, containerd, runc"] > found.cpu_s["client"] > 0
    assert running.group.used_s() > before
    assert running.daemon.everything()["containers"] == []


async def test_what_the_daemon_refuses_is_an_error(running: Docker) -> None:
    """With its own words; here, a container whose image is not there."""
    connection = await Connection.open_unix(running.socket)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "CREATE", engine.CREATE.replace(b"mayfly-bench:1", b"mayfly-bench:2"))
            with pytest.raises(RuntimeError, match="No such image: mayfly-bench:2"):
                await engine.call(connection, running.socket)
        await engine.call(connection, running.socket)
    finally:
        connection.close()


async def test_docker_run_is_a_program_for_each_call(running: Docker) -> None:
    """Its own processor time is counted beside the daemon's; no container is left."""
    found = await docker.block(running, 1, 0)

    assert len(found.times_ms) == 1
    assert all(each > 0 for each in found.cpu_s.values())
    assert running.daemon.everything()["containers"] == []


@pytest.mark.parametrize("cut", [4, 10])
def test_frames_that_end_early_are_an_error(cut: int) -> None:
    """Stdout is put together out of its frames, and stderr is left out; half a frame is no output."""
    frames = engine.FRAME.pack(1, 3) + b"one" + engine.FRAME.pack(2, 3) + b"err" + engine.FRAME.pack(1, 2) + b"tw"

    assert engine.demultiplex(frames) == b"onetw"
    with pytest.raises(RuntimeError, match="ended within"):
        engine.demultiplex(frames[:cut])


async def test_processor_time_of_a_process_is_counted() -> None:
    """All of its threads', as long as it lives, and nothing while it waits; afterwards it is that of an ended child."""
    burn = "import time; until = time.process_time() + 0.2\nwhile time.process_time() < until: pass\nprint()\ninput()"
    ended = cpu.of_ended_children()
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", burn], stdin=pipe, stdout=pipe) as process:
        assert process.stdout
        assert process.stdin
        process.stdout.readline()
        used = cpu.of_processes([process.pid])
        assert used >= 0.19
        await asyncio.sleep(0.1)
        assert cpu.of_processes([process.pid]) - used < 0.05
        process.stdin.close()
        process.wait()
    assert cpu.of_ended_children() - ended >= 0.19
