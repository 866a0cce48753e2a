"""What only the confined driver does: calls that share everything with each other but what is taken from them."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mayfly.containers import frame
from mayfly.containers.confined import room
from mayfly.containers.confined.runtime import ConfinedContainer, ConfinedRuntime, LastWords
from mayfly.containers.confined.users import CALLS, User
from mayfly.containers.runtime import NO_EGRESS, Call, EndReason
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.function import Network
from mayfly.domain.image import ProcessConfig
from mayfly.domain.limits import MIB
from mayfly.domain.sandbox import NOFILE_SOFT, SIGNALS_PENDING
from tests.contract.exceptions import table
from tests.support.containers import OWNER, SCALE, World, copy_rootfs, open_runtime, processes_of_user, spoken

pytestmark = [pytest.mark.root, pytest.mark.F9]

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(params=["confined"])
def driver(request: pytest.FixtureRequest, prepared_host: None) -> str:
    """Only confined."""
    return str(request.param)


@pytest.fixture
def image(furnished_rootfs: Path, tmp_path: Path) -> Path:
    """One with what a careless image has: a file and a directory that anybody may write to."""
    root = copy_rootfs(furnished_rootfs, tmp_path / "rootfs")
    for_all, directory = root / "opt" / "for-all", root / "opt" / "all"
    for_all.write_text("of the image\n")
    directory.mkdir()
    (directory / "file").write_text("of the image\n")
    for path, mode in ((for_all, 0o666), (directory, 0o777), (directory / "file", 0o666)):
        path.chmod(mode)
    return root


@pytest.fixture
def runtime(world: World) -> ConfinedRuntime:
    """The driver itself."""
    assert isinstance(world.runtime, ConfinedRuntime)
    return world.runtime


async def held(world: World, **limits: float) -> ConfinedContainer:
    """A held container, which the caller removes."""
    container = await world.create(world.spec(None, owner=OWNER, **limits))
    assert isinstance(container, ConfinedContainer)
    return container


@asynccontextmanager
async def running(world: World, *argv: str, **limits: float) -> AsyncIterator[ConfinedContainer]:
    """A call that has written something, and runs until the test is over."""
    container = await held(world, **limits)
    call = asyncio.create_task(container.run(Call(argv=argv), timeout_s=60 * SCALE))
    try:
        await spoken(container)
        yield container
    finally:
        container.kill()
        await asyncio.gather(call, return_exceptions=True)
        await container.remove()


def launcher_of(container: ConfinedContainer) -> int:
    """The process that holds a call."""
    return container._pid


@contextmanager
def listening() -> Iterator[str]:
    """An abstract socket of the worker's."""
    name = f"mayfly-test-worker-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{name}")
        server.listen()
        yield name


@contextmanager
def open_directory(path: Path) -> Iterator[str]:
    """A name of a directory that is short enough for a socket's."""
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


# --- attacks ------------------------------------------------------------------------------------------------------

ALLOWED = {"own", "null", "random", "unix", "image"}


async def test_a_call_reaches_neither_worker_nor_launcher_nor_another_call(world: World) -> None:
    """Of 70 attempts at processes, files, sockets and limits none works; what programs need does."""
    name = f"mayfly-test-other-{os.getpid()}"
    async with running(world, "trespass", "serve", name) as other:
        [pid] = processes_of_user(other.user.uid)
        directory = str(room.inside(other.id))
        with listening() as workers:
            goals = (str(os.getpid()), str(launcher_of(other)), str(pid), workers, name, directory)
            ending = await world.run("trespass", *goals)
        assert processes_of_user(other.user.uid) == [pid]
    results = dict(line.split() for line in ending.stdout.decode().splitlines())
    assert len(results) == 75
    assert {attempt for attempt, outcome in results.items() if outcome == "ok"} == ALLOWED


async def test_what_the_attacks_aim_at_is_there(world: World) -> None:
    """So that they do not fail for want of it: outside, the same sockets, processes and files can be reached."""
    name = f"mayfly-test-other-{os.getpid()}"
    async with running(world, "trespass", "serve", name) as other:
        there = room.place(world.rootfs, other.id) / room.HOME
        with listening() as workers, open_directory(there) as short:
            for address in (f"\0{workers}", f"\0{name}", f"{short}/socket"):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(address)
        assert (there / "secret").read_text() == "mine\n"
        assert stat.S_IMODE(there.stat().st_mode) == 0o777
        os.kill(launcher_of(other), 0)


async def test_a_signal_to_all_reaches_only_ones_own(world: World) -> None:
    """`kill -9 -1` ends who says it, and no other call."""
    async with running(world, "sh", "-c", "echo up; sleep 60") as other:
        before = processes_of_user(other.user.uid)
        ending = await world.shell("sleep 60 & kill -9 -1; echo alive")
        assert ending.reason is EndReason.EXITED
        assert processes_of_user(other.user.uid) == before != []


async def test_what_is_taken_from_a_function_is_taken(world: World) -> None:
    """Asked outside: no capability, no way to any, a filter, a user and group of its own, the last in every queue."""
    async with running(world, "sh", "-c", "echo up; sleep 60; echo") as container:
        pid = min(processes_of_user(container.user.uid))
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
        uid = str(container.user.uid)
        assert status["Uid"] == status["Gid"] == [uid] * 4
        assert status["Groups"] == []
        assert [status[f"Cap{each}"] for each in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == [["0" * 16]] * 5
        assert (status["NoNewPrivs"], status["Seccomp"]) == (["1"], ["2"])
        ignored = {number + 1 for number in range(64) if int(status["SigIgn"][0], 16) >> number & 1}
        assert ignored <= {signal.SIGQUIT, 32, 33}  # the shell's and the C library's own; nothing that Python ignores
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
        assert os.getpriority(os.PRIO_PROCESS, pid) == 10


async def test_a_function_is_in_its_image_with_three_pipes_and_nothing_else(world: World) -> None:
    """Asked outside, which takes a capability that Docker does not give: its root, and what it has open."""
    async with running(world, "sh", "-c", "echo up; sleep 60; echo") as container:
        pid = min(processes_of_user(container.user.uid))
        assert Path(f"/proc/{pid}/root").readlink() == world.rootfs
        kinds = {fd.name: str(fd.readlink()).partition(":")[0] for fd in Path(f"/proc/{pid}/fd").iterdir()}
        assert kinds == {"0": "pipe", "1": "pipe", "2": "pipe"}


async def test_limits_of_a_process(world: World) -> None:
    """Asked outside: each resource that has a limit has this one, and none can be raised."""
    container = await held(world, memory_mib=64, pids=20, cpus=1.5)
    call = Call(argv=("sh", "-c", "echo up; sleep 60; echo"))
    running = asyncio.create_task(container.run(call, timeout_s=30.0))
    await spoken(container)
    pid = min(processes_of_user(container.user.uid))
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    limits = {line[:26].strip(): line[26:].split()[:2] for line in lines}
    container.kill()
    await running
    await container.remove()
    for name, value in {
        "Max address space": 64 * MIB,
        "Max processes": 20,
        "Max open files": NOFILE_SOFT,
        "Max file size": 48 * MIB,
        "Max cpu time": 46,
        "Max core file size": 0,
        "Max locked memory": 0,
        "Max msgqueue size": 0,
        "Max pending signals": SIGNALS_PENDING,
    }.items():
        assert limits[name] == [str(value)] * 2, name


async def test_more_memory_is_refused(world: World) -> None:
    """A process stays below its limit, and the worker's machine is not asked to kill."""
    ending = await world.run("eat_memory", spec=world.spec(memory_mib=48))
    assert (ending.reason, ending.stdout) == (EndReason.EXITED, b"")
    assert ending.exit_code != 0
    assert 30 * MIB < ending.memory_peak_bytes <= 48 * MIB


async def test_a_file_has_a_size(world: World) -> None:
    """Writing without end into one file is stopped by a signal."""
    ending = await world.shell("dd if=/dev/zero of=$HOME/x bs=1M; wc -c < $HOME/x", spec=world.spec(memory_mib=32))
    assert ending.stdout == b"%d\n" % (16 * MIB)


async def test_setuid_files_give_nothing(world: World) -> None:
    """Neither the image's own root nor any other user."""
    async with world.held() as container:
        assert isinstance(container, ConfinedContainer)
        ending = await container.run(Call(argv=("setuid-show_user",)), timeout_s=20 * SCALE)
        assert ending.stdout.decode() == f"{container.user.uid} {container.user.uid}\n"


# --- users --------------------------------------------------------------------------------------------------------


async def test_no_two_live_calls_have_a_user_in_common(world: World) -> None:
    """Neither the one they live as, nor the one they are killed by; and none is one of the other kind."""
    containers = [await held(world) for _ in range(8)]
    users = {uid for container in containers for uid in (container.user.uid, container.user.killer)}
    for container in containers:
        await container.remove()
    assert len(users) == 16


async def test_a_user_that_is_somebodys_is_given_to_no_call(world: World, runtime: ConfinedRuntime) -> None:
    """The kernel counts its processes: the call gets another user; and where there is none, it is not even held."""
    taken = runtime.users.take().uid + 1  # the next one
    with subprocess.Popen(["sleep", "60"], user=taken) as stranger:
        container = await held(world)
        assert container.user.uid == taken + 1
        await container.remove()
        runtime.users._free.clear()
        runtime.users._free.append(taken)
        with pytest.raises(RuntimeFailed, match=f"somebody lives as user {taken}") as caught:
            await world.create()
        assert caught.value.ran == "no"
        assert stranger.poll() is None
        stranger.kill()
    assert not world.left()


def test_workers_on_one_machine_have_users_of_their_own(
    driver: str, runtime: ConfinedRuntime, other_state_dir: Path
) -> None:
    """A second worker takes another block, and the first one's is free again when that has ended."""
    other = open_runtime(driver, state_dir=other_state_dir)
    assert isinstance(other, ConfinedRuntime)
    mine = range(runtime.users.first, runtime.users.first + 2 * CALLS)
    assert other.users.first not in mine
    assert not other.users.owns(runtime.users.first)
    asyncio.run(other.close())


# --- ends ---------------------------------------------------------------------------------------------------------


async def test_a_launcher_that_is_killed_leaves_nobody(world: World) -> None:
    """Not even a process that had detached itself from everything: it is dead before the call has ended."""
    container = await held(world)
    call = asyncio.create_task(container.run(Call(argv=("escape_death",)), timeout_s=60 * SCALE))
    await spoken(container)
    async with asyncio.timeout(20 * SCALE):
        while len(processes_of_user(container.user.uid)) < 2:
            await asyncio.sleep(0.005)
    os.kill(launcher_of(container), signal.SIGKILL)
    assert (await asyncio.wait_for(call, 20 * SCALE)).exit_code == 128 + signal.SIGKILL
    assert processes_of_user(container.user.uid) == []
    await container.remove()


async def test_a_function_that_is_just_becoming_its_user_is_killed_too(world: World) -> None:
    """A call that is over before its function has begun: the launcher's signal to all of a user would not reach it."""
    for _ in range(20):
        container = await held(world)
        call = asyncio.create_task(container.run(Call(argv=("sleep", "600")), timeout_s=60 * SCALE))
        await asyncio.sleep(0)  # the frame is sent
        container.kill()
        await asyncio.wait({call}, timeout=10 * SCALE)
        alive = processes_of_user(container.user.uid)
        for pid in alive:  # or the launcher would wait for it as long as it lives
            os.kill(pid, signal.SIGKILL)
        assert alive == []
        assert (await call).reason is EndReason.CANCELLED
        await container.remove()


async def test_reap_kills_and_removes_what_a_dead_worker_left(
    world: World, runtime: ConfinedRuntime, tmp_path: Path
) -> None:
    """Should a process of it live after all, it is killed before its directory goes."""
    user: User = runtime.users.take()
    directory = room.place(world.rootfs, "left0behind0left0behind")
    room.furnish(world.rootfs)
    room.make(directory, user)
    (directory / "written").write_text("by a function\n")
    (runtime.records / directory.name).symlink_to(directory)
    subprocess.run(["sh", "-c", "sleep 60 &"], user=user.uid, check=True)
    assert processes_of_user(user.uid)
    assert await runtime.reap() == 1
    assert processes_of_user(user.uid) == []
    assert not directory.exists()
    assert not world.left()


MESS = """
cd; mkdir -p a/b/c; echo x > a/b/c/file; ln -s / up; ln -s /etc/passwd link; ln a/b/c/file hard; chmod 0 a/b/c a/b a
i=0; while [ $i -lt 300 ]; do mkdir d && cd d; i=$((i+1)); done; touch deep; cd; touch ' -rf' '*' .hidden; chmod 0 .
echo done
"""


async def test_nothing_of_a_calls_directory_is_left_and_the_image_is_as_it_was(world: World) -> None:
    """Whatever is in it, however deep and by which modes; links lead nowhere; and no other file has changed."""

    def seen() -> dict[str, tuple[int, int, int, int]]:
        files = {str(path): path.lstat() for path in world.rootfs.rglob("*") if "mayfly" not in path.parts[-2:]}
        return {path: (each.st_mode, each.st_size, each.st_mtime_ns, each.st_ino) for path, each in files.items()}

    await world.run("true")
    before = seen()
    assert (await world.shell(MESS)).stdout == b"done\n"
    assert list((world.rootfs / "dev" / room.ROOMS).iterdir()) == []
    assert seen() == before


async def test_a_fresh_directory_is_empty_and_the_calls_alone(world: World) -> None:
    """HOME and TMPDIR name it; a function's own variables win; the command starts in the image's directory."""
    config = ProcessConfig(env=(("HOME", "/opt"),), cwd="/home")
    script = "pwd; ls -A $HOME | wc -l; stat -c %a $HOME; test $HOME = $TMPDIR && echo same; touch $HOME/x && echo kept"
    for _ in range(2):
        ending = await world.shell(script, spec=world.spec(config))
        assert ending.stdout == b"/home\n0\n700\nsame\nkept\n"
    own = await world.shell("echo $HOME", env=(("HOME", "/mine"),))
    assert own.stdout == b"/mine\n"
    missing = await world.shell("test $PWD = $HOME && echo own", spec=world.spec(ProcessConfig(cwd="/made/for/it")))
    assert missing.stdout == b"own\n"


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ((2, 1, 0, 5, 8), errno.EPROTONOSUPPORT),
        ((1, 0, 0, 5, 8), errno.EBADMSG),
        ((1, 1, 0, 5, 0), errno.EBADMSG),
        ((1, *[0xFFFFFFFF] * 4), errno.EBADMSG),
    ],
)
async def test_a_malformed_frame_is_refused_and_nothing_runs(world: World, header: tuple[int, ...], why: int) -> None:
    """The launcher says why, and ends."""
    container = await held(world)
    container._stdio.control.sendall(struct.pack("=6I", 1, *header))
    async with asyncio.timeout(20 * SCALE):
        await asyncio.wait({container._dead})
    words = LastWords.decode(container._stdio.control.recv(64))
    assert words is not None
    assert words.report == frame.Report(frame.REFUSED, why)
    await container.remove()


async def test_without_its_filter_no_function_starts(world: World, runtime: ConfinedRuntime) -> None:
    """One that the kernel refuses, as any other part of its confinement, is the end of the call."""
    runtime.seccomp_program = b"\xff" * 8
    ending = await world.run("echo", "x")
    assert (ending.exit_code, ending.stdout) == (125, b"")
    assert b"cannot confine the function" in ending.stderr


# --- images -------------------------------------------------------------------------------------------------------


async def test_a_link_as_dev_leads_nowhere(world: World, tmp_path: Path) -> None:
    """Nothing is made outside of the image, and the call is refused."""
    root = copy_rootfs(world.rootfs, tmp_path / "hostile")
    (tmp_path / "outside").mkdir()
    shutil.rmtree(root / "dev", ignore_errors=True)
    (root / "dev").symlink_to(tmp_path / "outside")
    with pytest.raises(RuntimeFailed, match="could not be prepared"):
        await World(world.runtime, root).run("true")
    assert list((tmp_path / "outside").iterdir()) == []


async def test_what_an_image_has_in_dev_is_not_taken_for_ours(world: World, tmp_path: Path) -> None:
    """A file as /dev/null is replaced, a node of another device too; a directory of its own at our place is refused."""
    root = copy_rootfs(world.rootfs, tmp_path / "hostile")
    room.furnish(root)
    (root / "dev" / "null").unlink()
    (root / "dev" / "null").write_text("no device\n")
    (root / "dev" / "zero").unlink()
    os.mknod(root / "dev" / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 1))  # the machine's memory
    own = World(world.runtime, root)
    assert (await own.shell("cat /dev/null; head -c 2 /dev/zero | od -An -tx1")).stdout.split() == [b"00", b"00"]
    os.chown(root / "dev" / room.ROOMS, 100_000, 100_000)
    again = World(world.runtime, copy_rootfs(root, tmp_path / "again"))
    with pytest.raises(RuntimeFailed, match=r"its own files at /dev/mayfly"):
        await again.run("true")


async def test_a_function_with_egress_is_refused(world: World) -> None:
    """It has no network, and says so before anything runs."""
    with pytest.raises(RuntimeFailed, match=re.escape(NO_EGRESS)) as caught:
        await world.create(replace(world.spec(), network=Network.EGRESS))
    assert caught.value.ran == "no"
    assert not world.runtime.offers_egress


def test_every_exception_is_documented() -> None:
    """The page for operators has the table of what is lost, word for word."""
    assert table("confined") in (ROOT / "docs" / "howto" / "run-without-privileges.md").read_text(encoding="utf-8")
