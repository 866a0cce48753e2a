"""Cgroups' files, on directories that stand in for the kernel's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mayfly.containers import cgroups
from mayfly.containers.cgroups import NEAR_BYTES, Cgroups, CgroupV1, CgroupV2, hierarchies_v1, unified_mount
from mayfly.containers.mounts import Mount, mounts
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.limits import Limits

LIMITS = Limits(memory_mib=64, cpus=1.5, pids=20)

HYBRID = """\
24 29 0:22 / /sys/fs/cgroup ro,nosuid shared:4 - tmpfs tmpfs ro,mode=755
30 24 0:26 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw
31 24 0:27 / /sys/fs/cgroup/memory rw shared:6 - cgroup cgroup rw,memory
32 24 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:7 - cgroup cgroup rw,cpu,cpuacct
33 24 0:29 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
34 24 0:30 /a\\040b /mnt/with\\040blank rw - ext4 /dev/vda1 rw
"""


def touched(directory: Path, *names: str) -> Path:
    """A directory with empty files."""
    directory.mkdir(exist_ok=True)
    for name in names:
        (directory / name).touch()
    return directory


def test_mountinfo_is_read_as_the_kernel_writes_it() -> None:
    """Points, kinds, options; blanks in paths."""
    listed = mounts(HYBRID)
    assert listed[-1] == Mount(Path("/mnt/with blank"), "ext4", frozenset({"rw"}), frozenset({"rw"}))
    assert listed[2].super_options == {"rw", "memory"}


def test_a_hybrid_host_counts_as_version_1(tmp_path: Path) -> None:
    """Its unified hierarchy has no controllers; those of version 1 may share a mount."""
    listed = mounts(HYBRID.replace("/sys/fs/cgroup/unified", str(touched(tmp_path / "unified", "cgroup.controllers"))))
    assert unified_mount(listed) is None
    both = Path("/sys/fs/cgroup/cpu,cpuacct")
    assert hierarchies_v1(listed) == {
        "memory": Path("/sys/fs/cgroup/memory"),
        "pids": Path("/sys/fs/cgroup/pids"),
        "cpu": both,
        "cpuacct": both,
    }


def test_version_2_is_where_the_controllers_are(tmp_path: Path) -> None:
    """A unified hierarchy with the memory controller is used."""
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    assert unified_mount([Mount(tmp_path, "cgroup2", frozenset(), frozenset())]) == tmp_path


def test_missing_controllers_are_named() -> None:
    """The sentence says which."""
    with pytest.raises(RuntimeFailed, match="pids, cpu, cpuacct"):
        hierarchies_v1([Mount(Path("/m"), "cgroup", frozenset(), frozenset({"memory"}))])


def test_limits_of_version_2(tmp_path: Path) -> None:
    """Memory without swap, processes, and cpu within what all may have together."""
    group = CgroupV2(touched(tmp_path / "g", "memory.max", "memory.swap.max", "pids.max", "cpu.max"))
    settings = group.settings(LIMITS, pids=22, cores=1.0, swap=True)
    assert {path.removeprefix(f"{group.directory}/"): value for path, value in settings} == {
        "memory.max": "67108864",
        "memory.swap.max": "0",
        "pids.max": "22",
        "cpu.max": "100000 100000",
    }


def test_limits_of_version_1(tmp_path: Path) -> None:
    """The same; a kernel that does not account swap has no file for it."""
    group = CgroupV1(
        memory=touched(tmp_path / "memory", "memory.limit_in_bytes"),
        pids=touched(tmp_path / "pids", "pids.max"),
        cpu=touched(tmp_path / "both", "cpu.cfs_period_us", "cpu.cfs_quota_us"),
        cpuacct=tmp_path / "both",
    )
    settings = dict(group.settings(LIMITS, pids=22, cores=1.75, swap=False))
    assert settings == {
        f"{group.memory}/memory.limit_in_bytes": "67108864",
        f"{group.pids}/pids.max": "22",
        f"{group.cpu}/cpu.cfs_period_us": "100000",
        f"{group.cpu}/cpu.cfs_quota_us": "150000",
    }
    more = dict(group.settings(LIMITS, pids=22, cores=1.75, swap=True))
    assert list(more)[:2] == [f"{group.memory}/memory.limit_in_bytes", f"{group.memory}/memory.memsw.limit_in_bytes"]
    assert group.directories == (group.memory, group.pids, group.cpu)


def groups(root: Path, *, version: int) -> Cgroups:
    """Those of a worker: one directory for all controllers, or one each with cpu and cpuacct in the same."""
    names = {"memory": "memory", "pids": "pids", "cpu": "both", "cpuacct": "both"}
    if version == 2:
        names = dict.fromkeys(("memory", "pids", "cpu"), "all")
    parents = {controller: touched(root / name) for controller, name in names.items()}
    return Cgroups(parents, version=version, cores=1.75)


def test_users_have_groups_where_processor_time_is_shared_out(tmp_path: Path) -> None:
    """In version 2 that is where everything is; in version 1 beside memory and processes, which need none."""
    assert groups(tmp_path, version=2).of("me", "c1").directories == (tmp_path / "all" / "user-me" / "c1",)
    assert groups(tmp_path, version=1).of("me", "c1").directories == (
        tmp_path / "memory" / "c1",
        tmp_path / "pids" / "c1",
        tmp_path / "both" / "user-me" / "c1",
    )


def test_a_users_group_of_version_2_passes_the_controllers_on(tmp_path: Path) -> None:
    """The kernel gives a container's group only those that the group above passes on."""
    all_groups = groups(tmp_path, version=2)
    control = touched(tmp_path / "all" / "user-me", "cgroup.subtree_control") / "cgroup.subtree_control"
    with pytest.raises(FileNotFoundError, match=r"memory\.max"):  # a container's group, that the kernel would fill
        all_groups.create("me", "c1", LIMITS, extra_pids=2)
    assert control.read_text() == "+memory +pids +cpu"


@pytest.mark.parametrize("version", [1, 2])
def test_what_a_dead_worker_left_is_found_wherever_it_is(tmp_path: Path, version: int) -> None:
    """Containers of users, those that an earlier version made without, and one that was only half made."""
    all_groups = groups(tmp_path, version=version)
    theirs = all_groups.of("me", "c1").directories
    for directory in theirs:
        directory.mkdir(parents=True)
    old = tmp_path / ("pids" if version == 1 else "all") / "old"
    old.mkdir()
    (old / "cgroup.procs").touch()
    found = all_groups.found()
    assert {name: set(directories) for name, directories in found.items()} == {"c1": set(theirs), "old": {old}}


def test_a_users_group_is_kept_while_it_has_containers(tmp_path: Path) -> None:
    """What is swept is empty groups of users, and nothing else."""
    all_groups = groups(tmp_path, version=1)
    busy, gone = tmp_path / "both" / "user-busy", tmp_path / "both" / "user-gone"
    gone.mkdir()
    (busy / "c1").mkdir(parents=True)
    assert all_groups.sweep() == [busy]
    assert list((tmp_path / "both").iterdir()) == [busy]


def test_counters_of_version_2(tmp_path: Path) -> None:
    """Cpu, peak (or what is used now, before Linux 5.19), and kills."""
    (tmp_path / "cpu.stat").write_text("usage_usec 1234\nuser_usec 1000\n")
    (tmp_path / "memory.events").write_text("low 0\noom 2\noom_kill 1\n")
    (tmp_path / "memory.current").write_text("77\n")
    group = CgroupV2(tmp_path)
    assert (group.cpu_us(), group.memory_peak_bytes(), group.oom_kills()) == (1234, 77, 1)
    assert group.has_met_its_limit()
    (tmp_path / "memory.events").write_text("low 0\noom 0\noom_kill 1\n")
    assert not group.has_met_its_limit()
    (tmp_path / "memory.peak").write_text("99\n")
    assert group.memory_peak_bytes() == 99


def test_counters_of_version_1(tmp_path: Path) -> None:
    """Cpu in nanoseconds, peak, and kills, not failures."""
    (tmp_path / "cpuacct.usage").write_text("1234567\n")
    (tmp_path / "memory.max_usage_in_bytes").write_text("99\n")
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    group = CgroupV1(memory=tmp_path, pids=tmp_path, cpu=tmp_path, cpuacct=tmp_path)
    assert (group.cpu_us(), group.memory_peak_bytes(), group.oom_kills()) == (1234, 99, 3)
    for limit, has_met_it in ((99 + NEAR_BYTES, True), (100 + NEAR_BYTES, False)):
        (tmp_path / "memory.limit_in_bytes").write_text(f"{limit}\n")
        assert group.has_met_its_limit() == has_met_it


def test_own_leaf_is_beside_the_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a group that is ours, functions go beside our leaf; else to the top of the tree."""
    unit = tmp_path / "system.slice" / "mayfly.service"
    monkeypatch.setattr(cgroups, "own_v2", lambda _: unit / "worker")
    assert cgroups.base_v2(tmp_path) == unit
    monkeypatch.setattr(cgroups, "own_v2", lambda _: tmp_path / "user.slice" / "session-1.scope")
    assert cgroups.base_v2(tmp_path) == tmp_path


def test_who_is_inside_is_read_tolerantly(tmp_path: Path) -> None:
    """A group that is gone has nobody inside."""
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n0\n")
    assert cgroups.pids_in((tmp_path, tmp_path / "gone")) == {os.getpid(), 0}
