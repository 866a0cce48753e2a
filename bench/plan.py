"""What is measured in one run of the bench, and how long it takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """So many rounds, in each of which every contender has so many seconds for every number of calls at once."""

    rounds: int
    seconds: float
    cold: int
    """Functions of which the first call is timed."""

    runtimes: tuple[str, ...] = ("auto",)
    """What starts Mayfly's containers (`MAYFLY_RUNTIME`). The first is quoted, the others are compared with it."""

    docker: bool = True
    seed: int = 1
    """Of the texts that go in and out, and of the order within a round."""


LONG = Plan(rounds=5, seconds=4, cold=40)
SHORT = Plan(rounds=3, seconds=0.5, cold=8)
AT_ONCE = (1, 2, 4, 8, 16, 32)
OTHERS_AT_ONCE = (1, 2, 4)
"""For what has no queue: more at once than that, and each run only waits longer for a processor."""
