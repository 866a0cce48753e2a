"""
What an operator does on an ordinary day: each process of a role ended in good order and started anew, one after the
other, while calls go on. And a soak: ten thousand calls, after which nothing is left.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.chaos import leftovers
from tests.chaos.history import Aftermath, Call, Fault, History, Violation, check
from tests.chaos.installation import APIS, LIMITS, WORKERS, Installation, installation
from tests.chaos.load import BRIEF, KINDS, Load, Plan, records, unexpected
from tests.chaos.processes import Kept, tree
from tests.chaos.run import QUIET_S, end_workers, until_quiet

CALM_S: Final = 1.5  # of calls before, between and after
PLACES_S: Final = 1.0  # less than a janitor waits: who ends a call gives its place back by itself, if NATS answers
WARM_UP: Final = 0.1  # of a soak's calls; what grows then is caches


@dataclass
class Rolled:
    """What became of the calls."""

    calls: list[Call]
    failed: list[str]  # in words
    violations: list[Violation]
    statuses: dict[str, int | None] = field(default_factory=dict)  # with which the processes ended


async def roll(roles: tuple[str, ...], *, replicas: int, seed: int, also: tuple[str, ...] = ()) -> Rolled:
    """Restart each process of *roles* (API server, worker, nats-server) under load; *also* may be told to callers."""
    async with installation(replicas) as made:
        load, stop = Load(made, seed, Plan(keyed=True, kinds=BRIEF)), asyncio.Event()
        calling = asyncio.create_task(load.run(stop), name="load")
        try:
            statuses, restarts = await _roll_all(made, roles, calling)
        finally:
            stop.set()
            await asyncio.gather(calling, return_exceptions=True)
        await calling
        history = await _history(made, load, restarts, places_s=QUIET_S if "nats-server" in roles else PLACES_S)
    return Rolled(load.calls, unexpected(load.calls, also=also), check(history), statuses)


async def _roll_all(
    made: Installation, roles: tuple[str, ...], calling: asyncio.Task[None]
) -> tuple[dict[str, int | None], list[Fault]]:
    """
    Return with which statuses they ended, and when API servers were away: a request may cross the end of its idle
    connection. That such a call is answered when it is repeated by its key is `unexpected`'s to see.
    """
    names = {"API server": APIS, "worker": WORKERS, "nats-server": tuple(made.nats)}
    statuses: dict[str, int | None] = {}
    restarts: list[Fault] = []
    await asyncio.sleep(CALM_S)
    for name in (name for role in roles for name in names[role]):
        kept, began_at = made.kept[name], time.monotonic()
        statuses[name] = await kept.stop()
        await kept.start()
        await kept.until_ready()
        if name in APIS:
            targets, ended_at = frozenset({name}), time.monotonic()
            restarts.append(Fault(kind="restart", targets=targets, began_at=began_at, ended_at=ended_at, leaves=True))
        await asyncio.sleep(CALM_S)
        if calling.done():
            await calling
    return statuses, restarts


async def _history(
    made: Installation, load: Load, restarts: Sequence[Fault] = (), *, places_s: float = PLACES_S
) -> History:
    in_flight = await until_quiet(made.operator, places_s=places_s)
    found = await records(made, load)
    keys = len({call.key for call in load.calls if call.key})
    left = await leftovers.in_nats(await made.operator.bus(), keys_used=keys)
    left += await end_workers(made)
    after = Aftermath(in_flight=in_flight, admitted_again=LIMITS.platform, left=left)
    runs = made.witness.runs()
    return History(
        limits=LIMITS,
        calls=load.calls,
        runs=runs,
        records=found,
        faults=restarts,
        aftermath=after,
        nats=frozenset(made.nats),
    )


# --- the soak -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """What one process has."""

    rss_kib: int
    descriptors: int
    threads: int


@dataclass
class Soaked:
    """What a soak came to."""

    calls: int
    warm: dict[str, Figures]
    afterwards: dict[str, Figures]
    failed: list[str]
    violations: list[Violation]

    def table(self) -> str:
        """In Markdown."""
        lines = ["| process | RSS, KiB | descriptors | threads |", "|---|---|---|---|"]
        for name, before in self.warm.items():
            after = self.afterwards[name]
            both = zip((before.rss_kib, before.descriptors, before.threads), _numbers(after), strict=True)
            lines.append(f"| {name} | {' | '.join(f'{was} -> {now}' for was, now in both)} |")
        return "\n".join(lines)


def _numbers(figures: Figures) -> tuple[int, int, int]:
    return figures.rss_kib, figures.descriptors, figures.threads


async def soak(calls: int, *, seed: int) -> Soaked:
    """Make so many quick calls on one nats-server, and compare the processes after a tenth of them and after all."""
    quick = tuple(kind for kind in KINDS if kind.name == "quick")
    async with installation(1) as made:
        load = Load(made, seed, Plan(clients=10, think_s=0, kinds=quick, at_most=calls * WARM_UP))
        await load.run(asyncio.Event())
        warm = _measured(made)
        rest = Load(made, seed + 1, Plan(clients=10, think_s=0, kinds=quick, at_most=calls * (1 - WARM_UP)))
        await rest.run(asyncio.Event())
        await until_quiet(made.operator, places_s=PLACES_S)
        afterwards = _measured(made)
        rest.calls[:0] = load.calls
        history = await _history(made, rest)
    return Soaked(len(rest.calls), warm, afterwards, unexpected(rest.calls), check(history))


def _measured(made: Installation) -> dict[str, Figures]:
    return {name: _figures(kept) for name, kept in (made.apis | made.workers).items()}


def _figures(kept: Kept) -> Figures:
    """Of an API server; of a worker and the two processes around it, but not of its containers."""
    pids = [pid for pid in tree(kept.pid) if _is_python(pid)]
    status = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return Figures(
        rss_kib=sum(int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) for text in status),
        descriptors=sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
        threads=sum(int(re.findall(r"Threads:\s+(\d+)", text)[0]) for text in status),
    )


def _is_python(pid: int) -> bool:
    with suppress(OSError):
        return b"mayfly\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
