"""When a call is over nothing of its container lives, and soon nothing of it is left: whatever the function did."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mayfly.containers import cgroups, mounts
from mayfly.containers.choose import group_name
from mayfly.containers.confined.runtime import ConfinedContainer
from mayfly.containers.local import LocalRuntime
from mayfly.containers.oci import OciContainer, OciRuntime
from mayfly.containers.runtime import Call, EndReason
from mayfly.domain.errors import RuntimeFailed
from tests.contract.exceptions import EXCEPTIONS, local_only, oci_only
from tests.support.containers import (
    DOCKER_HOST,
    OWNER,
    SCALE,
    OurContainer,
    World,
    ids_of,
    open_descriptors,
    open_runtime,
    processes_of,
    processes_of_users,
    spoken,
    users_of,
    written,
)
from tests.support.rounds import in_one_round

pytestmark = [pytest.mark.root, pytest.mark.F11]

SOURCE = Path(__file__).parent.parent.parent / "src"
WORKER = Path(__file__).parent / "lone_worker.py"
CALLS = 2  # that it runs


FATES = {
    "exits": (("sh", "-c", "sleep 60 & sleep 60 & exit 0"), EndReason.EXITED),
    "fails": (("sh", "-c", "sleep 60 & exit 3"), EndReason.EXITED),
    "escapes": (("escape_death", "and-end"), EndReason.EXITED),
    "escapes-and-stays": (("escape_death",), EndReason.TIMED_OUT),
    "sleeps": (("sleep", "60"), EndReason.TIMED_OUT),
    "eats": (("eat_memory",), EndReason.OUT_OF_MEMORY),
    "floods": (("yes",), EndReason.RESULT_TOO_LARGE),
    "forks": (("fork_bomb",), EndReason.TIMED_OUT),
    "fills": (
        ("sh", "-c", "dd if=/dev/zero of=/tmp/x bs=1M; dd if=/dev/zero of=/dev/shm/x bs=1M; sleep 60"),
        EndReason.TIMED_OUT,
    ),
}


@pytest.mark.parametrize("fate", FATES)
async def test_nothing_lives_when_run_returns_and_nothing_is_left_a_second_later(
    world: World, driver: str, fate: str
) -> None:
    """Whatever becomes of a call: dead at its end, gone within a second of `remove`."""
    argv, reason = FATES[fate]
    if reason is EndReason.OUT_OF_MEMORY and "memory" in EXCEPTIONS.get(driver, {}):
        reason = EndReason.EXITED  # it is refused more, and dies of that by itself
    timeout_s = 20.0 if reason is not EndReason.TIMED_OUT else 1.0

    async def removed_s() -> float:
        before = open_descriptors()
        container = await world.create(world.spec(memory_mib=96, pids=32))
        try:
            ending = await container.run(Call(argv=argv), timeout_s=timeout_s * SCALE)
            alive = world.living(container)
        finally:
            began = time.monotonic()
            await container.remove()
            took_s = time.monotonic() - began
        assert not alive
        assert ending.reason is reason
        assert not world.left()
        assert processes_of(container.id) == []
        assert open_descriptors() == before
        await container.remove()
        return took_s

    await in_one_round(removed_s, below_s=1.0 * SCALE)


async def test_a_held_container_is_removed_unused(world: World) -> None:
    """A held container has run nothing, is small, and goes as completely."""
    before = open_descriptors()
    container = await world.create()
    assert len(world.living(container)) == 1
    if isinstance(world.runtime, LocalRuntime):
        assert world.runtime.groups.of(OWNER, container.id).memory_peak_bytes() < 5 << 20
    await container.remove()
    assert not world.left()
    assert processes_of(container.id) == []
    assert open_descriptors() == before


async def test_several_may_remove_at_once(world: World) -> None:
    """`remove` is idempotent, also while it is under way."""
    container = await world.runtime.create(world.spec())
    await asyncio.gather(container.remove(), container.remove(), container.remove())
    assert not world.left()


async def test_what_the_kernel_counts_by_user_holds_up_no_other_call(world: World) -> None:
    """
    All containers share one range of users. One that holds all descriptors in flight and all pages of pipes that a user
    may have does not keep another from starting, from its parameter and result of 1 MiB, and from being removed.
    """
    hostile = await world.create(world.spec(memory_mib=256))
    running = asyncio.create_task(hostile.run(Call(argv=("hold_quotas",)), timeout_s=60 * SCALE))
    await spoken(hostile)
    parameter = b"x" * (1 << 20)
    assert (await world.run("cat", stdin=parameter)).stdout == parameter
    assert (await world.shell("seq 100000 | cat | tail -n 1")).stdout == b"100000\n"
    hostile.kill()
    assert (await running).reason is EndReason.CANCELLED
    await hostile.remove()
    assert not world.left()


async def test_a_running_container_can_be_removed(world: World) -> None:
    """`remove` during a call ends it as cancelled."""
    container = await world.create()
    running = asyncio.create_task(container.run(Call(argv=("escape_death",)), timeout_s=60))
    await spoken(container)
    await container.remove()
    assert (await running).reason is EndReason.CANCELLED
    assert not world.left()


@oci_only
async def test_a_killed_runtime_leaves_nothing(world: World) -> None:
    """When crun or runc itself is killed, the function dies with it, and its state directory goes too."""
    container = await world.create()
    running = asyncio.create_task(container.run(Call(argv=("escape_death",)), timeout_s=60))
    await spoken(container)
    assert isinstance(container, OciContainer)
    assert isinstance(world.runtime, OciRuntime)
    os.kill(container._runtime_pid, signal.SIGKILL)
    with pytest.raises(RuntimeFailed) as caught:
        await asyncio.wait_for(running, 20 * SCALE)
    assert caught.value.ran == "unknown"
    assert not world.living(container)
    assert (world.runtime.state / container.id).exists()
    await container.remove()
    assert not world.left()


@pytest.mark.parametrize("has_written", [True, False])
async def test_a_killed_init_is_no_proof_that_the_function_ran(
    world: World, has_written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the held init is killed from outside, what the function wrote says that it ran; else nobody knows."""
    monkeypatch.setattr("mayfly.containers.docker.runtime.KILL_AFTER_S", 10)  # a daemon may be slow, and not lost
    container = await world.create()
    argv = ("sh", "-c", "echo up; exec sleep 60") if has_written else ("sleep", "60")
    running = asyncio.create_task(container.run(Call(argv=argv), timeout_s=60))
    async with asyncio.timeout(20 * SCALE):
        while len(world.living(container)) < 2 or (has_written and not written(container)):
            await asyncio.sleep(0.005)
    os.kill(init_of(container), signal.SIGKILL)
    if has_written:
        assert (await asyncio.wait_for(running, 20 * SCALE)).exit_code == 128 + signal.SIGKILL
    else:
        with pytest.raises(RuntimeFailed) as caught:
            await asyncio.wait_for(running, 20 * SCALE)
        assert caught.value.ran == "unknown"
    assert not world.living(container)
    await container.remove()
    assert not world.left()


def init_of(container: OurContainer) -> int:
    """The process that is the first one of its container's pid namespace; the launcher, where there is none."""
    if isinstance(container, ConfinedContainer):
        [launcher] = processes_of(container.id)
        return launcher
    for pid in processes_of(container.id):
        status = Path(f"/proc/{pid}/status").read_text()
        numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
        if len(numbers) > 1 and numbers[-1] == "1":
            return pid
    raise AssertionError(f"{container.id} has no init")


async def test_a_failed_start_leaves_nothing(world: World) -> None:
    """Cancelled while it is being made, a container is removed before the cancellation is passed on."""
    for delay_s in (0.0, 0.002, 0.01):
        making = asyncio.create_task(world.runtime.create(world.spec()))
        await asyncio.sleep(delay_s)
        making.cancel()
        try:
            container = await making
        except asyncio.CancelledError:
            assert not world.left()
        else:
            await container.remove()


@pytest.mark.parametrize("delay_s", [0.003, 0.006, 0.012, 0.1])
async def test_a_start_that_is_cancelled_again_leaves_nothing(world: World, delay_s: float) -> None:
    """By a time limit, say, while what was begun is being removed: that goes on to its end all the same."""
    making = asyncio.create_task(world.runtime.create(world.spec()))
    await asyncio.sleep(delay_s)
    for _ in range(20):
        making.cancel()
        await asyncio.sleep(0)
    try:
        container = await making
    except asyncio.CancelledError:
        assert not world.left()
    else:
        await container.remove()


async def test_three_hundred_calls_at_eight_at_once_leave_nothing(world: World, driver: str) -> None:
    """
    After 300 calls, each answered rightly: no mount, cgroup, directory, process or descriptor more than before.

    (20 calls with docker, which takes ten times as long; `test_docker` has thirty more.)
    """
    await asyncio.gather(*(world.run("true") for _ in range(8)))  # as many ranges of user ids stay
    descriptors = open_descriptors()
    gate = asyncio.Semaphore(8)
    count = 20 if driver == "docker" else 300

    async def one(number: int) -> bytes:
        async with gate:
            return (await world.run("cat", stdin=b"%d" % number)).stdout

    answers = await asyncio.gather(*(one(number) for number in range(count)))
    assert answers == [b"%d" % number for number in range(count)]
    assert not world.left()
    assert open_descriptors() == descriptors


@local_only
async def test_a_users_group_that_cannot_be_removed_costs_nothing_else(world: World) -> None:
    """Somebody has made a group in it. What the container had is given back all the same; removed again, it is gone."""
    assert isinstance(world.runtime, LocalRuntime)
    await world.run("true")
    descriptors = open_descriptors()
    container = await world.create()
    strange = world.runtime.groups._users_group(OWNER) / "strange"
    strange.mkdir()
    with pytest.raises(RuntimeFailed, match="cgroup of a user"):
        await container.remove()
    kept, left = open_descriptors(), world.left()
    strange.rmdir()
    await container.remove()
    assert (kept, left.files, left.mounts) == (descriptors, (), ())
    assert not world.left()


async def test_ids_are_never_reused_by_accident(world: World) -> None:
    """A second container with the id of one that is there is refused, and the first one lives on."""
    spec = world.spec()
    async with world.held(spec) as first:
        with pytest.raises(RuntimeFailed):
            await world.runtime.create(spec)
        ending = await first.run(Call(argv=("echo", "alive")), timeout_s=20 * SCALE)
        assert ending.stdout == b"alive\n"


# --- the worker dies ----------------------------------------------------------------------------------------------


@contextmanager
def lone_worker(driver: str, rootfs: Path, state_dir: Path, how: str) -> Iterator[tuple[int, list[str]]]:
    """A worker process with a held container and two calls running; its process id and the containers' ids."""
    command = [sys.executable, str(WORKER), driver, str(rootfs), str(state_dir), how]
    environment = {"PYTHONPATH": f"{SOURCE}:{SOURCE.parent}:{':'.join(sys.path)}", "PATH": os.environ["PATH"]}
    environment |= {DOCKER_HOST: os.environ[DOCKER_HOST]} if driver == "docker" else {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        assert words[:1] == ["ready"], words
        try:
            yield process.pid, words[1:]
        finally:
            process.kill()
            process.communicate(timeout=20)  # until the worker inside has ended, too, and let go of its lock


async def gone(ids: list[str], users: Collection[int] = ()) -> bool:
    """Whether all processes of these containers, and all of these users, die within two seconds."""
    for _ in range(100):
        if not any(processes_of(each) for each in ids) and not processes_of_users(users):
            return True
        await asyncio.sleep(0.02 * SCALE)
    return False


@pytest.mark.parametrize("how", ["namespaces", "plain"])
async def test_kill_minus_nine_of_the_worker_kills_every_container(
    driver: str, image: Path, state_dir: Path, how: str
) -> None:
    """
    A killed worker takes its containers along, hostile ones too, and what is left is reaped by the next.

    Inside its own namespaces the worker's process is killed, not the one outside; without them ("plain") the death
    signals of spawner and init alone do it.
    """
    with lone_worker(driver, image, state_dir, how) as (outer, ids):
        assert all(processes_of(each) for each in ids)
        users = users_of(ids)
        assert len(users) >= CALLS or driver != "confined"  # whose processes bear no id
        os.kill(worker_of(outer) if how == "namespaces" else outer, signal.SIGKILL)
        are_gone = await gone(ids, users)
    mounted = [each for each in mounts.mounts() if state_dir in each.point.parents]
    runtime = open_runtime(driver, state_dir=state_dir)
    try:
        if not are_gone:
            await runtime.reap()  # none of them stays on this machine
        assert are_gone
        assert mounted == []
        assert ids_of(runtime) == set(ids)
        assert await runtime.reap() == len(ids)
        assert not World(runtime, image).left()
        assert await runtime.reap() == 0
    finally:
        await runtime.close()


@local_only
async def test_reap_kills_what_is_still_alive(world: World) -> None:
    """Should a process of a dead worker live after all, `reap` kills it before it removes its cgroup."""
    assert isinstance(world.runtime, LocalRuntime)
    group = world.runtime.groups.create(OWNER, "left0behind0left0behind", world.spec().limits, extra_pids=0)
    with subprocess.Popen(["sleep", "60"]) as process:
        cgroups.enter(group.directories, process.pid)
        assert await world.runtime.reap() == 1
        assert process.wait(5 * SCALE) == -signal.SIGKILL
    assert not world.left()


@local_only
async def test_reap_leaves_another_workers_containers_alone(
    world: World, driver: str, rootfs: Path, other_state_dir: Path
) -> None:
    """A live worker with another state directory on the same machine notices nothing of one that reaps."""
    assert isinstance(world.runtime, LocalRuntime)
    with lone_worker(driver, rootfs, other_state_dir, "namespaces") as (_, ids):
        assert await world.runtime.reap() == 0
        assert all(processes_of(each) for each in ids)
    assert await gone(ids)
    successor = open_runtime(driver, state_dir=other_state_dir)
    try:
        assert await successor.reap() == len(ids)
        assert successor.home != world.runtime.home
    finally:
        await successor.close()


async def test_a_runtime_says_where_it_has_reaped(world: World, driver: str, state_dir: Path) -> None:
    """The name of that place is the same for a successor, who would find what is left there."""
    await world.runtime.reap()
    home = world.runtime.home
    async with world.held():  # a worker that dies leaves its group
        assert home
        assert world.runtime.home == home
    if isinstance(world.runtime, LocalRuntime):
        assert cgroups.open_cgroups(group_name(state_dir)).home == home


async def test_two_workers_cannot_share_a_place(world: World, driver: str, state_dir: Path) -> None:
    """The second worker in a state directory is refused in a sentence; the first one's containers are untouched."""
    async with world.held():
        with pytest.raises(RuntimeFailed, match="Another worker runs"):
            open_runtime(driver, state_dir=state_dir)
        assert len(world.ids()) == 1


def test_groups_are_named_for_the_state_directory(tmp_path: Path) -> None:
    """The name is the same after a restart, and another for another worker."""
    assert group_name(tmp_path) == group_name(tmp_path / "x" / "..")
    assert group_name(tmp_path) != group_name(tmp_path / "x")


def worker_of(outer: int) -> int:
    """The worker below process 1 below the outer process."""
    init = int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])
    return int(Path(f"/proc/{init}/task/{init}/children").read_text().split()[0])
