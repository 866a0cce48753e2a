"""
Whether a call costs more where much is stored: an installation full of functions and records beside an empty one.

    sudo scripts/bench growth [--functions N] [--records N] [--calls N] [--json FILE]

Both run on this machine and are called in turns, one call each, so that what else the machine does falls on both. The
full one has been filled by writing to its database as API server and worker would have: half of the functions are the
caller's own and a fifth of the records, the others those of a thousand users.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import uvloop
from msgspec.structs import replace

from bench import roles
from bench.also import show
from bench.callers import Connection, User, cat_pushed, register
from bench.records import KEEP_S, record
from mayfly.bus.connection import connect
from mayfly.bus.stores import Stores
from mayfly.domain.function import Function
from mayfly.domain.ids import FunctionName, UserId, new_id
from mayfly.ops.layout import Layout, admin_settings
from mayfly.ops.nats_config import ADMIN
from tests.support.up import ROOM, Up, running_up

FUNCTIONS, RECORDS, CALLS = 10_000, 100_000, 1000
OTHERS, WRITES_AT_ONCE = 1000, 100
GOAL = 1.20
NAMES = ("empty", "full")


def measure(functions: int = FUNCTIONS, records: int = RECORDS, calls: int = CALLS) -> dict[str, Any]:
    """Run both installations and call them; return times in milliseconds, and processor time in them."""
    with cat_pushed() as (registry, image), ExitStack() as both:
        ups = [both.enter_context(running_up(registry, log_level="warning", **ROOM)) for _ in NAMES]
        users = [asyncio.run(register(up, image)) for up in ups]
        uvloop.run(fill(ups[1], functions=functions, records=records))
        connections = [both.enter_context(user.connection()) for user in users]
        call_in_turns(connections, 50)  # a janitor, the counts of the user's records, what is cached
        before = [cpu(up) for up in ups]
        times = call_in_turns(connections, calls)
        after = [cpu(up) for up in ups]
        memory = [{role: roles.memory(pids).rss for role, pids in roles.processes(up).items()} for up in ups]
        lists = [list_ms(user) for user in users]
    found: dict[str, Any] = {
        name: {
            "p50_ms": statistics.median(times[number]),
            "p95_ms": sorted(times[number])[int(calls * 0.95)],
            "cpu_ms": {role: (now - before[number][role]) / calls * 1e3 for role, now in after[number].items()},
            "rss": memory[number],
            "list_p50_ms": lists[number],
        }
        for number, name in enumerate(NAMES)
    }
    return {"functions": functions, "records": records, "calls": calls, **found, "ratio": ratio(found)}


def ratio(found: dict[str, Any]) -> float:
    """The full one's median by the empty one's."""
    return float(found["full"]["p50_ms"] / found["empty"]["p50_ms"])


async def fill(up: Up, *, functions: int, records: int) -> None:
    """Store all that in an installation in which one function is registered, its caller's."""
    async with connect(admin_settings(Layout(up.data_dir)), role=ADMIN) as bus:
        stores = Stores.on(bus)
        [key] = await stores.functions.keys()
        entry = await stores.functions.get(key)
        if entry is None:
            raise RuntimeError(f"{key} was there and is gone")
        own, instance = entry.value, new_id()
        others = [new_id() for _ in range(OTHERS)]

        async def function(number: int) -> None:
            owner = own.user_id if number % 2 else others[number % OTHERS]
            one = _another(own, owner, number)
            await stores.functions.create(one.key, one)

        async def finished(number: int) -> None:
            owner = others[number % OTHERS] if number % 5 else own.user_id
            one = record(owner, instance)
            await stores.activations.create(one.key, one, ttl_s=KEEP_S)

        await _all(function, functions)
        await _all(finished, records)


def _another(own: Function, owner: str, number: int) -> Function:
    return replace(own, id=new_id(), user_id=UserId(owner), name=FunctionName(f"f{number}"))


async def _all(write: Callable[[int], Awaitable[None]], most: int) -> None:
    numbers = count()

    async def writer() -> None:
        while (number := next(numbers)) < most:
            await write(number)

    await asyncio.gather(*(writer() for _ in range(WRITES_AT_ONCE)))


def call_in_turns(connections: list[Connection], calls: int) -> list[list[float]]:
    """Call by each connection in turn; return the milliseconds of each one's calls."""
    times: list[list[float]] = [[] for _ in connections]
    for number in range(calls):
        for turn in range(len(connections)):
            which = (number + turn) % len(connections)
            began = time.perf_counter()
            connections[which].call()
            times[which].append((time.perf_counter() - began) * 1e3)
    return times


def cpu(up: Up) -> dict[str, float]:
    """Processor seconds of each role so far."""
    return {role: roles.cpu_s(pids) for role, pids in roles.processes(up).items()}


def list_ms(user: User, calls: int = 11) -> float:
    """Median of so many first pages of the user's activations."""
    times = []
    with user.connection() as connection:
        for _ in range(calls):
            began = time.perf_counter()
            connection.get("/v1/activations?limit=20")
            times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)


def markdown(found: dict[str, Any]) -> str:
    """The table that people read."""
    empty, full = found["empty"], found["full"]
    rows = [
        f"{found['functions']:,} functions and {found['records']:,} records, {found['calls']:,} calls of each in turns",
        "",
        "| | empty | full | full / empty |",
        "|---|---|---|---|",
        _row(f"hot call, p50 (goal {GOAL:.2f})", empty["p50_ms"], full["p50_ms"], "ms"),
        _row("hot call, p95", empty["p95_ms"], full["p95_ms"], "ms"),
        _row("first page of activations, p50", empty["list_p50_ms"], full["list_p50_ms"], "ms"),
    ]
    processors = (
        _row(f"processor time a call, {role}", empty["cpu_ms"][role], used, "ms")
        for role, used in full["cpu_ms"].items()
    )
    memories = (
        _row(f"memory, {role}", empty["rss"][role] / roles.MIB, rss / roles.MIB, "MiB")
        for role, rss in full["rss"].items()
    )
    return "\n".join([*rows, *processors, *memories])


def _row(what: str, empty: float, full: float, unit: str) -> str:
    return f"| {what} | {empty:.2f} {unit} | {full:.2f} {unit} | {full / empty:.2f} |"


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog="scripts/bench growth")
    parser.add_argument("--functions", type=int, default=FUNCTIONS, metavar="N")
    parser.add_argument("--records", type=int, default=RECORDS, metavar="N")
    parser.add_argument("--calls", type=int, default=CALLS, metavar="N", help="of each")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    found = measure(options.functions, options.records, options.calls)
    show(found, markdown(found), write=options.json)


if __name__ == "__main__":
    main()
