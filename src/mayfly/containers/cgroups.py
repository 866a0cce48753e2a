"""
The worker's own cgroups: one for each container, made, limited, read and removed here.

    mayfly-3f2a...          all containers: leaves something to the system, and weighs less than it. (Of several
                            workers, which are capped together: each has such a group in mayfly-5c1b...-all)
      user-x9k2...          those of one user: each user with something to compute has the same share of the processor
        b7q4...             one container, with its own limits

The container runtime is kept out of it: that is faster, and the counters (out of memory, peak, cpu) outlive it. Version
2 and version 1 differ in file names, and in that version 1 has users' groups only where processor time is shared out; a
hybrid host counts as version 1, since that is where its controllers are. The group for all containers is named for the
worker's state directory, so that a restarted worker finds what a dead one left, and two workers on one machine do not
find each other's.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mayfly.containers.mounts import Mount, mounts
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.limits import Limits
from mayfly.domain.sandbox import SWAP_BYTES

CONTROLLERS_V1 = ("memory", "pids", "cpu", "cpuacct")
CONTROLLERS_V2 = ("memory", "pids", "cpu")
LEAF = "worker"
"""Where a worker's own processes are on version 2: a group that has groups below it may not hold processes."""

USER = "user-"
"""What the name of a user's group begins with. A container's id has no hyphen."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PAGE_BYTES = 4096

PERIOD_US = 100_000
CORES_KEPT = 0.25
"""What functions together leave for API server, NATS and worker."""
WEIGHT_V2, SHARES_V1 = 25, 256  # a quarter of what everybody else has by default


Settings = tuple[tuple[str, str], ...]
"""Files of a cgroup and what is to be written to them, in this order."""

SWAP_FILES = ("memory.swap.max", "memory.memsw.limit_in_bytes")


class Cgroup(Protocol):
    """The cgroup of one container."""

    @property
    def directories(self) -> tuple[Path, ...]:
        """What a process enters to be inside: one directory a hierarchy."""
        ...

    def settings(self, limits: Limits, *, pids: int, cores: float, swap: bool) -> Settings:
        """How it is limited; *swap* says whether the kernel accounts for that, and so there is a limit for it."""
        ...

    def cpu_us(self) -> int:
        """CPU time used so far, user and system."""
        ...

    def memory_peak_bytes(self) -> int:
        """The most memory ever used."""
        ...

    def oom_kills(self) -> int:
        """Processes that the kernel killed for lack of memory: the one proof of having run out of it."""
        ...

    def has_met_its_limit(self) -> bool:
        """Whether its own memory limit was ever in the way, and not only that of a group above it."""
        ...


NEAR_BYTES = 1024 * 1024
"""So far below its limit a group counts as having met it, where no more than its peak is known."""


@dataclass(frozen=True, slots=True)
class CgroupV2:
    """One directory in the unified hierarchy."""

    directory: Path

    @property
    def directories(self) -> tuple[Path, ...]:
        return (self.directory,)

    def settings(self, limits: Limits, *, pids: int, cores: float, swap: bool) -> Settings:
        return (
            (f"{self.directory}/memory.max", str(limits.memory_bytes)),
            *([(f"{self.directory}/memory.swap.max", str(SWAP_BYTES))] if swap else []),
            (f"{self.directory}/pids.max", str(pids)),
            (f"{self.directory}/cpu.max", f"{int(min(limits.cpus, cores) * PERIOD_US)} {PERIOD_US}"),
        )

    def cpu_us(self) -> int:
        return read_key(f"{self.directory}/cpu.stat", "usage_usec")

    def memory_peak_bytes(self) -> int:
        try:
            return read_int(f"{self.directory}/memory.peak")
        except FileNotFoundError:  # kernels before 5.19
            return read_int(f"{self.directory}/memory.current")

    def oom_kills(self) -> int:
        return read_key(f"{self.directory}/memory.events", "oom_kill")

    def has_met_its_limit(self) -> bool:
        return read_key(f"{self.directory}/memory.events", "oom") > 0


@dataclass(frozen=True, slots=True)
class CgroupV1:
    """One directory for each controller; controllers mounted together share one."""

    memory: Path
    pids: Path
    cpu: Path
    cpuacct: Path

    @property
    def directories(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys((self.memory, self.pids, self.cpu, self.cpuacct)))

    def settings(self, limits: Limits, *, pids: int, cores: float, swap: bool) -> Settings:
        memsw = f"{self.memory}/memory.memsw.limit_in_bytes"
        return (
            (f"{self.memory}/memory.limit_in_bytes", str(limits.memory_bytes)),
            *([(memsw, str(limits.memory_bytes + SWAP_BYTES))] if swap else []),
            (f"{self.pids}/pids.max", str(pids)),
            (f"{self.cpu}/cpu.cfs_period_us", str(PERIOD_US)),
            (f"{self.cpu}/cpu.cfs_quota_us", str(int(min(limits.cpus, cores) * PERIOD_US))),
        )

    def cpu_us(self) -> int:
        return read_int(f"{self.cpuacct}/cpuacct.usage") // 1000

    def memory_peak_bytes(self) -> int:
        return read_int(f"{self.memory}/memory.max_usage_in_bytes")

    def oom_kills(self) -> int:
        return read_key(f"{self.memory}/memory.oom_control", "oom_kill")

    def has_met_its_limit(self) -> bool:
        # `failcnt` stays 0 at the limit with some kernels (6.18). What is asked for last is charged page by page,
        # but for the kernel's own pages, a few at once.
        return self.memory_peak_bytes() + NEAR_BYTES >= read_int(f"{self.memory}/memory.limit_in_bytes")


class Cgroups:
    """All cgroups of one worker."""

    def __init__(self, parents: dict[str, Path], *, version: int, cores: float, is_within: bool = False) -> None:
        """
        *parents* is the group for all containers in each hierarchy, by controller; *cores* caps them together, or
        those of the workers whose groups are in the same one, if it *is_within* one.
        """
        self.version = version
        self._is_within = is_within
        self.cores = cores
        self._parents = parents
        self._has_swap = any((parents["memory"] / name).exists() for name in SWAP_FILES)
        self._containers: defaultdict[str, set[str]] = defaultdict(set)
        """Those of each owner: the first makes his group, the last takes it along."""

    @property
    def parent(self) -> Path:
        """The group for all containers, where processor time is shared out."""
        return self._parents["cpu"]

    @property
    def home(self) -> str:
        """Names the groups that all containers are below: those of this boot, and not others of the same path."""
        places = (parent.stat() for parent in dict.fromkeys(self._parents.values()))
        numbers = ",".join(f"{place.st_dev}:{place.st_ino}" for place in places)
        return f"{BOOT_ID.read_text(encoding='ascii').strip()} {numbers}"

    def of(self, owner: str, container_id: str) -> CgroupV1 | CgroupV2:
        """The cgroup of *owner*'s container, which may or may not be there."""
        paths = {controller: self._above(parent, owner) / container_id for controller, parent in self._parents.items()}
        return CgroupV1(**paths) if self.version == 1 else CgroupV2(paths["memory"])

    def create(self, owner: str, container_id: str, limits: Limits, *, extra_pids: int) -> Cgroup:
        """
        Make a container's cgroup with its limits; *extra_pids* is what the runtime itself needs inside. Whatever
        becomes of it, `forget` it in the end.

        Raises: OSError.
        """
        cgroup, settings = self.plan(owner, container_id, limits, extra_pids=extra_pids)
        for directory in cgroup.directories:
            directory.mkdir()
        for path, value in settings:
            write(path, value)
        return cgroup

    def plan(self, owner: str, container_id: str, limits: Limits, *, extra_pids: int) -> tuple[Cgroup, Settings]:
        """
        Prepare what `create` does, for somebody else to make the directories and settings, in this order. Whatever
        becomes of it, `forget` it in the end.

        Raises: OSError.
        """
        if not self._containers[owner]:
            self._make_users_group(owner)
        self._containers[owner].add(container_id)
        cgroup = self.of(owner, container_id)
        pids = limits.pids + extra_pids
        return cgroup, cgroup.settings(limits, pids=pids, cores=self.cores, swap=self._has_swap)

    def forget(self, owner: str, container_id: str) -> None:
        """
        Remove the owner's group, if the container, whose own is gone, was the last in it. Idempotent.

        Raises: RuntimeFailed.
        """
        self._containers[owner].discard(container_id)
        if self._containers[owner]:
            return
        del self._containers[owner]
        left = remove((self._users_group(owner),))
        if left:
            raise RuntimeFailed(f"The cgroup of a user without containers cannot be removed: {left[0]}.")

    def found(self) -> dict[str, tuple[Path, ...]]:
        """The containers that have a cgroup in any hierarchy, and where, whoever made it."""
        containers: dict[str, tuple[Path, ...]] = {}
        for parent in dict.fromkeys(self._parents.values()):
            for child in _directories(parent):
                for directory in _directories(child) if child.name.startswith(USER) else [child]:
                    containers[directory.name] = (*containers.get(directory.name, ()), directory)
        return containers

    def sweep(self) -> list[Path]:
        """Remove users' groups that have no containers; return those that are still there, as they have."""
        children = _directories(self._parents["cpu"])
        return remove(tuple(child for child in children if child.name.startswith(USER)))

    def _make_users_group(self, owner: str) -> None:
        directory = self._users_group(owner)
        directory.mkdir(exist_ok=True)
        if self.version == 2:
            enable_v2(directory)

    def _users_group(self, owner: str) -> Path:
        return self._parents["cpu"] / f"{USER}{owner}"

    def _above(self, parent: Path, owner: str) -> Path:
        """Below which group a container's own goes: memory and processes, where version 1 has them, know no shares."""
        return self._users_group(owner) if parent == self._parents["cpu"] else parent

    def close(self) -> None:
        """
        Remove the group for all containers.

        Raises: OSError while it has any.
        """
        self.sweep()
        for parent in dict.fromkeys(self._parents.values()):
            with contextlib.suppress(FileNotFoundError):
                parent.rmdir()
            if self._is_within:
                with contextlib.suppress(OSError):  # others are in it
                    parent.parent.rmdir()


def pids_in(directories: tuple[Path, ...]) -> set[int]:
    """The living processes inside, by the ids they have for us; 0 stands for those outside our pid namespace."""
    found: set[int] = set()
    for directory in directories:
        with (
            contextlib.suppress(OSError),  # it is not there, or is just being removed
            open(f"{directory}/cgroup.procs", "rb", buffering=0) as file,  # noqa: PTH123 - a third of the time
        ):
            found.update(map(int, file.readall().split()))
    return found


def enter(directories: tuple[Path, ...], pid: int) -> None:
    """
    Move a process inside.

    Raises: OSError.
    """
    for directory in directories:
        write(directory / "cgroup.procs", pid)


def kill_all(directories: tuple[Path, ...]) -> None:
    """Kill whatever is inside, once: the caller repeats until `pids_in` is empty, as a process may have just forked."""
    for directory in directories:
        with contextlib.suppress(OSError):  # before Linux 5.14, or version 1: below
            write(directory / "cgroup.kill", 1)
    for pid in pids_in(directories) - {0}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def remove(directories: tuple[Path, ...]) -> list[Path]:
    """Remove the directories, once; return those that are still there because something in them has not ended yet."""
    left = []
    for directory in directories:
        try:
            directory.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            left.append(directory)
    return left


def open_cgroups(name: str, *, within: str | None = None, cores: float | None = None) -> Cgroups:
    """
    Make (or take over) the group *name* for all containers, capped so that functions leave something to the system; or
    have it *within* a group of several workers, which are capped together.

    Raises: RuntimeFailed when a controller is missing or may not be written, with the remedy.
    """
    cap = max((cores or len(os.sched_getaffinity(0))) - CORES_KEPT, 0.5)
    try:
        unified = unified_mount(mounts())
        if unified is not None:
            return _open_v2(base_v2(unified), name, within, cap)
        return _open_v1(name, within, cap)
    except OSError as error:
        raise RuntimeFailed(
            f"The cgroup for functions cannot be made ({error}). The worker needs root, and in Docker CAP_SYS_ADMIN; "
            "a systemd unit needs Delegate=yes."
        ) from error


def unified_mount(mounted: list[Mount]) -> Path | None:
    """Where the unified hierarchy is, if that is where the controllers are; None means version 1."""
    for each in mounted:
        if each.kind == "cgroup2" and "memory" in _words(each.point / "cgroup.controllers"):
            return each.point
    return None


def hierarchies_v1(mounted: list[Mount]) -> dict[str, Path]:
    """
    Where the controllers that we need are mounted.

    Raises: RuntimeFailed, naming those that are not.
    """
    found = {
        controller: each.point
        for each in mounted
        if each.kind == "cgroup"
        for controller in CONTROLLERS_V1
        if controller in each.super_options
    }
    missing = [controller for controller in CONTROLLERS_V1 if controller not in found]
    if missing:
        raise RuntimeFailed(f"This machine has no cgroup controller {', '.join(missing)}: mount it, or use cgroup v2.")
    return found


def base_v2(unified: Path) -> Path:
    """
    Below which group the group for all containers goes.

    Beside our own processes' leaf when this part of the tree is ours (in a container, in a systemd unit with
    Delegate=yes; `host.settle_v2` has moved us into the leaf). Else at the top, as Docker's cgroupfs driver does: a
    login session's group belongs to systemd, and has the user's shell in it.
    """
    own = own_v2(unified)
    return own.parent if own.name == LEAF else unified


def own_v2(unified: Path) -> Path:
    """Our own group in the unified hierarchy."""
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        if line.startswith("0::"):
            path = unified / line[3:].lstrip("/")
            return path if path.is_dir() else unified
    return unified


def _open_v2(base: Path, name: str, within: str | None, cap: float) -> Cgroups:
    enable_v2(base)
    top = base / (within or name)
    parent = top / name if within else top
    for directory in dict.fromkeys((top, parent)):
        directory.mkdir(exist_ok=True)
        enable_v2(directory)
    write(top / "cpu.max", f"{int(cap * PERIOD_US)} {PERIOD_US}")
    write(top / "cpu.weight", WEIGHT_V2)
    return Cgroups(dict.fromkeys(CONTROLLERS_V2, parent), version=2, cores=cap, is_within=within is not None)


def enable_v2(directory: Path) -> None:
    """
    Give the controllers we need to the groups below.

    Raises: OSError.
    """
    if not set(CONTROLLERS_V2) <= set(_words(directory / "cgroup.subtree_control")):
        write(directory / "cgroup.subtree_control", " ".join(f"+{controller}" for controller in CONTROLLERS_V2))


def _open_v1(name: str, within: str | None, cap: float) -> Cgroups:
    points = hierarchies_v1(mounts())
    tops = {controller: (point / (within or name)).resolve() for controller, point in points.items()}
    for top in tops.values():
        top.mkdir(exist_ok=True)
    with contextlib.suppress(OSError):  # newer kernels always count hierarchically and have no such switch
        write(tops["memory"] / "memory.use_hierarchy", 1)
    write(tops["cpu"] / "cpu.cfs_period_us", PERIOD_US)
    write(tops["cpu"] / "cpu.cfs_quota_us", int(cap * PERIOD_US))
    write(tops["cpu"] / "cpu.shares", SHARES_V1)
    parents = {controller: top / name for controller, top in tops.items()} if within else tops
    for parent in parents.values():
        parent.mkdir(exist_ok=True)
    return Cgroups(parents, version=1, cores=cap, is_within=within is not None)


def write(path: Path | str, value: int | str) -> None:
    """
    Write one value, in one system call, to a file that must exist.

    Raises: OSError.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)


def read(path: Path | str) -> bytes:
    """
    Read a file of the kernel's, in one system call: none of these is longer than a page.

    Raises: OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, PAGE_BYTES)
    finally:
        os.close(descriptor)


def read_int(path: Path | str) -> int:
    """Read a file that holds one number."""
    return int(read(path))


def read_key(path: Path | str, key: str) -> int:
    """Read one number out of a file of lines `key number`; 0 if there is no such line."""
    for line in read(path).decode("ascii").splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0


def _directories(parent: Path) -> list[Path]:
    """The groups below one, if it is there."""
    return [child for child in parent.iterdir() if child.is_dir()] if parent.is_dir() else []


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except FileNotFoundError:
        return []
