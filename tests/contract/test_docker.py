"""What only the docker driver does: roots brought to a daemon, and what its functions and images try against it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from mayfly.containers.docker import rootfs as rootfs_of
from mayfly.containers.docker import runtime as runtime_of
from mayfly.containers.docker.config import container_name
from mayfly.containers.docker.rootfs import Roots
from mayfly.containers.docker.runtime import DockerRuntime
from mayfly.containers.runtime import Call, EndReason
from mayfly.domain import sandbox
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.image import ProcessConfig
from mayfly.domain.limits import PARAMETER_MAX_BYTES, STDERR_MAX_BYTES
from tests.contract.exceptions import table
from tests.support import dockerd_bare
from tests.support.containers import SCALE, SHIFT, World, copy_rootfs, died, open_runtime, spoken

pytestmark = [pytest.mark.root, pytest.mark.F9]

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(params=["docker"])
def driver(request: pytest.FixtureRequest, docker_daemon: dockerd_bare.Daemon) -> str:
    """Only docker."""
    return str(request.param)


def images(daemon: dockerd_bare.Daemon) -> set[str]:
    """The tags that the daemon has."""
    return {tag for each in daemon.ask("GET", "/images/json").json() for tag in each["RepoTags"] or []}


# --- roots --------------------------------------------------------------------------------------------------------


async def test_many_calls_at_once_import_a_root_once(world: World, tmp_path: Path, docker_daemon: object) -> None:
    """Eight that need the same new image share one import."""
    assert isinstance(docker_daemon, dockerd_bare.Daemon)
    before = images(docker_daemon)
    own = World(world.runtime, copy_rootfs(world.rootfs, tmp_path / "own"))
    endings = await asyncio.gather(*(own.run("echo", "x") for _ in range(8)))
    assert {each.stdout for each in endings} == {b"x\n"}
    assert len(images(docker_daemon) - before) == 1


async def test_an_evicted_root_leaves_the_daemon_and_a_pruned_one_comes_back(
    world: World, tmp_path: Path, docker_daemon: dockerd_bare.Daemon
) -> None:
    """Images follow the worker's store; one that somebody else removed is imported anew at the next call."""
    runtime = world.runtime
    assert isinstance(runtime, DockerRuntime)
    before = images(docker_daemon)
    own = World(runtime, copy_rootfs(world.rootfs, tmp_path / "own"))
    await own.run("true")
    [tag] = images(docker_daemon) - before
    assert docker_daemon.ask("DELETE", f"/images/{tag}").status_code == 200
    assert (await own.run("echo", "again")).stdout == b"again\n"
    assert images(docker_daemon) - before == {tag}
    (tmp_path / "own").rename(tmp_path / "evicted")
    await runtime.roots.sweep()
    assert images(docker_daemon) == before


async def test_a_root_that_cannot_be_read_to_its_end_is_no_image(
    world: World, tmp_path: Path, docker_daemon: dockerd_bare.Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tar that breaks off is refused with the reason, and no half image is left to run calls in."""
    before = images(docker_daemon)
    own = World(world.runtime, copy_rootfs(world.rootfs, tmp_path / "own"))

    def breaks_off(_: Path, __: bytes, to: object) -> None:
        to.write(b"\0" * 512)  # type: ignore[attr-defined]
        raise OSError("the disk is broken")

    with monkeypatch.context() as patch:
        patch.setattr("mayfly.containers.docker.rootfs.write_tar", breaks_off)
        with pytest.raises(RuntimeFailed, match="the disk is broken") as caught:
            await own.run("true")
        assert caught.value.ran == "no"
    assert images(docker_daemon) == before
    assert (await own.run("echo", "well")).stdout == b"well\n"


async def test_a_root_at_an_odd_path_is_kept(world: World, tmp_path: Path, docker_daemon: dockerd_bare.Daemon) -> None:
    """Nothing in a path means anything to the daemon: the root is found again, and not taken for evicted."""
    before = images(docker_daemon)
    own = World(world.runtime, copy_rootfs(world.rootfs, tmp_path / 'a $HOME "b" \\ü'))
    assert (await own.run("echo", "x")).stdout == b"x\n"
    imported = images(docker_daemon) - before
    assert isinstance(world.runtime, DockerRuntime)
    await world.runtime.roots.sweep()
    assert images(docker_daemon) - before == imported != set()


async def test_roots_of_workers_that_are_gone_go_after_a_day(
    world: World, docker_daemon: dockerd_bare.Daemon, state_dir: Path, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose name never comes again leaves its images; one that lives brings its own anew, unharmed."""
    other = World(open_runtime(driver, state_dir=state_dir / "other"), world.rootfs)
    await world.run("true")
    before = images(docker_daemon)
    await other.run("true")
    assert isinstance(world.runtime, DockerRuntime)
    await world.runtime.roots.sweep()
    assert len(images(docker_daemon) - before) == 1
    monkeypatch.setattr(rootfs_of, "OLD_S", -1.0)
    await world.runtime.roots.sweep()
    assert images(docker_daemon) <= before
    assert (await other.run("echo", "anew")).stdout == b"anew\n"
    await other.runtime.close()
    (state_dir / "other" / "containers.lock").unlink()
    (state_dir / "other").rmdir()


async def test_a_deleted_init_is_only_that_containers(world: World) -> None:
    """A function that removes or overwrites the init gets its answer, and so does the next one."""
    script = f"rm -f {world.init_path}; echo x > {world.init_path}; echo done"
    assert (await world.shell(script)).stdout == b"done\n"
    assert (await world.shell(script)).stdout == b"done\n"


# --- containers ---------------------------------------------------------------------------------------------------


async def test_a_function_cannot_write_its_own_ending(world: World) -> None:
    """What looks like the init's last words, at the end of stderr, is the function's log and nothing more."""
    script = "head -c 48 /dev/zero >&2; exit 4"
    ending = await world.shell(script)
    assert (ending.reason, ending.exit_code, ending.stderr) == (EndReason.EXITED, 4, b"\0" * 48)


async def test_a_function_cannot_keep_the_init_from_speaking(world: World) -> None:
    """A shared stderr that is small, full and non-blocking does not lose the ending, ten times out of ten."""
    for _ in range(10):
        ending = await world.run("stop_blocking")
        assert (ending.reason, ending.exit_code, ending.stdout) == (EndReason.EXITED, 7, b"")


@pytest.mark.long
async def test_a_hundred_megabytes_are_read_and_dropped(world: World) -> None:
    """On stdout they end the call; on stderr its end is kept, and the result is whole."""
    assert (await world.shell("yes | head -c 100000000")).reason is EndReason.RESULT_TOO_LARGE
    ending = await world.shell("yes | head -c 100000000 >&2; echo END >&2; echo result", timeout_s=60)
    assert (ending.reason, ending.stdout, ending.stderr_truncated) == (EndReason.EXITED, b"result\n", True)
    assert ending.stderr.endswith(b"END\n")
    assert len(ending.stderr) <= STDERR_MAX_BYTES


async def test_a_parameter_that_is_never_read_holds_nothing_up(world: World) -> None:
    """1 MiB that nobody reads: the call ends when its command does, and at its time limit."""
    parameter = b"x" * PARAMETER_MAX_BYTES
    assert (await world.shell("sleep 0.2; echo done", stdin=parameter)).stdout == b"done\n"
    assert (await world.run("sleep", "60", stdin=parameter, timeout_s=0.5)).reason is EndReason.TIMED_OUT


async def test_a_call_whose_init_hangs_is_over_when_it_is_dead(world: World) -> None:
    """A run that is cancelled many times ends when the daemon has killed all, where the init does not obey any more."""
    async with world.held() as container:
        running = asyncio.create_task(container.run(Call(argv=("escape_death",)), timeout_s=60))
        await spoken(container)
        for process in world.living(container):
            os.kill(process, signal.SIGSTOP)
        for _ in range(20):
            running.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not world.living(container)


async def test_137_by_its_own_hand_is_no_lack_of_memory(world: World) -> None:
    """SIGKILL by the function itself is an exit code, by the kernel for memory OUT_OF_MEMORY, by us neither."""
    own = await world.shell("kill -9 $$")
    assert (own.reason, own.exit_code) == (EndReason.EXITED, 137)
    child = await world.shell("sleep 9 & kill -9 $!; wait $!; exit $?")
    assert (child.reason, child.exit_code) == (EndReason.EXITED, 137)
    eaten = await world.run("eat_memory", spec=world.spec(memory_mib=48))
    assert (eaten.reason, eaten.exit_code) == (EndReason.OUT_OF_MEMORY, None)


async def test_neither_socket_nor_daemon_is_within_reach(world: World, docker_daemon: dockerd_bare.Daemon) -> None:
    """No socket in any directory, none in a mount, no file of the daemon's, no environment but the call's."""
    config = ProcessConfig(env=(("LANG", "C"),))
    ending = await world.shell(
        "find / -xdev -type s; find /run /var /tmp /dev -name '*docker*' -o -name 'containerd*'; cat /proc/mounts; env",
        env=(("OWN", "1"),),
        spec=world.spec(config),
    )
    text = ending.stdout.decode()
    assert "sock" not in text
    environment = {line.split("=")[0] for line in text.splitlines() if "=" in line.split(" ")[0]}
    assert environment <= {"PATH", "HOME", "LANG", "OWN", "PWD", "SHLVL"}
    assert str(docker_daemon.socket) not in text
    reached = await world.shell(f"ls -A /var/run {docker_daemon.root} 2>&1; nc -w 1 127.0.0.1 2375 </dev/null; echo $?")
    assert reached.stdout.endswith(b"1\n")


async def test_a_working_directory_in_proc_leads_nowhere(world: World) -> None:
    """An image whose WORKDIR is a descriptor that a runtime may have left open is refused, or sees its own root."""

    async def leads(descriptor: int) -> bytes:
        spec = world.spec(ProcessConfig(cwd=f"/proc/self/fd/{descriptor}"))
        try:
            return (await world.shell("cat ../../../../../../etc/shadow; ls ../../../../..", spec=spec)).stdout
        except RuntimeFailed as error:
            return f"{error.ran}: {error.detail}".encode()

    outcomes = await asyncio.gather(*(leads(descriptor) for descriptor in range(3, 10)))
    for outcome in outcomes:
        assert outcome.startswith(b"no: docker could not start the container:") or b"opt" in outcome
        assert b"root:" not in outcome


HOSTILE = {
    "a link as the init": lambda root: (root / "mayfly-init").symlink_to("/bin/sh"),
    "a directory as the init": lambda root: (root / "mayfly-init").mkdir(),
    "no /tmp": lambda root: (root / "tmp").rmdir(),
    "a link as /tmp": lambda root: ((root / "tmp").rmdir(), (root / "tmp").symlink_to("/etc")),
    "a link as /dev": lambda root: (root / "dev").symlink_to("../../../dev"),
    "links as /proc and /sys": lambda root: [(root / name).symlink_to("/etc") for name in ("proc", "sys")],
    "links as what a daemon mounts": lambda root: [
        (root / "etc" / name).symlink_to("../../../../tmp/mayfly-probe")
        for name in ("hosts", "hostname", "resolv.conf")
    ],
}


@pytest.mark.parametrize("trick", HOSTILE)
async def test_a_hostile_root_harms_nobody(world: World, tmp_path: Path, trick: str) -> None:
    """Whatever stands where the daemon mounts or the init goes: the call runs, in its own container."""
    root = copy_rootfs(world.rootfs, tmp_path / "hostile")
    HOSTILE[trick](root)  # type: ignore[no-untyped-call]
    for path in root.rglob("*"):
        os.chown(path, SHIFT, SHIFT, follow_symlinks=False)
    shadow = Path("/etc/shadow").stat().st_mtime_ns
    ending = await World(world.runtime, root).shell("echo ran; cat /proc/1/comm")
    assert ending.stdout == b"ran\nmayfly-init\n"
    assert Path("/etc/shadow").stat().st_mtime_ns == shadow
    assert not Path("/tmp/mayfly-probe").exists()


async def test_an_image_with_nothing_in_it_says_so(world: World, tmp_path: Path) -> None:
    """Neither a shell nor an entry point: the init is static, and tells that the command is missing."""
    (tmp_path / "empty").mkdir()
    os.chown(tmp_path / "empty", SHIFT, SHIFT)
    ending = await World(world.runtime, tmp_path / "empty").run("/entrypoint")
    assert (ending.exit_code, ending.stdout) == (127, b"")
    assert b"cannot run '/entrypoint': No such file" in ending.stderr


@pytest.mark.long
async def test_nothing_of_thirty_calls_is_left_at_the_daemon(world: World, docker_daemon: dockerd_bare.Daemon) -> None:
    """Whatever became of them: no container, volume, network, mount, image or layer more than before."""
    await world.run("true")
    before = docker_daemon.everything()
    gate = asyncio.Semaphore(8)

    async def one(number: int) -> None:
        async with gate:
            match number % 5:
                case 0:
                    assert (await world.run("cat", stdin=b"%d" % number)).stdout == b"%d" % number
                case 1:
                    assert (await world.shell("echo x > /written; exit 3")).exit_code == 3
                case 2:
                    async with world.held():
                        pass
                case 3:
                    assert (await world.run("sleep", "60", timeout_s=0.1)).reason is EndReason.TIMED_OUT
                case 4:
                    assert (await world.run("yes")).reason is EndReason.RESULT_TOO_LARGE

    await asyncio.gather(*(one(number) for number in range(30)))
    assert docker_daemon.everything() == before


async def test_reap_removes_what_runs_and_what_is_held(rootfs: Path, state_dir: Path, driver: str) -> None:
    """The next incarnation in the same place removes a dead one's containers; another worker's are left alone."""
    first = World(open_runtime(driver, state_dir=state_dir), rootfs)
    other = World(open_runtime(driver, state_dir=state_dir / "other"), rootfs)
    async with other.held() as neighbour:
        held = await first.create()
        assert len(first.ids()) == 1
        assert await first.runtime.reap() == 1  # stands for its successor: the daemon cannot tell them apart
        assert not first.left()
        assert await first.runtime.reap() == 0
        assert (await neighbour.run(Call(argv=("echo", "x")), timeout_s=20 * SCALE)).stdout == b"x\n"
        await held.remove()
    for world in (first, other):
        await world.runtime.close()
    (state_dir / "other" / "containers.lock").unlink()
    (state_dir / "other").rmdir()


async def test_remains_of_workers_that_are_gone_go_after_an_hour(
    world: World, state_dir: Path, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker's container is left alone while it runs, and for an hour when it has ended."""
    other = World(open_runtime(driver, state_dir=state_dir / "other"), world.rootfs)
    async with other.held() as alive, other.held() as dead:
        await died(dead)
        assert await world.runtime.reap() == 0
        assert other.ids() == {alive.id, dead.id}
        monkeypatch.setattr(runtime_of, "OLD_S", -1.0)
        async with asyncio.timeout(20 * SCALE):
            while dead.id in other.ids():  # until the daemon has seen it end
                assert await world.runtime.reap() == 0
        assert (await alive.run(Call(argv=("echo", "x")), timeout_s=20 * SCALE)).stdout == b"x\n"
    await other.runtime.close()
    (state_dir / "other" / "containers.lock").unlink()
    (state_dir / "other").rmdir()


async def test_what_is_asked_of_the_daemon_is_in_force(world: World, docker_daemon: dockerd_bare.Daemon) -> None:
    """The daemon's own view: no network, no capability, no restart, no log file, no swap, the user of the image."""
    async with world.held(world.spec(memory_mib=64)) as container:
        seen = docker_daemon.ask("GET", f"/containers/{container_name(container.id)}/json").json()
    host = seen["HostConfig"]
    assert host["NetworkMode"] == "none"
    assert (host["CapDrop"], host["CapAdd"], host["Privileged"]) == (["ALL"], None, False)
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert (host["PidsLimit"], host["CpuQuota"], host["CpuPeriod"]) == (65, 100_000, 100_000)
    assert (host["IpcMode"], host["CgroupnsMode"], host["PidMode"], host["Devices"] or []) == (
        "private",
        "private",
        "",
        [],
    )
    assert set(sandbox.MASKED) <= set(host["MaskedPaths"])
    assert set(sandbox.READ_ONLY) <= set(host["ReadonlyPaths"])
    assert [each["Destination"] for each in seen["Mounts"]] == []
    assert host["Memory"] == host["MemorySwap"] == 64 << 20
    assert (host["RestartPolicy"]["Name"], host["AutoRemove"], host["LogConfig"]["Type"]) == ("no", False, "none")
    assert host["Binds"] is None
    assert seen["Config"]["User"] == "0:0"


def test_every_exception_is_documented() -> None:
    """The page for operators has the table of what docker cannot keep, word for word."""
    assert table("docker") in (ROOT / "docs" / "howto" / "run-on-docker.md").read_text(encoding="utf-8")


def test_roots_are_the_workers_own() -> None:
    """Two workers never share a name for a root, so none removes the other's."""
    here = ROOT / "tests"
    one, two = (Roots(None, owner=owner, init=b"") for owner in ("a", "b"))  # type: ignore[arg-type]
    assert one._tag(here) == one._tag(here) != two._tag(here)
    assert one._tag(here) != Roots(None, owner="a", init=b"another")._tag(here)  # type: ignore[arg-type]
