"""The processes of an installation by role: their memory, their descriptors, the processor time that they have used."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.leftovers import cmdline
from tests.support.processes import descendants
from tests.support.up import Up

MIB = 1 << 20
COMMANDS = {
    "nats-server": re.compile(rb"[^\0]*/nats-server\0"),
    "API server": re.compile(rb"[^\0]*python[^\0]*\0-m\0mayfly\0api\0"),
    "worker": re.compile(rb"[^\0]*python[^\0]*\0-m\0mayfly\0worker\0"),
}
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    """
    What a role has in memory, in bytes. A worker is three processes, of which two only wait, and share what they have
    with the third: *rss* and *peak* are the largest one's, *pss* is that of all, what is shared counted once.
    """

    rss: int
    peak: int
    pss: int


def processes(up: Up) -> dict[str, list[int]]:
    """The processes of each role."""
    below = descendants(up.process.pid if up.process else 0)
    return {role: [pid for pid in below if command.match(cmdline(pid))] for role, command in COMMANDS.items()}


def memory(pids: list[int]) -> Memory:
    """What the processes of one role have in memory."""
    return Memory(
        rss=max(_kib(pid, "smaps_rollup", "Rss") for pid in pids) << 10,
        peak=max(_kib(pid, "status", "VmHWM") for pid in pids) << 10,
        pss=sum(_kib(pid, "smaps_rollup", "Pss") for pid in pids) << 10,
    )


def forget_peaks(pids: list[int]) -> None:
    """Let the peaks begin anew, at what the processes have now."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def descriptors(pids: list[int]) -> int:
    """How many files, sockets and the like the processes of one role have open."""
    return sum(1 for pid in pids for _ in Path(f"/proc/{pid}/fd").iterdir())


def mounts(pids: list[int]) -> int:
    """How many mounts are in the mount namespaces of these processes, bound namespaces among them."""
    return len({line for pid in pids for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()})


def cpu_s(pids: list[int]) -> float:
    """Processor seconds that the processes have used, with those of their children that have ended."""
    fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids)
    return sum(sum(map(int, each[11:15])) for each in fields) / TICKS_PER_S


def _kib(pid: int, file: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/{pid}/{file} does not say {name}")
    return int(found[1])
