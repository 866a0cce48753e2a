"""The worker's own namespaces, and what is said of a host that will not do."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from mayfly.containers import mounts
from mayfly.containers.choose import choose_runtime, explain_runtime
from mayfly.containers.local import LocalRuntime
from mayfly.containers.runtime import Runtime
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.image import ProcessConfig
from tests.contract.exceptions import local_only, not_with
from tests.support.containers import SCALE, World, open_runtime, processes_of
from tests.support.need import need

pytestmark = pytest.mark.root

ROOT = Path(__file__).parent.parent.parent

INSIDE = """
import os, signal, sys
from pathlib import Path
from mayfly.containers.host import enter_namespaces, is_inside, prepare_host
enter_namespaces()
enter_namespaces()  # inside already: does nothing
"""


@contextmanager
def python(script: str, *arguments: str, by: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a script, started through *by*; killed in the end, if it still runs."""
    environment = {"PYTHONPATH": f"{ROOT / 'src'}:{':'.join(sys.path)}", "PATH": os.environ["PATH"]}
    command = [*by, sys.executable, "-c", script, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture(autouse=True)
def _root() -> None:
    need(os.geteuid() == 0, "root")


def test_the_worker_goes_on_inside_and_its_exit_status_comes_out() -> None:
    """Inside it is process 2, sees only its own processes, and its status is the outer process's."""
    script = (
        INSIDE
        + """
pids = sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
print(is_inside(), os.getpid(), pids, flush=True)
sys.exit(7)
"""
    )
    with python(script) as process:
        assert line(process) == "True 2 [1, 2]"
        assert process.wait(20 * SCALE) == 7


def test_a_command_line_is_run_inside() -> None:
    """Given one, `enter_namespaces` runs it there instead of returning."""
    script = "from mayfly.containers.host import enter_namespaces\nenter_namespaces(['sh', '-c', 'echo $$; exit 3'])"
    with python(script) as process:
        assert line(process) == "2"
        assert process.wait(20 * SCALE) == 3


def test_death_by_signal_comes_out_as_128_and_its_number() -> None:
    """A worker that is killed is reported as a shell would."""
    with python(INSIDE + "os.kill(os.getpid(), signal.SIGKILL)") as process:
        assert process.wait(20 * SCALE) == 128 + signal.SIGKILL


def test_signals_go_in_once() -> None:
    """SIGTERM, SIGINT and others to the outer process reach the worker, each one time."""
    script = (
        INSIDE
        + """
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # they wait until they are asked for
print("ready", flush=True)
while True:
    print("signal", signal.sigwait({signal.SIGTERM, signal.SIGINT}), flush=True)
"""
    )
    with python(script) as process:
        assert line(process) == "ready"
        process.send_signal(signal.SIGTERM)
        assert line(process) == f"signal {signal.SIGTERM}"
        process.send_signal(signal.SIGINT)
        assert line(process) == f"signal {signal.SIGINT}"
        process.send_signal(signal.SIGUSR1)
        assert process.wait(20 * SCALE) == 128 + signal.SIGUSR1
        assert line(process) == ""


def test_the_worker_has_a_session_of_its_own() -> None:
    """A terminal's Ctrl-C reaches the outer process only, which forwards it: so it does not come twice."""
    with python(INSIDE + "print(os.getsid(0), os.getpgid(0), flush=True)") as process:
        assert line(process) == "1 1"


@pytest.mark.parametrize("whom", ["outer", "process 1"])
def test_everything_inside_dies_with_the_outer_process_and_with_process_1(whom: str) -> None:
    """Kill -9 of either leaves nothing of the worker, nor what it started and let go of."""
    script = (
        INSIDE
        + """
if not os.fork():
    os.setsid()
    print("ready", flush=True)
signal.pause()
"""
    )
    with python(script) as process:
        assert line(process) == "ready"
        victim = process.pid if whom == "outer" else child_of(process.pid)
        os.kill(victim, signal.SIGKILL)
        assert process.stdout is not None
        assert process.stdout.read() == ""  # the end of file comes when the last one that holds the pipe is dead


@pytest.mark.parametrize("whom", ["worker", "process 1 and worker", "nobody, but it feeds no more"])
def test_everything_inside_dies_when_the_watchdog_is_not_fed(whom: str) -> None:
    """A worker that is frozen, with process 1 or without, is killed with whatever it started and let go of."""
    script = """
import os, signal
from mayfly.containers import watchdog
from mayfly.containers.host import enter_namespaces
watchdog.LEASE_S = 2.0  # long enough for a machine that stands still for a moment
feed = enter_namespaces()
if not os.fork():
    os.setsid()
    print("ready", flush=True)
    signal.pause()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
began = watchdog.now()
outlived = False
feed.prove(began)
while not signal.sigtimedwait({signal.SIGUSR1}, watchdog.LEASE_S / 20):
    feed.prove(watchdog.now())
    if not outlived and watchdog.now() > began + 1.5 * watchdog.LEASE_S:
        outlived = True
        print("fed, it has outlived its lease", flush=True)
signal.pause()
"""
    with python(script) as process:
        assert line(process) == "ready"
        assert line(process) == "fed, it has outlived its lease"
        process_1 = child_of(process.pid)
        worker = child_of(process_1)
        if whom.startswith("process 1"):
            os.kill(process_1, signal.SIGSTOP)
        os.kill(worker, signal.SIGUSR1 if whom.startswith("nobody") else signal.SIGSTOP)
        assert process.wait(20 * SCALE) == 128 + signal.SIGKILL
        assert process.stdout is not None
        assert process.stdout.read() == ""  # the end of file comes when the last one that holds the pipe is dead


def child_of(pid: int) -> int:
    """The first child of a process."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def test_mounts_made_inside_do_not_show_outside(tmp_path: Path) -> None:
    """What a worker mounts is its own."""
    script = (
        INSIDE
        + """
prepare_host()
from mayfly.containers import mounts
mounts.mount("x", Path(sys.argv[1]), "tmpfs")
print(sys.argv[1] in Path("/proc/mounts").read_text(), flush=True)
sys.stdin.read()
"""
    )
    with python(script, str(tmp_path)) as process:
        assert line(process) == "True"
        assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_a_worker_without_root_is_told_so() -> None:
    """One sentence with the remedy."""
    script = """
import os
os.setresuid(65534, 65534, 65534)
from mayfly.containers.host import enter_namespaces, prepare_host
for step in (enter_namespaces, prepare_host):
    try:
        step()
    except Exception as error:
        print(error, flush=True)
"""
    with python("import mayfly.containers.host" + script) as process:
        for _ in range(2):
            assert line(process) == (
                "A worker starts containers, which needs root: run it with sudo, or in its own container."
            )


def test_explaining_needs_no_privileges() -> None:
    """`explain_runtime` works for anybody."""
    need(shutil.which("crun"), "crun")
    script = """
import os
from mayfly.containers.choose import explain_runtime
os.setresuid(65534, 65534, 65534)
print(*explain_runtime("auto"), flush=True)
"""
    with python(script) as process:
        expected = explain_runtime("auto")
        assert line(process) == " ".join(expected)
        assert expected.name == "native"


@local_only
async def test_where_others_may_not_search_crun_works_and_runc_says_so(
    driver: str, rootfs: Path, tmp_path: Path
) -> None:
    """State below a directory of mode 0700: all start all the same, but runc, which is refused in a sentence."""
    (tmp_path / "private").mkdir(mode=0o700)
    if driver == "runc":
        with pytest.raises(RuntimeFailed, match=r"runc cannot reach .*chmod o\+x"):
            choose_runtime(driver, state_dir=tmp_path / "private" / "state")
        return
    runtime = choose_runtime(driver, state_dir=tmp_path / "private" / "state")
    try:
        world = World(runtime, rootfs)  # type: ignore[arg-type]
        config = ProcessConfig(cwd="/made", uid=1234)
        assert (await world.run("pwd", spec=world.spec(config))).stdout == b"/made\n"
    finally:
        await runtime.close()


def test_programs_that_were_not_built_are_asked_for(
    driver: str, state_dir: Path, tmp_path: Path, prepared_host: None
) -> None:
    """A launcher directory without the programs is refused with the remedy, and nothing stays mounted."""
    with pytest.raises(RuntimeFailed, match="scripts/setup"):
        open_runtime(driver, state_dir=state_dir, launcher_dir=tmp_path)
    assert str(state_dir) not in Path("/proc/mounts").read_text()


DOCKER = """
set -e
mount --make-rprivate /
mount --bind /dev/null /proc/keys
mount -t tmpfs -o ro tmpfs /proc/acpi
mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys
mount -t tmpfs -o ro tmpfs /sys/firmware
mount -o remount,ro,bind /sys
for point in $(awk '$3 ~ /^cgroup/ { print $2 }' /proc/mounts); do mount -o remount,ro,bind $point; done
exec setpriv --bounding-set=-all,+sys_admin,+setuid,+setgid,+chown,+dac_override,+kill$MORE -- "$@"
"""


@local_only
@pytest.mark.parametrize("how", ["namespaces", "plain"])
def test_a_worker_runs_containers_under_what_docker_leaves_it(
    driver: str, rootfs: Path, state_dir: Path, how: str
) -> None:
    """
    With /proc and /sys masked, /sys and cgroups read-only and six capabilities left, containers start all the same, and
    none sees the worker's network interfaces.
    """
    need(shutil.which("setpriv"), "setpriv")
    worker = [sys.executable, str(ROOT / "tests" / "contract" / "lone_worker.py")]
    command = ["unshare", "--mount", "sh", "-c", DOCKER, "docker", *worker, driver, str(rootfs), str(state_dir), how]
    environment = {
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}:{':'.join(sys.path)}",
        "PATH": os.environ["PATH"],
        "MORE": ",+sys_ptrace,+sys_chroot" if driver == "runc" else "",  # it enters its child's namespaces
    }
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        words = line(process).split()
        interfaces = [interfaces_of(container) for container in words[2:]]
        process.kill()
        errors = process.stderr.read() if process.stderr is not None else ""
    assert asyncio.run(_reap(choose_runtime(driver, state_dir=state_dir))) == 3, errors
    assert words[:1] == ["ready"], errors
    assert interfaces == [{"lo"}, {"lo"}]


def interfaces_of(container_id: str) -> set[str]:
    """The network interfaces that a container finds in its /sys."""
    own = Path("/proc/self/ns/net").readlink()
    inside = [pid for pid in processes_of(container_id) if Path(f"/proc/{pid}/ns/net").readlink() != own]
    return {interface.name for pid in inside for interface in Path(f"/proc/{pid}/root/sys/class/net").iterdir()}


READ_ONLY = {
    "mount": "mount -o remount,ro,bind /sys",
    "mount, and without times of access": "mount -o remount,ro,bind,noatime /sys",
    # As container engines do it; a network namespace has a file system of its own behind /sys.
    "file system": """
keep=$(mktemp -d)
mount --rbind /sys/fs/cgroup $keep
umount --recursive --lazy /sys
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs /sys
mount --rbind $keep /sys/fs/cgroup
umount --recursive --lazy $keep
rmdir $keep
""",
}


def outside(setup: str, *namespaces: str) -> list[str]:
    """Words before a command that run it in namespaces of its own after *setup*, whence mounts would propagate."""
    return ["unshare", "--mount", *namespaces, "sh", "-euc", f'{setup}\nmount --make-rshared /\nexec "$@"', "sh"]


@pytest.mark.parametrize("what", READ_ONLY)
def test_a_read_only_sys_is_writable_for_the_worker_and_for_nobody_else(what: str) -> None:
    """Whether the mount is read-only or all of the file system; every mount outside is as it was."""
    script = (
        INSIDE
        + """
print("ready", flush=True)
sys.stdin.readline()
prepare_host()
print(bool(os.statvfs("/sys").f_flag & os.ST_RDONLY), Path("/sys/firmware").is_mount(), flush=True)
sys.stdin.read()
"""
    )
    setup = f"{READ_ONLY[what]}\nmount -t tmpfs -o ro tmpfs /sys/firmware"
    with python(script, by=outside(setup, "--net")) as process:
        assert line(process) == "ready"
        before = mounts_of(process.pid)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert line(process) == "False False"
        assert mounts_of(process.pid) == before
        assert {"ro"} <= {point: options for point, _, options in before}[Path("/sys")]


def mounts_of(pid: int) -> list[tuple[Path, str, frozenset[str]]]:
    """What a process has mounted: where, what kind, and how."""
    found = mounts.mounts(Path(f"/proc/{pid}/mountinfo").read_text())
    return [(each.point, each.kind, each.options) for each in found]


def test_a_sys_without_times_of_access_is_no_reason_to_refuse() -> None:
    """As WSL mounts it: functions get their own all the same."""
    script = INSIDE + 'prepare_host()\nprint("prepared", flush=True)\n'
    with python(script, by=outside("mount -o remount,bind,noatime /sys", "--net")) as process:
        assert line(process) == "prepared"


IN_A_USER_NAMESPACE = ("--user", "--map-root-user")


@pytest.mark.parametrize(
    ("by", "why"),
    [
        (
            [*outside(READ_ONLY["mount"]), "unshare", "--mount", *IN_A_USER_NAMESPACE],
            "did not help ([Errno 1] Operation not permitted",
        ),
        (outside("mount -t tmpfs tmpfs /sys/kernel"), "Operation not permitted: 'sysfs in a user namespace'"),
        (
            outside("echo 0 >/proc/sys/user/max_net_namespaces", *IN_A_USER_NAMESPACE),
            "No space left on device: 'user, mount and network namespaces'",
        ),
    ],
    ids=["read-only for good", "a part is hidden", "no network namespaces"],
)
def test_where_functions_would_see_the_workers_sys_it_does_not_start(by: Sequence[str], why: str) -> None:
    """One sentence that says what is wrong, and what to do; a function that sees more than its own is never run."""
    script = """
from mayfly.containers import host
try:
    host._let_functions_have_their_own_sys()  # what comes before it may be refused in a user namespace, too
except Exception as error:
    print(type(error).__name__, error, flush=True)
"""
    with python(script, by=by) as process:
        said = line(process)
    assert said.startswith("RuntimeFailed Functions would see the worker's own /sys"), said
    assert why in said
    assert "MAYFLY_RUNTIME=docker" in said


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "raise MemoryError"])
def test_an_attempt_that_does_not_come_back_is_a_refusal(end: str) -> None:
    """As under a seccomp profile that kills: what was not seen to work counts as not working."""
    script = f"""
import os, signal
from mayfly.containers import host
def die(flags):
    {end}
class Kills:
    unshare = staticmethod(die)
host._libc = Kills()
try:
    host._let_functions_have_their_own_sys()
except Exception as error:
    print(type(error).__name__, error, flush=True)
"""
    with python(script, by=outside("true")) as process:
        said = line(process)
    assert said.startswith("RuntimeFailed Functions would see the worker's own /sys"), said
    assert "the attempt ended by itself, with status" in said


async def _reap(runtime: Runtime) -> int:
    try:
        return await runtime.reap()
    finally:
        await runtime.close()


@not_with("docker", "shared cap")
async def test_all_functions_together_leave_something_to_the_system(world: World) -> None:
    """The group of all containers is capped a quarter of a core below what there is, and weighs less than others."""
    assert isinstance(world.runtime, LocalRuntime)
    cores = len(os.sched_getaffinity(0)) - 0.25
    parents = set(world.runtime.groups._parents.values())
    files = {
        path.name: path.read_text().split()[0] for parent in parents for path in parent.iterdir() if path.name in CAPS
    }
    quota = str(int(cores * 100_000))
    assert files in ({"cpu.max": quota, "cpu.weight": "25"}, {"cpu.cfs_quota_us": quota, "cpu.shares": "256"})


CAPS = {"cpu.max", "cpu.weight", "cpu.cfs_quota_us", "cpu.shares"}
