"""What a function finds around it: a world of its own, and no way out of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mayfly.containers.local import LocalRuntime
from mayfly.containers.runtime import Call, EndReason
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.image import ProcessConfig
from mayfly.domain.limits import MIB
from mayfly.domain.sandbox import ID_COUNT, OWN_HOST_IDS, SIGNALS_PENDING
from tests.contract.exceptions import local_only, native_only, not_with
from tests.support.containers import IS_AMD64, SCALE, OurContainer, World, spoken
from tests.support.need import need

pytestmark = [pytest.mark.root, pytest.mark.F9]


async def lines(world: World, script: str) -> list[str]:
    """What a script prints."""
    return (await world.shell(script)).stdout.decode().splitlines()


async def test_every_call_has_a_fresh_root(world: World) -> None:
    """What one call writes, deletes or changes, the next does not see, nor does the image."""
    script = "ls /written; cat /etc/secret; echo x > /written; echo y > /etc/secret; rm -r /opt; ls -a / /tmp"
    first, second = await world.shell(script), await world.shell(script)
    assert first.stdout.startswith(b"of the image's root\n")
    assert first.stdout == second.stdout
    assert (world.rootfs / "etc" / "secret").read_text() == "of the image's root\n"
    assert not (world.rootfs / "written").exists()


async def test_a_function_sees_only_its_own_processes(world: World) -> None:
    """Its /proc has the init and itself."""
    commands = await lines(world, "for p in /proc/[0-9]*; do cat $p/comm; done")
    assert {"mayfly-init", "sh"} <= set(commands) <= {"mayfly-init", "sh", "cat"}


async def test_the_init_cannot_be_read_or_signalled(world: World) -> None:
    """Process 1 shows neither its environment, memory nor descriptors, and survives every signal."""
    script = """
        for f in environ mem maps fd/0 fd/3 exe; do cat /proc/1/$f >/dev/null 2>&1 && echo "read $f"; done
        for f in exe root cwd fd/3; do readlink /proc/1/$f; done
        (echo x > /proc/1/fd/3) 2>/dev/null && echo wrote
        for s in 1 2 3 9 11 15 19; do kill -$s 1; done
        echo alive
    """
    assert await lines(world, script) == ["alive"]


async def test_ids_are_not_the_hosts(world: World) -> None:
    """Container root is one of the users set apart for containers, with 65,536 ids."""
    users, groups = [line.split() for line in await lines(world, "cat /proc/self/uid_map /proc/self/gid_map")]
    assert (users, users[0], users[2]) == (groups, "0", str(ID_COUNT))
    assert int(users[1]) in (OWN_HOST_IDS if isinstance(world.runtime, LocalRuntime) else ())


async def test_no_capabilities_no_new_privileges_and_a_filter(world: World) -> None:
    """All five capability sets are empty, no_new_privs is set, system calls are filtered."""
    status = await lines(world, "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status")
    assert [line.split() for line in status] == [
        ["CapInh:", "0000000000000000"],
        ["CapPrm:", "0000000000000000"],
        ["CapEff:", "0000000000000000"],
        ["CapBnd:", "0000000000000000"],
        ["CapAmb:", "0000000000000000"],
        ["NoNewPrivs:", "1"],
        ["Seccomp:", "2"],
    ]


@native_only
async def test_a_function_does_not_learn_whose_cgroup_it_is_in(world: World) -> None:
    """It is at the top of what it sees: neither the worker's path nor its owner's id."""
    ending = await world.shell("cut -d : -f 3 /proc/self/cgroup | sort -u")
    assert ending.stdout == b"/\n"


async def test_there_is_no_network_but_loopback(world: World) -> None:
    """Only `lo`, up, answering for localhost and the container's own name; nothing is routed anywhere."""
    assert await lines(world, "ls /sys/class/net; cat /sys/class/net/lo/flags; ip route") == ["lo", "0x9"]
    assert await lines(world, "ping -c1 -W1 localhost 2>&1 | head -1; nslookup x 2>&1 | tail -1; hostname") != []
    hello = "nc -l -p 8080 -e echo hello & until nc localhost 8080; do sleep 0.05; done"
    script = f"{hello}; wget -T1 -qO- http://192.0.2.1/ || echo none"
    assert await lines(world, script) == ["hello", "none"]


async def test_the_host_name_is_the_containers_id(world: World) -> None:
    """Hostname and /etc/hosts speak of the container, not of the host."""
    spec = world.spec()
    ending = await world.shell("hostname; grep -c $(hostname) /etc/hosts", spec=spec)
    assert ending.stdout.decode().split() == [spec.id, "1"]


async def test_only_the_three_standard_files_are_open(world: World) -> None:
    """No descriptor of ours reaches a function: the fourth is that of the listing itself."""
    assert (await world.run("ls", "/proc/self/fd")).stdout.split() == [b"0", b"1", b"2", b"3"]


@local_only
async def test_no_directory_that_the_worker_inherited_is_a_way_out(world: World) -> None:
    """Nor one that whoever started it left open: an image may name it as the directory that its command begins in."""
    machine, number = os.open("/", os.O_RDONLY | os.O_DIRECTORY), 200
    os.dup2(machine, number, inheritable=True)
    try:
        ending = await world.shell("stat -c %d:%i .", spec=world.spec(ProcessConfig(cwd=f"/proc/self/fd/{number}")))
        where = ending.stdout.decode().strip()
    except RuntimeFailed:
        where = "refused"
    finally:
        status = os.fstat(machine)
        os.close(number)
        os.close(machine)
    assert where
    assert where != f"{status.st_dev}:{status.st_ino}"


@native_only
async def test_no_descriptor_of_the_launchers_is_a_way_out(world: World) -> None:
    """Nor one of our own, open while the image's directory is looked for: that is in the container or nowhere."""
    outcomes = []
    for number in range(3, 40):
        spec = world.spec(ProcessConfig(cwd=f"/proc/self/fd/{number}"))
        try:
            [here, top] = (await world.shell("stat -c %d:%i . /", spec=spec)).stdout.split()
            outcomes.append(here == top)
        except RuntimeFailed:
            outcomes.append(True)
    assert outcomes == [True] * len(outcomes)


async def test_no_path_of_the_host_shows(world: World, state_dir: Path) -> None:
    """Neither mounts nor environment nor command lines tell where the worker keeps its files."""
    text = "\n".join(await lines(world, "cat /proc/mounts /proc/self/mountinfo /proc/self/environ /proc/1/cmdline"))
    assert str(world.rootfs) not in text
    assert str(state_dir) not in text


async def test_limits_are_those_of_the_spec(world: World) -> None:
    """Memory with swap, processes and cpu are limited in the container's cgroup; open files and cores by rlimit."""
    async with world.held(world.spec(memory_mib=64, cpus=0.5, pids=20)) as container:
        directories = world.cgroups(container)
        found = {
            path.name: path.read_text().strip()
            for directory in directories
            for path in directory.iterdir()
            if path.name in LIMIT_FILES
        }
        call = Call(argv=("sh", "-c", "ulimit -n; ulimit -Hc"))
        ending = await container.run(call, timeout_s=20 * SCALE)
    pids = str(20 + world.extra_pids)
    assert found.pop("pids.max") == pids
    assert found.pop("memory.swap.max", "0") == "0"
    assert found in (
        {"memory.max": str(64 * MIB), "cpu.max": "50000 100000"},
        {"memory.limit_in_bytes": str(64 * MIB), "cpu.cfs_quota_us": "50000"},
        {
            "memory.limit_in_bytes": str(64 * MIB),
            "memory.memsw.limit_in_bytes": str(64 * MIB),
            "cpu.cfs_quota_us": "50000",
        },
    )
    assert ending.stdout.split() == [b"1024", b"0"]


LIMIT_FILES = {
    "memory.max", "memory.swap.max", "pids.max", "cpu.max",
    "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "cpu.cfs_quota_us",
}  # fmt: skip


async def test_cpu_limit_holds(world: World) -> None:
    """At 0.2 cpus, a loop of half a second has a tenth of a second of cpu, give or take a period."""
    ending = await world.shell("while :; do :; done", timeout_s=1.0, spec=world.spec(cpus=0.2))
    assert ending.reason is EndReason.TIMED_OUT
    assert ending.cpu_us < 0.2 * ending.run_s * 1e6 + 150_000


async def test_process_limit_holds(world: World) -> None:
    """A fork bomb stops at the limit, counted from outside, and goes down with its container."""
    async with world.held(world.spec(pids=16)) as container:
        call = asyncio.create_task(container.run(Call(argv=("fork_bomb",)), timeout_s=60 * SCALE))
        await spoken(container)
        inside = world.living(container)
        container.kill()
        ending = await call
        assert ending.reason is EndReason.CANCELLED
        assert ending.stdout.startswith(b"full\n")
    assert 14 <= len(inside) - 1 <= 16  # one is the init, or the launcher


# --- writable room ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["/tmp/", "/dev/shm/"])
async def test_a_full_disk_is_no_space_and_not_a_kill(world: World, place: str) -> None:
    """Writing without end meets ENOSPC below the memory limit, and the function lives to tell."""
    ending = await world.shell(f"dd if=/dev/zero of={place}x bs=1M; echo alive", spec=world.spec(memory_mib=96))
    assert (ending.reason, ending.stdout) == (EndReason.EXITED, b"alive\n")
    assert b"No space left on device" in ending.stderr


@not_with("docker", "scratch size")
async def test_a_full_root_is_no_space_and_not_a_kill(world: World) -> None:
    """The same in the root, wherever that is."""
    await test_a_full_disk_is_no_space_and_not_a_kill(world, "/")


@not_with("docker", "scratch size")
@pytest.mark.parametrize("memory_mib", [32, 128])
async def test_filling_everything_at_once_is_no_kill(world: World, memory_mib: int) -> None:
    """Root, shared memory and /dev full of bytes, and root full of inodes as well: still within the limit."""
    script = """
        for place in / /dev/shm/ /dev/; do dd if=/dev/zero of=${place}fill bs=64k 2>/dev/null; done
        i=0; while true > /tmp/$i; do i=$((i+1)); done 2>/dev/null
        echo alive
    """
    ending = await world.shell(script, spec=world.spec(memory_mib=memory_mib), timeout_s=60)
    assert (ending.reason, ending.stdout) == (EndReason.EXITED, b"alive\n"), ending


async def test_files_without_end_meet_a_limit(world: World) -> None:
    """Empty files cost kernel memory: at SCRATCH_INODES there is no space, and no kill."""
    ending = await world.shell("i=0; while true > /tmp/$i; do i=$((i+1)); done; echo alive", timeout_s=60)
    assert (ending.reason, ending.stdout) == (EndReason.EXITED, b"alive\n")
    assert b"No space left on device" in ending.stderr
    assert ending.memory_peak_bytes < 100 * MIB


async def test_shared_memory_works(world: World) -> None:
    """/dev/shm is there and writable by any user."""
    spec = world.spec(ProcessConfig(uid=1234, gid=1234))
    assert (await world.shell("echo x > /dev/shm/y && cat /dev/shm/y", spec=spec)).stdout == b"x\n"


# --- what hostile images and functions try ------------------------------------------------------------------------


async def test_device_nodes_of_an_image_are_dead(world: World, driver: str) -> None:
    """A node that the image brought (here /dev/zero's) cannot be opened."""
    need((world.rootfs / "etc" / "zero").is_char_device(), "device nodes on the file system")
    ending = await world.shell("test -c /etc/zero && head -c1 /etc/zero")
    assert (ending.exit_code, ending.stdout) == (1, b"")
    if driver != "docker":  # whose root has none at all
        assert b"Permission denied" in ending.stderr


async def test_setuid_files_of_an_image_are_ordinary(world: World) -> None:
    """A setuid-root file runs as who started it, and it is one."""
    spec = world.spec(ProcessConfig(uid=1234, gid=1234))
    ending = await world.shell("show_user; setuid-show_user; stat -c %a /bin/setuid-show_user", spec=spec)
    [ordinary, with_it, mode] = ending.stdout.decode().splitlines()
    assert mode == "4755"
    assert with_it == ordinary
    assert "0" not in with_it.split()


@not_with("docker", "device nodes")
async def test_the_root_knows_no_devices_and_no_set_user_id(world: World) -> None:
    """Whatever an image has, its file system is mounted nodev and nosuid."""
    options = (await lines(world, "grep ' / overlay ' /proc/mounts"))[0].split()[3].split(",")
    assert {"nodev", "nosuid"} <= set(options)


@not_with("docker", "pending signals")
async def test_pending_signals_are_the_functions_own(world: World) -> None:
    """A function has so many queued signals and timers of its own, and can raise that by none."""
    assert await lines(world, "ulimit -i; ulimit -Hi; ulimit -i 1025 2>/dev/null || echo no") == [
        str(SIGNALS_PENDING),
        str(SIGNALS_PENDING),
        "no",
    ]


async def test_no_device_can_be_made(world: World) -> None:
    """Not even by root."""
    assert (await world.run("mknod", "/tmp/zero", "c", "1", "5")).exit_code != 0


async def test_the_hosts_devices_stay_the_hosts(world: World) -> None:
    """Whatever a function does to its /dev/null, the host's node is as it was."""
    before = Path("/dev/null").stat()
    ending = await world.shell("echo x > /dev/null && chmod 0 /dev/null; chown 1:1 /dev/null; echo done")
    after = Path("/dev/null").stat()
    assert ending.stdout == b"done\n"
    assert (before.st_uid, before.st_gid, before.st_mode) == (after.st_uid, after.st_gid, after.st_mode)
    assert after.st_uid == 0


async def test_a_function_does_not_own_the_devices(world: World) -> None:
    """A function uses /dev/null but can neither change nor give it away."""
    ending = await world.shell("echo x > /dev/null && chmod 0 /dev/null; chown 1:1 /dev/null; stat -c %u /dev/null")
    assert ending.stdout == b"65534\n"
    assert ending.stderr.count(b"Operation not permitted") == 2


async def test_the_standard_files_are_pipes_never_the_hosts_devices(world: World) -> None:
    """Runtimes give the container's owner what they are started with: that must be pipes, for all three."""
    kinds = await lines(world, "for n in 0 1 2; do readlink /proc/self/fd/$n | cut -d: -f1; done")
    assert kinds == ["pipe", "pipe", "pipe"]


async def test_the_kernels_settings_are_read_only(world: World) -> None:
    """Neither /proc/sys nor /sys nor the triggers can be written; what tells of the host is masked."""
    script = """
        for f in /proc/sys/kernel/hostname /proc/sys/vm/drop_caches /proc/sysrq-trigger /sys/kernel/mm/ksm/run; do
            (echo 1 > $f) 2>/dev/null && echo "wrote $f"
        done
        for f in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts; do cat $f 2>/dev/null | head -c1; done
        ls /proc/acpi /sys/firmware 2>/dev/null | grep -v :
        touch /sys/x 2>/dev/null && echo "wrote /sys"
        echo done
    """
    assert [line for line in await lines(world, script) if line] == ["done"]


async def test_the_init_cannot_be_replaced(world: World) -> None:
    """The file it was started from is read-only, and cannot be unmounted."""
    init = world.init_path
    ending = await world.shell(f"echo x > {init}; umount {init}; rm -f {init}; ls {init}")
    assert ending.stdout.decode() == f"{init}\n"
    assert isinstance(world.runtime, LocalRuntime)
    assert (world.runtime.programs.init).stat().st_size > 1000


ALLOWED_CALLS = {"getpid", "socket-inet", "socket-unix", "socket-netlink"}


async def test_dangerous_system_calls_fail(world: World, driver: str) -> None:
    """Of thirty calls that lead out of a container none works; those that programs need do."""
    allowed = ALLOWED_CALLS - ({"socket-inet", "socket-netlink"} if driver == "confined" else set())
    results = dict(line.split() for line in await lines(world, "try_calls"))
    assert len(results) == 34
    assert {name for name, outcome in results.items() if outcome == "ok"} == allowed
    assert results["clone3"] == "38"  # ENOSYS, so that C libraries fall back to clone


async def test_the_other_abi_is_closed(world: World) -> None:
    """A 32-bit system call kills: the filter speaks 64-bit only."""
    need(IS_AMD64, "amd64")
    ending = await world.run("other_abi")
    assert (ending.stdout, ending.exit_code) == (b"", 128 + 31)


async def test_calls_do_not_see_each_other(world: World) -> None:
    """Two running containers share no process, no shared memory, no abstract socket, no port."""
    async with world.held() as one, world.held() as two:
        serve = "nc -l -p 7000 -e echo hello & echo mine > /dev/shm/x; echo ready; sleep 30"
        look = "ls /dev/shm; nc -w1 127.0.0.1 7000; ls -d /proc/[0-9]* | wc -l; ipcs -m | grep -c 0x; true"
        async with running(one, serve):
            ending = await two.run(Call(argv=("sh", "-c", look)), timeout_s=20 * SCALE)
    assert ending.stdout.splitlines()[-1] == b"0"
    assert ending.stdout.splitlines()[:-1] in ([b"3"], [b"4"])  # init, shell, and what counts


@asynccontextmanager
async def running(container: OurContainer, script: str) -> AsyncIterator[None]:
    """A call that runs while something else is done."""
    call = asyncio.create_task(container.run(Call(argv=("sh", "-c", script)), timeout_s=60))
    await spoken(container)
    try:
        yield
    finally:
        container.kill()
        await call


async def test_the_image_is_not_changed_by_calls(world: World) -> None:
    """After all, the root's top has the entries it was made with; and /dev, where the driver mounts nothing there."""
    await world.shell("touch /x /bin/y; rm -rf /etc")
    assert sorted(path.name for path in Path(world.rootfs).iterdir() if path.name != "dev") == [
        "bin",
        "etc",
        "home",
        "opt",
        "root",
        "sbin",
        "tmp",
    ]
