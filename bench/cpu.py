"""Processor time: of the processes of a role, of a cgroup, and of programs that have ended."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mayfly.containers import cgroups
from mayfly.containers.mounts import mounts


def of_processes(pids: Sequence[int]) -> float:
    """
    Seconds that the threads of these processes have used, to the nanosecond: /proc/PID/stat counts hundredths. Of their
    children, and of threads that have ended, nothing is in it.
    """
    total = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                total += int((thread / "schedstat").read_bytes().split()[0])
    return total / 1e9


def of_ended_children() -> float:
    """Seconds of those children that this process has waited for, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def of_this_process() -> float:
    """Seconds of all threads of this process."""
    return time.process_time()


@dataclass(frozen=True, slots=True)
class Group:
    """A cgroup, which counts what was used inside it and below it, also by processes that have ended."""

    directory: Path
    version: int

    @classmethod
    def of(cls, name: str) -> Group:
        """The group of this name at the top, where processor time is counted."""
        unified = cgroups.unified_mount(mounts())
        if unified is not None:
            return cls(cgroups.base_v2(unified) / name, 2)
        return cls(cgroups.hierarchies_v1(mounts())["cpuacct"] / name, 1)

    def used_s(self) -> float:
        """Seconds used in it."""
        if self.version == 1:
            return cgroups.read_int(self.directory / "cpuacct.usage") / 1e9
        return cgroups.read_key(self.directory / "cpu.stat", "usage_usec") / 1e6

    def take(self, pids: Iterable[int]) -> None:
        """Count these processes from now on, and what they start."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                cgroups.enter((self.directory / "processes",), pid)


@contextmanager
def new_group(name: str) -> Iterator[Group]:
    """
    Make one with a group `processes` below it, for those that it takes: beside that one others may be made, such as
    containers'. At the end it is removed, with all below it, also where somebody else has made it in another hierarchy.
    """
    group = Group.of(name)
    (group.directory / "processes").mkdir(parents=True)
    try:
        yield group
    finally:
        for each in {group.directory, *(m.point / name for m in mounts() if m.kind in {"cgroup", "cgroup2"})}:
            below = sorted(each.rglob("*/"), reverse=True) if each.is_dir() else []
            cgroups.remove((*below, each))
