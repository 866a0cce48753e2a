"""Who else computes on this machine: a busy one is no reason to believe less, if the model knows of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

COUNTED_EVERY_S = 0.05


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


def others(runnable: float, *, used_cores: float, cores: int) -> float:
    """
    How many of those that run or could are not ours. Where they are more than the cores, each has an equal share: so
    ours are as many of them as is our share of the cores.
    """
    return max(0.0, runnable - used_cores * max(1.0, runnable / cores))
