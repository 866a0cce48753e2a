"""
Parameters and results of 1 MiB, the largest there are: how long one takes, and what many at once take in memory.

    sudo scripts/bench large [--calls N] [--json FILE]

One slot for each of those at once, so that all of them are in the worker together; and some times over, as what is kept
of the ones before counts as well. The peak of a process is what the kernel has counted from when it was told to forget
the one before.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench import roles
from bench.also import show
from bench.callers import TOGETHER_S, User, cat_pushed, register
from tests.support.up import ROOM, Up, running_up

CALLS, AT_ONCE, ROUNDS = 100, 32, 10
PARAMETER = b"0123456789abcdef" * (1 << 16)
GOAL_MS, GOAL_BYTES = 40, 300 << 20


def measure(calls: int = CALLS) -> dict[str, Any]:
    """Run an installation and those calls; return times in milliseconds, and memory in bytes by role."""
    with cat_pushed() as (registry, image), running_up(registry, slots=AT_ONCE, log_level="warning", **ROOM) as up:
        user = asyncio.run(register(up, image))
        call_one_by_one(user, 10, b"")
        rest = {role: roles.memory(pids) for role, pids in roles.processes(up).items()}
        small, times = [], []
        for _ in range(calls):  # in turns, so that what else the machine does falls on both
            small += call_one_by_one(user, 1, b"x")
            times += call_one_by_one(user, 1, PARAMETER)
        alone = peaks(up, lambda: call_one_by_one(user, 10, PARAMETER))
        together = peaks(up, lambda: call_at_once(user))
    ordered = sorted(times)
    return {
        "p50_ms": statistics.median(times),
        "p95_ms": ordered[int(len(ordered) * 0.95)],
        "small_p50_ms": statistics.median(small),
        "at_once": AT_ONCE,
        "rest": {role: memory.rss for role, memory in rest.items()},
        "alone": alone,
        "together": together,
    }


def call_one_by_one(user: User, calls: int, parameter: bytes) -> list[float]:
    """Milliseconds of each call."""
    times = []
    with user.connection() as connection:
        for _ in range(calls + 1):  # the first one connects
            began = time.perf_counter()
            connection.call(parameter)
            times.append((time.perf_counter() - began) * 1e3)
    return times[1:]


def call_at_once(user: User) -> None:
    """Let all those callers call together, some times."""
    start = threading.Barrier(AT_ONCE, timeout=TOGETHER_S)

    def work(_: int) -> None:
        with user.connection() as connection:
            for _ in range(ROUNDS):
                start.wait()
                connection.call(PARAMETER)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(work, range(AT_ONCE)))


def peaks(up: Up, doing: Callable[[], object]) -> dict[str, int]:
    """The largest resident set of each role's processes during something."""
    found = roles.processes(up)
    for pids in found.values():
        roles.forget_peaks(pids)
    doing()
    return {role: roles.memory(pids).peak for role, pids in found.items()}


def markdown(found: dict[str, Any]) -> str:
    """The table that people read."""
    rows = [
        f"1 MiB in, 1 MiB out: p50 {found['p50_ms']:.1f} ms (goal {GOAL_MS}), p95 {found['p95_ms']:.1f} ms; "
        f"in turns with 1 byte: {found['small_p50_ms']:.1f} ms.",
        "",
        f"| peak of RSS | at rest | one at a time | {found['at_once']} at once | each of them adds | goal |",
        "|---|---|---|---|---|---|",
    ]
    for role, most in found["together"].items():
        rest, alone = found["rest"][role], found["alone"][role]
        adds = (most - rest) / found["at_once"] / roles.MIB
        rows.append(
            f"| {role} | {rest / roles.MIB:.0f} MiB | {alone / roles.MIB:.0f} MiB | {most / roles.MIB:.0f} MiB "
            f"| {adds:.1f} MiB | {GOAL_BYTES / roles.MIB:.0f} MiB |"
        )
    return "\n".join(rows)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog="scripts/bench large")
    parser.add_argument("--calls", type=int, default=CALLS, metavar="N")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    found = measure(options.calls)
    show(found, markdown(found), write=options.json)


if __name__ == "__main__":
    main()
