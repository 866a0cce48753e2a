"""What only our own launcher does: say which step failed, keep what is malformed out, and leave nothing of its own."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mayfly.containers.choose import choose_runtime, first_that_works
from mayfly.containers.ids import IdRange
from mayfly.containers.local import LocalRuntime
from mayfly.containers.native import plan as plans
from mayfly.containers.native.build import HERE, build
from mayfly.containers.native.plan import Plan
from mayfly.containers.native.runtime import NativeContainer, NativeRuntime, NotHere
from mayfly.containers.programs import LAUNCH
from mayfly.containers.runtime import Call, EndReason
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.image import ProcessConfig
from tests.support.containers import SCALE, SHIFT, World, copy_rootfs, images_of, open_descriptors, open_runtime, spoken
from tests.support.need import need

pytestmark = [
    pytest.mark.root,
    pytest.mark.F9,
    pytest.mark.parametrize("driver", ["native"], indirect=True),
]

REFUSED, FAILED, SANITIZED = 125, 124, 99
CASES = 400


# --- each step that fails has its name ------------------------------------------------------------------------------


async def test_a_directory_that_cannot_be_entered_is_named(world: World) -> None:
    """With the kernel's reason; the launcher's own words, not the worker's guess."""
    with pytest.raises(RuntimeFailed, match=r"native could not start the container: cannot enter /etc/passwd: Not a d"):
        await world.create(world.spec(ProcessConfig(cwd="/etc/passwd")))


async def test_a_cgroup_that_cannot_be_made_is_named(world: World) -> None:
    """A group of this id is there, of somebody else's: it is refused."""
    spec = world.spec()
    assert isinstance(world.runtime, NativeRuntime)
    [first, *_] = world.runtime.groups.of(spec.owner, spec.id).directories
    first.mkdir(parents=True)
    with pytest.raises(RuntimeFailed, match=rf"cannot make .*{spec.id}: File exists"):
        await world.create(spec)


async def test_a_launcher_that_says_nothing_is_no_container(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended: at once an error, with what it wrote to stderr."""
    monkeypatch.setattr(world.runtime, "programs", program(world, "echo no such luck >&2; exit 1"))
    with pytest.raises(RuntimeFailed, match="no such luck"):
        await world.create()


async def test_a_launcher_that_hangs_is_killed_with_what_it_started(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It has made the container's process already, and nobody has said which that is."""
    pids = tmp_path / "pids"
    monkeypatch.setattr("mayfly.containers.held.CREATE_TIMEOUT_S", 0.5 * SCALE)
    monkeypatch.setattr(world.runtime, "programs", program(world, f"sleep 1000 & echo $$ $! > {pids}; wait"))
    before = open_descriptors()
    with pytest.raises(RuntimeFailed, match="did not start the container in"):
        await world.create()
    launcher, started = map(int, pids.read_text().split())
    assert not Path(f"/proc/{launcher}").exists()
    assert not Path(f"/proc/{started}").exists() or "Z" in Path(f"/proc/{started}/stat").read_text()
    assert open_descriptors() == before


def program(world: World, script: str) -> object:
    """The programs, a shell script in the launcher's place."""
    assert isinstance(world.runtime, NativeRuntime)
    stand_in = world.runtime.place.directory / "launcher.sh"
    stand_in.write_text(f"#!/bin/sh\n{script}\n")
    stand_in.chmod(0o755)
    return replace(world.runtime.programs, launch=stand_in)


async def test_nobody_of_the_functions_is_in_the_launchers_group(world: World) -> None:
    """It can be killed and waited for as a whole, and its number stays the container's as long as process 1 lives."""
    async with world.held() as container:
        assert isinstance(container, NativeContainer)
        script = "sleep 60 & setsid sleep 60 & sh -c 'sleep 60; true' & echo up; sleep 60"
        running = asyncio.create_task(container.run(Call(argv=("sh", "-c", script)), timeout_s=60 * SCALE))
        await spoken(container)
        groups = {pid: os.getpgid(pid) for pid in world.living(container)}
        sessions = {pid: os.getsid(pid) for pid in groups if pid != container._init}
        container.kill()
        await running
    assert len(groups) > 1
    assert [pid for pid, group in groups.items() if group == container._group_id] == [container._init]
    assert os.getsid(0) not in sessions.values()


@pytest.mark.parametrize("target", ["/nowhere/at/all", "hosts", "../../run/systemd/resolve/stub"])
async def test_a_link_to_nothing_gives_way_to_a_file(world: World, rootfs: Path, tmp_path: Path, target: str) -> None:
    """Many images have one in the place of what is mounted, to a file that only a running system has; or a circle."""
    image = copy_rootfs(rootfs, tmp_path / "image")
    link = image / "etc" / "hosts"
    link.symlink_to(target)
    os.chown(link, SHIFT, SHIFT, follow_symlinks=False)
    ending = await world.shell("cat /etc/hosts", spec=replace(world.spec(), rootfs=image))
    assert ending.stdout.startswith(b"127.0.0.1\tlocalhost")
    assert link.readlink() == Path(target)


async def test_a_plan_that_is_refused_is_said_so(world: World) -> None:
    """One string too many: nothing has been made."""
    with pytest.raises(RuntimeFailed, match="its plan is refused: Bad message"):
        await world.create(world.spec(ProcessConfig(cwd="/a\0/b")))


async def test_the_reason_comes_through_however_long_the_path(world: World) -> None:
    """An image says how long that is."""
    with pytest.raises(RuntimeFailed, match=r"[Ff]ile ?name too long"):
        await world.create(world.spec(ProcessConfig(cwd="/" + "x" * 4096)))


# --- where it cannot --------------------------------------------------------------------------------------------------


@pytest.fixture
def refused(tmp_path: Path) -> Path:
    """The programs, on a host that refuses the launcher something."""
    build(tmp_path)
    (tmp_path / LAUNCH).unlink()
    (tmp_path / LAUNCH).write_text("#!/bin/sh\necho no mounts for you >&2; exit 1\n")
    (tmp_path / LAUNCH).chmod(0o755)
    return tmp_path


async def test_where_it_cannot_auto_is_the_next(driver: str, refused: Path, state_dir: Path, rootfs: Path) -> None:
    """A worker that was to choose by itself starts containers by crun, and says why; nothing is left of the attempt."""
    need(shutil.which("crun"), "crun")
    make = partial(choose_runtime, state_dir=state_dir, launcher_dir=refused, images=images_of(rootfs))
    with capture_logs() as logs:
        runtime, found = await first_that_works("auto", make)
    try:
        assert (runtime.name, found) == ("crun", 0)
        assert isinstance(runtime, LocalRuntime)
        assert (await World(runtime, rootfs).run("echo", "x")).stdout == b"x\n"
    finally:
        await runtime.close()
    [warning] = [entry for entry in logs if entry["event"] == "worker.not-native"]
    assert "no mounts for you" in warning["reason"]
    assert not list(images_of(rootfs).glob(".try-*"))


async def test_where_it_cannot_and_was_asked_for_the_worker_does_not_start(
    driver: str, refused: Path, state_dir: Path, rootfs: Path
) -> None:
    """Instead of failing each call; the place is free again."""
    make = partial(choose_runtime, state_dir=state_dir, launcher_dir=refused, images=images_of(rootfs))
    with pytest.raises(NotHere, match=r"MAYFLY_RUNTIME=native.*no mounts for you"):
        await first_that_works("native", make)
    assert str(state_dir) not in Path("/proc/mounts").read_text()


# --- what is left -----------------------------------------------------------------------------------------------------


async def test_of_what_made_it_nobody_is_in_the_container(world: World) -> None:
    """Process 1 is this process's own child, and both it and the launcher are reaped with the container."""
    before = children()
    async with world.held() as container:
        assert isinstance(container, NativeContainer)
        assert world.living(container) == {container._init}
        assert container._init in children() - before
        await container.run(Call(argv=("true",)), timeout_s=20 * SCALE)
    assert children() == before


async def test_a_launcher_that_takes_its_time_to_end_is_none_of_the_containers_processes(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So a function with a single process can have it. The launcher goes with the container at the latest."""
    monkeypatch.setattr(world.runtime, "programs", compiled(world, tmp_path, SLOW_TO_END))
    before = children()
    async with world.held(world.spec(pids=1)) as container:
        assert len(world.living(container)) == 1
        assert len(children() - before) == 2
        ending = await container.run(Call(argv=("sh", "-c", "echo one")), timeout_s=20 * SCALE)
        assert (ending.stdout, ending.exit_code) == (b"one\n", 0)
    assert children() == before


SLOW_TO_END = """
#define main launch
#include LAUNCH
#undef main
int main(void) { launch(); sleep(60); return 0; }
"""


def compiled(world: World, directory: Path, source: str, *options: str) -> object:
    """The programs, in the launcher's place another, made of its source."""
    assert isinstance(world.runtime, NativeRuntime)
    program = directory / LAUNCH
    (directory / "other.c").write_text(source)
    include = [f'-DLAUNCH="{HERE / "launch.c"}"', f"-I{HERE}"]
    subprocess.run(
        ["cc", "-static", "-std=gnu11", *include, *options, "-o", program, directory / "other.c"], check=True
    )
    return replace(world.runtime.programs, launch=program)


async def test_whenever_it_dies_nothing_is_left(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    The launcher, process 1 and the function's own before it is executed, at the beginning of the first of their steps,
    of the second and so on, to the end. Before it is ready, the worker knows at once that nothing ran.
    """
    steps = tmp_path / "steps"
    programs = compiled(world, tmp_path, MORTAL, "-finstrument-functions", f'-DSTEPS="{steps}"')
    monkeypatch.setattr(world.runtime, "programs", programs)
    before = children(), open_descriptors()
    deaths = {True: 0, False: 0}  # by whether it was ready
    while steps.write_text(f"{sum(deaths.values()) + 1}") and not await is_done(world, deaths):
        assert not world.left()
        assert (children(), open_descriptors()) == before
    assert deaths[False] > 30
    assert deaths[True] > 3
    assert isinstance(world.runtime, NativeRuntime)
    assert not world.runtime.taken


async def is_done(world: World, deaths: dict[bool, int]) -> bool:
    """Whether a call goes through; if not, count its death."""
    spec = replace(world.spec(ProcessConfig(uid=1234, groups=(7,), cwd="/a/b")), has_secret_files=True)
    is_ready = False
    try:
        async with world.held(spec) as container:
            is_ready = True
            call = Call(argv=("sh", "-c", "cat /run/secrets/A"), files=(("A", b"done"),))
            if (await container.run(call, timeout_s=20 * SCALE)).stdout == b"done":
                return True
    except RuntimeFailed as error:
        assert is_ready or error.ran == "no"  # noqa: PT017 - both endings are looked at
    deaths[is_ready] += 1
    return False


MORTAL = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
__attribute__((no_instrument_function)) void __cyg_profile_func_enter(void *function, void *caller)
{
    static int left;
    char number[8] = {0};
    if (!left) {
        int file = open(STEPS, O_RDONLY);
        left = read(file, number, sizeof number - 1) > 0 ? atoi(number) : 0;
        close(file);
    }
    if (!--left) {
        kill(getpid(), SIGKILL);
        _exit(1); /* process 1 of a namespace cannot kill itself */
    }
}
__attribute__((no_instrument_function)) void __cyg_profile_func_exit(void *function, void *caller) {}
#include LAUNCH
"""


async def test_nothing_is_mounted_where_the_worker_sees_it(world: World) -> None:
    """While a container is held, and while it runs."""
    before = Path("/proc/self/mountinfo").read_text()
    async with world.held() as container:
        running = asyncio.create_task(container.run(Call(argv=("sh", "-c", "echo up; sleep 60")), timeout_s=60 * SCALE))
        await spoken(container)
        assert Path("/proc/self/mountinfo").read_text() == before
        container.kill()
        assert (await running).reason is EndReason.CANCELLED


def children() -> set[int]:
    """Of this process, zombies included."""
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


# --- sanitized --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs, the launcher with every access to memory and every undefined operation checked."""
    need(shutil.which("cc"), "a C compiler")
    directory = tmp_path_factory.mktemp("sanitized")
    build(directory)
    (directory / LAUNCH).unlink()
    options = directory / "options.c"
    # What leaks is the kernel's to free, soon. 99 is nobody else's exit code.
    options.write_text(
        f'const char *__asan_default_options(void) {{ return "detect_leaks=0:exitcode={SANITIZED}"; }}\n'
    )
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1", "-std=gnu11"]
    subprocess.run(["cc", *checks, "-o", directory / LAUNCH, HERE / "launch.c", options], check=True)
    return directory


@asynccontextmanager
async def sanitized_world(sanitized: Path, rootfs: Path, state_dir: Path) -> AsyncIterator[World]:
    """Containers by that launcher."""
    runtime = open_runtime("native", state_dir=state_dir, launcher_dir=sanitized, images=images_of(rootfs))
    try:
        yield World(runtime, rootfs)
    finally:
        await runtime.close()


async def test_calls_by_a_sanitized_launcher(driver: str, sanitized: Path, rootfs: Path, state_dir: Path) -> None:
    """Of every kind that takes another way through it: each ends as it should, and no check has spoken."""
    async with sanitized_world(sanitized, rootfs, state_dir) as world:
        app = ProcessConfig(uid=1234, gid=1234, groups=(7, 8), cwd="/a/b/c", env=(("A", "b"),))
        for spec in (world.spec(), world.spec(app), replace(world.spec(app), has_secret_files=True)):
            async with world.held(spec) as container:
                files = (("S", b"x"),) if spec.has_secret_files else ()
                call = Call(argv=("sh", "-c", "pwd; id -u; exit 3"), files=files)
                ending = await container.run(call, timeout_s=20 * SCALE)
                assert (ending.exit_code, ending.stderr) == (3, b"")
        with pytest.raises(RuntimeFailed, match="cannot enter /etc/passwd"):
            await world.create(world.spec(ProcessConfig(cwd="/etc/passwd")))


def test_a_malformed_plan_does_nothing(driver: str, sanitized: Path, rootfs: Path, tmp_path: Path) -> None:
    """
    Cut short, changed, with other numbers in its header, without descriptors: the launcher ends by itself, whatever it
    is given. It is told that somebody else is its parent, so that it does not go beyond reading.
    """
    seed = secrets.randbits(32)
    print(f"seed {seed}", file=sys.stderr)
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    good = sample(rootfs, tmp_path).encode()
    assert ends(sanitized, good, namespaces=1) == FAILED
    codes = {ends(sanitized, each, namespaces=chance.choice([0, 1, 1, 1, 2])) for each in mutated(good, chance)}
    assert codes <= {FAILED, REFUSED}


def sample(rootfs: Path, place: Path) -> Plan:
    """A plan whose parent is nobody."""
    return Plan(
        spec=World(object(), rootfs).spec(ProcessConfig(groups=(1, 2, 3))),  # type: ignore[arg-type]
        ids=IdRange(),
        worker=0,
        stage=place,
        cgroups=(place / "a", place / "b"),
        is_unified=False,
        settings=((f"{place}/a/memory.max", "1"),),
        nofile_max=1024,
        hosts="127.0.0.1 localhost\n",
    )


def mutated(good: bytes, chance: random.Random) -> list[bytes]:
    """Many plans that are not quite that; the parent stays nobody."""
    made = []
    for number in range(CASES):
        bad = bytearray(good)
        if number % 4 == 0:
            del bad[chance.randrange(len(bad)) :]
        elif number % 4 == 1:
            at = chance.randrange(0, plans.HEADER.size, 4)
            bad[at : at + 4] = chance.choice([0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 65536, 1 << 20]).to_bytes(4, "little")
        else:
            for _ in range(chance.randrange(1, 9)):
                bad[chance.randrange(len(bad))] = chance.choice([0, 255, chance.randrange(256)])
        bad[4:8] = bytes(len(bad[4:8]))
        made.append(bytes(bad))
    return made


def ends(programs: Path, message: bytes, *, namespaces: int) -> int:
    """Give a launcher this plan, with so many descriptors; how it ends."""
    ours, theirs = socket.socketpair()
    with ours, open(os.devnull, "rb") as null:  # noqa: PTH123 - a descriptor is wanted
        socket.send_fds(ours, [message], [null.fileno()] * namespaces)
        ours.shutdown(socket.SHUT_WR)
        with theirs:
            pid = os.posix_spawn(
                programs / LAUNCH,
                ["mayfly-init"],
                {},
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)],
            )
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
