"""
Many calls of several users at once, more than there are slots: whether each has his share, and what is left behind.

    sudo scripts/bench soak [--calls N] [--json FILE]

Ten users call without a pause over as many connections each, until all together have had so many calls. Before and
after it is counted what the installation has: containers, mounts, cgroups, directories, descriptors, memory. The client
is one process on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

from bench import roles
from bench.also import show
from bench.callers import TOGETHER_S, User, cat_pushed, register
from tests.support.leftovers import leftovers, seconds_until_nothing_is_left
from tests.support.up import ROOM, Up, running_up

CALLS, USERS, CONNECTIONS = 10_000, 10, 4
WARM_UP = 0.2  # of the calls: what is cached, and what memory the allocators keep, is there afterwards
FAIR, FLAT = 1.3, 1.10
"""Goals: the most that a user may complete of what another does; what memory may be afterwards of what it was."""


def measure(calls: int = CALLS) -> dict[str, Any]:
    """Run an installation and all those calls; return what was counted."""
    with cat_pushed() as (registry, image), running_up(registry, log_level="warning", **ROOM) as up:
        users = [asyncio.run(register(up, image)) for _ in range(USERS)]
        call_at_once(users, int(calls * WARM_UP))
        asyncio.run(seconds_until_nothing_is_left(up))
        before = state(up)
        began = time.perf_counter()
        completed = call_at_once(users, calls)
        seconds = time.perf_counter() - began
        gone_after_s = asyncio.run(seconds_until_nothing_is_left(up))
        left = leftovers(up)
        after = state(up)
    growth = {role: after[role]["rss"] / before[role]["rss"] for role in after}
    return {
        "calls": sum(completed),
        "per_s": sum(completed) / seconds,
        "completed": completed,
        "fairness": max(completed) / min(completed),
        "gone_after_s": gone_after_s,
        "left": left,
        "before": before,
        "after": after,
        "growth": growth,
        "more_descriptors": {role: after[role]["descriptors"] - before[role]["descriptors"] for role in after},
        "more_mounts": after["worker"]["mounts"] - before["worker"]["mounts"],
    }


def call_at_once(users: list[User], calls: int) -> list[int]:
    """Let the users make so many calls in all, over all their connections; return how many each has completed."""
    completed = [0] * len(users)
    numbers, start = count(), threading.Barrier(len(users) * CONNECTIONS, timeout=TOGETHER_S)

    def work(number: int) -> int:
        with users[number].connection() as connection:
            start.wait()
            done = 0
            while next(numbers) < calls:
                connection.call()
                done += 1
            return done

    with ThreadPoolExecutor(len(users) * CONNECTIONS) as pool:
        everybody = [number for number in range(len(users)) for _ in range(CONNECTIONS)]
        for number, done in zip(everybody, pool.map(work, everybody), strict=True):
            completed[number] += done
    return completed


def state(up: Up) -> dict[str, dict[str, int]]:
    """What each role has now."""
    found = {}
    for role, pids in roles.processes(up).items():
        memory = roles.memory(pids)
        found[role] = {
            "rss": memory.rss,
            "pss": memory.pss,
            "descriptors": roles.descriptors(pids),
            "mounts": roles.mounts(pids),
        }
    return found


def markdown(found: dict[str, Any]) -> str:
    """The tables that people read."""
    rows = [
        f"{found['calls']:,} calls of {USERS} users over {CONNECTIONS} connections each, {found['per_s']:.0f}/s; "
        f"most / least completed: {found['fairness']:.3f} (goal {FAIR}). All of the last containers gone after "
        f"{found['gone_after_s']:.2f} s; left over: {found['left'] or 'nothing'}.",
        "",
        "| | RSS before | after | ratio | descriptors before | after | mounts before | after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for role, after in found["after"].items():
        before = found["before"][role]
        goal = "" if role == "nats-server" else f" (goal {FLAT:.2f})"  # in which the records lie
        rows.append(
            f"| {role} | {before['rss'] / roles.MIB:.1f} MiB | {after['rss'] / roles.MIB:.1f} MiB "
            f"| {found['growth'][role]:.3f}{goal} | {before['descriptors']} | {after['descriptors']} "
            f"| {before['mounts']} | {after['mounts']} |"
        )
    return "\n".join(rows)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog="scripts/bench soak")
    parser.add_argument("--calls", type=int, default=CALLS, metavar="N")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    found = measure(options.calls)
    show(found, markdown(found), write=options.json)


if __name__ == "__main__":
    main()
