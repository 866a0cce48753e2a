"""Who else computes on this machine: a busy one is no reason to believe less, if the model knows of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from bench.cpu import of_processes

COUNTED_EVERY_S = 0.05
PF_KTHREAD = 0x00200000
"""The flag of the kernel's own threads (include/linux/sched.h)."""

FLAGS = 6
"""Which word of /proc/PID/stat behind the name."""


@asynccontextmanager
async def counting_runnable() -> AsyncIterator[list[int]]:
    """Count again and again how many processes of this machine run or could run."""
    counts: list[int] = []

    async def count() -> None:
        while True:
            counts.append(_runnable())
            await asyncio.sleep(COUNTED_EVERY_S)

    counting = asyncio.create_task(count(), name="count-runnable")
    try:
        yield counts
    finally:
        counting.cancel()


def _runnable() -> int:
    """How many processes run or could run: all but this one, which does as it counts."""
    return int(Path("/proc/stat").read_text(encoding="ascii").partition("procs_running ")[2].split()[0]) - 1


def busy_s() -> float:
    """Seconds that this machine's cores have computed since it started, for whomever, in steps of hundredths."""
    return busy_ticks(Path("/proc/stat").read_text(encoding="ascii")) / os.sysconf("SC_CLK_TCK")


def busy_ticks(stat: str) -> int:
    """Read /proc/stat: neither when the cores did nothing, nor when another machine had them."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, stat.split()[1:8])
    return user + nice + system + irq + softirq


def of_the_kernel() -> float:
    """
    Seconds that the kernel's own threads have used. They work for everybody, but where nobody else does much, they take
    down what containers leave: mainly network namespaces.
    """
    used_s = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[FLAGS]) & PF_KTHREAD:
                used_s += of_processes([int(stat.parent.name)])
    return used_s


def others(runnable: float, *, ours_of_busy: float) -> float:
    """
    How many of those that run or could are not ours, if ours are *ours_of_busy* of what was computed: each has an equal
    share of the cores. (How much ours computed does not say by itself how many they were, as they come in clumps.)
    """
    return runnable * max(0.0, 1.0 - ours_of_busy)
