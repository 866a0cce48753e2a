"""A Docker daemon that is restarted, killed, frozen or full: each call gets an honest end soon, and nothing stays."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mayfly.containers.docker import engine
from mayfly.containers.docker import runtime as driver_of
from mayfly.containers.docker.runtime import DockerRuntime
from mayfly.containers.runtime import Call, Ending, EndReason
from mayfly.domain.errors import RuntimeFailed
from tests.support import dockerd_bare
from tests.support.containers import (
    DOCKER_HOST,
    SCALE,
    OurContainer,
    World,
    copy_rootfs,
    open_runtime,
    processes_of,
    spoken,
)
from tests.support.need import need

pytestmark = [pytest.mark.root, pytest.mark.F9, pytest.mark.F11]

PATIENCE_S = 30 * SCALE


@pytest.fixture(scope="module")
def daemon(prepared_host: None) -> Iterator[dockerd_bare.Daemon]:
    """A daemon for these tests, as it is not fit for others."""
    need(dockerd_bare.PROGRAM, "dockerd")
    with pytest.MonkeyPatch.context() as patch, dockerd_bare.dockerd() as daemon:
        patch.setenv(DOCKER_HOST, daemon.unix.host)
        yield daemon


@contextmanager
def opened(rootfs: Path, state_dir: Path) -> Iterator[World]:
    """The driver at the daemon of the moment."""
    runtime = open_runtime("docker", state_dir=state_dir)
    assert isinstance(runtime, DockerRuntime)
    yield World(runtime, rootfs)


@pytest.fixture
async def world(daemon: dockerd_bare.Daemon, rootfs: Path, state_dir: Path) -> AsyncIterator[World]:
    """The driver, ready; when the test is over nothing is left, though it may take the daemon a moment."""
    with opened(rootfs, state_dir) as world:
        try:
            await world.run("true")
            yield world
            await until_nothing_is_left(world)
        finally:
            await world.runtime.close()


Hurry = Callable[[], None]


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> Hurry:
    """From then on, limits of time that a test can wait for; what works may need more on a machine with other work."""

    def now() -> None:
        monkeypatch.setattr(engine, "AWAY_S", 0.5)
        monkeypatch.setattr(engine, "REQUEST_TIMEOUT_S", 1.0)
        monkeypatch.setattr(driver_of, "DEATH_TIMEOUT_S", 5.0)
        monkeypatch.setattr(driver_of, "RETRY_S", 0.2)

    monkeypatch.setattr(driver_of, "ALONE_S", 0.2)
    return now


async def until_nothing_is_left(world: World) -> None:
    """Return when the daemon has no container of ours."""
    async with asyncio.timeout(PATIENCE_S):
        while await asyncio.to_thread(world.left):
            await asyncio.sleep(0.05)


async def until_dead(container_id: str) -> None:
    """Return when no process of the container lives, whatever the daemon says."""
    async with asyncio.timeout(PATIENCE_S):
        while processes_of(container_id):
            await asyncio.sleep(0.02)


def too_large(rootfs: Path, directory: Path) -> Path:
    """An image that fits no small disk."""
    copy_rootfs(rootfs, directory)
    with (directory / "opt" / "large").open("wb") as file:
        file.truncate(64 << 20)
    return directory


def run(container: OurContainer, *argv: str, timeout_s: float = 60.0) -> asyncio.Task[Ending]:
    """Begin a call."""
    return asyncio.create_task(container.run(Call(argv=argv), timeout_s=timeout_s * SCALE))


async def test_a_restart_costs_only_the_calls_that_outlast_it(world: World, daemon: dockerd_bare.Daemon) -> None:
    """
    A call that ends before the daemon gives up waiting has its answer, one that does not is unknown, and one that
    begins meanwhile waits for the daemon.
    """
    short, long = await world.create(), await world.create()
    answered = run(short, "sh", "-c", "echo begun; sleep 2; echo done")
    lost = run(long, "sh", "-c", "echo begun; sleep 60")
    await asyncio.gather(spoken(short), spoken(long))
    stopping = asyncio.create_task(asyncio.to_thread(daemon.stop))
    ending = await asyncio.wait_for(answered, PATIENCE_S)
    assert (ending.reason, ending.exit_code, ending.stdout) == (EndReason.EXITED, 0, b"begun\ndone\n")
    assert not stopping.done()
    await stopping
    late = asyncio.create_task(world.run("echo", "late"))
    starting = asyncio.create_task(asyncio.to_thread(daemon.start))
    with pytest.raises(RuntimeFailed, match="The Docker daemon was away during the call") as caught:
        await asyncio.wait_for(lost, PATIENCE_S)
    assert caught.value.ran == "unknown"
    assert (await asyncio.wait_for(late, PATIENCE_S)).stdout == b"late\n"
    await starting
    await asyncio.gather(short.remove(), long.remove())


async def test_a_daemon_that_keeps_its_containers_keeps_none_of_ours(
    prepared_host: None, rootfs: Path, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `live-restore` a restart ends no container, but nobody hears this one any more: it is ended, as unknown."""
    need(dockerd_bare.PROGRAM, "dockerd")
    with dockerd_bare.dockerd(options=("--live-restore",)) as lasting:
        monkeypatch.setenv(DOCKER_HOST, lasting.unix.host)
        with opened(rootfs, state_dir) as world:
            container = await world.create()
            lost = run(container, "escape_death")
            await spoken(container)
            await asyncio.to_thread(lasting.stop)
            assert processes_of(container.id)
            await asyncio.to_thread(lasting.start)
            with pytest.raises(RuntimeFailed, match="was away during the call") as caught:
                await asyncio.wait_for(lost, PATIENCE_S)
            assert caught.value.ran == "unknown"
            await until_dead(container.id)
            await container.remove()
            assert not world.left()
            await world.runtime.close()


async def test_a_crash_of_the_daemon_ends_the_function(
    world: World, daemon: dockerd_bare.Daemon, hurry: Hurry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Killed with its containerd, it closes nothing: the function lives on, but not beyond its time limit. The call is
    unknown, and its remains go when the daemon is back.
    """
    container = await world.create()
    lost = run(container, "escape_death", timeout_s=4)
    await spoken(container)
    hurry()
    began = time.monotonic()
    await asyncio.to_thread(daemon.kill)
    with pytest.raises(RuntimeFailed, match=r"lost.*does not answer") as caught:
        await asyncio.wait_for(lost, PATIENCE_S)
    assert caught.value.ran == "unknown"
    with pytest.raises(RuntimeFailed, match="does not answer"):
        await container.remove()
    with pytest.raises(RuntimeFailed, match="does not answer") as refused:
        await world.run("true")
    assert refused.value.ran == "no"
    assert time.monotonic() - began < 20 * SCALE
    await until_dead(container.id)
    await asyncio.to_thread(daemon.start)
    monkeypatch.undo()
    monkeypatch.setattr(driver_of, "RETRY_S", 0.2)
    await until_nothing_is_left(world)
    assert (await world.run("echo", "again")).stdout == b"again\n"


async def test_a_frozen_daemon_holds_no_call_up(
    world: World, daemon: dockerd_bare.Daemon, hurry: Hurry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call ends soon after its deadline, as unknown; what begins meanwhile is refused; nothing is left later."""
    container = await world.create()
    hurry()
    daemon.signal(signal.SIGSTOP)
    try:
        with pytest.raises(RuntimeFailed, match="has not ended the container within") as caught:
            await asyncio.wait_for(run(container, "sleep", "60", timeout_s=0.2), PATIENCE_S)
        assert caught.value.ran == "unknown"
        with pytest.raises(RuntimeFailed):
            await asyncio.wait_for(container.remove(), PATIENCE_S)
        with pytest.raises(RuntimeFailed, match="does not answer") as refused:
            await asyncio.wait_for(world.run("true"), PATIENCE_S)
        assert refused.value.ran == "no"
    finally:
        daemon.signal(signal.SIGCONT)
    monkeypatch.undo()
    monkeypatch.setattr(driver_of, "RETRY_S", 0.2)
    await until_nothing_is_left(world)


async def test_a_cancelled_call_at_a_frozen_daemon_is_over(
    world: World, daemon: dockerd_bare.Daemon, hurry: Hurry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that must stop is not kept by a daemon that does not answer."""
    container = await world.create()
    running = run(container, "sh", "-c", "echo begun; sleep 60")
    await spoken(container)
    hurry()
    daemon.signal(signal.SIGSTOP)
    try:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(running, PATIENCE_S)
    finally:
        daemon.signal(signal.SIGCONT)
    monkeypatch.undo()
    await container.remove()


async def test_a_worker_without_a_daemon_is_told_so(daemon: dockerd_bare.Daemon, state_dir: Path) -> None:
    """At the start nobody waits: one sentence, with the setting."""
    daemon.stop()
    try:
        with pytest.raises(RuntimeFailed, match=r"(No Docker daemon answers|no Docker socket) at .*MAYFLY_DOCKER_HOST"):
            open_runtime("docker", state_dir=state_dir)
    finally:
        daemon.start()


async def test_a_full_disk_is_said_and_leaves_nothing(
    prepared_host: None, rootfs: Path, state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A function that fills the daemon's disk meets ENOSPC and lives. While it runs others are refused, with the reason,
    before anything of theirs ran; once it is removed all is as before. An image that does not fit is refused whole.
    """
    need(dockerd_bare.PROGRAM, "dockerd")
    with dockerd_bare.dockerd(disk_bytes=48 << 20) as small:
        monkeypatch.setenv(DOCKER_HOST, small.unix.host)
        with opened(rootfs, state_dir) as world:
            assert (await world.run("echo", "before")).stdout == b"before\n"
            before = small.everything()
            async with world.held() as greedy:
                filling = run(greedy, "sh", "-c", "dd if=/dev/zero of=/full bs=64k; echo full; sleep 60")
                await spoken(greedy)
                with pytest.raises(RuntimeFailed, match="no space left") as caught:
                    await world.run("echo", "meanwhile")
                assert caught.value.ran == "no"
                greedy.kill()
                ending = await filling
                assert b"No space left on device" in ending.stderr
            assert (await world.run("echo", "after")).stdout == b"after\n"
            with pytest.raises(RuntimeFailed, match="no space left") as caught:
                await World(world.runtime, too_large(rootfs, tmp_path / "large")).run("true")
            assert caught.value.ran == "no"
            assert small.everything() == before
            await world.runtime.close()
