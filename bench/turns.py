"""
Taking turns: what is compared is measured in rounds, a block of each in every round, in an order of its own each time.

What else the machine does then falls on all of them, and no one always comes after the one that leaves most behind.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random

from bench.figures import Block, Figures

Call = Callable[[], Awaitable[object]]
Work = Callable[[float], Awaitable[Block]]
"""Makes calls for so many seconds; those that have begun by then are brought to their end, and there is always one."""

STUCK_S = 120.0


async def in_turns(works: Mapping[str, Work], *, rounds: int, seconds: float, random: Random) -> dict[str, Figures]:
    """
    Measure all works in so many rounds, each for *seconds* a round.

    Raises: whatever a call raises; TimeoutError when one does not end.
    """
    for work in works.values():
        await work(0)  # opens connections, and leads whatever is lazy to its place
    blocks: dict[str, list[Block]] = {name: [] for name in works}
    for number in range(rounds):
        print(f"bench: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for name in random.sample(list(works), len(works)):
            async with asyncio.timeout(seconds + STUCK_S):
                blocks[name].append(await works[name](seconds))
    return {name: Figures.of(each) for name, each in blocks.items()}


async def together(calls: Sequence[Call], seconds: float, cpu: Mapping[str, Callable[[], float]]) -> Block:
    """
    Let callers call, all at once: each again as soon as it was answered. *cpu* says how many processor seconds have
    been used until now, by whose they are.
    """
    times: list[float] = []
    used = {name: read() for name, read in cpu.items()}
    began = time.perf_counter()

    async def caller(call: Call) -> None:
        at = time.perf_counter()
        while True:
            await call()
            ended = time.perf_counter()
            times.append((ended - at) * 1e3)
            at = ended
            if at >= began + seconds:
                return

    async with asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(caller(call), name="bench-caller")
    took = time.perf_counter() - began
    return Block(times, took, {name: read() - used[name] for name, read in cpu.items()})
