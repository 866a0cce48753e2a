"""
The faults: each strikes something by chance, proves that it did, and waits until what it struck is well again.

Bounded, so that the system should live: never more than one worker, one API server and one nats-server struck at the
same time, but for the restart of all. Each process is found by its id below one that the test started.
"""

from __future__ import annotations

import asyncio
import datetime
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import httpx
from nats.js.errors import APIError

from mayfly.bus.subjects import ACT
from mayfly.containers.native.runtime import INIT
from mayfly.domain.errors import QueueUnavailable
from mayfly.domain.ids import new_id
from tests.chaos.history import Fault
from tests.chaos.installation import APIS, RUNTIME, WORKERS, Installation
from tests.chaos.processes import (
    Kept,
    NotReady,
    children,
    is_dead,
    name_of,
    signal_if_there,
    state_of,
    until,
    until_true,
)
from tests.chaos.proxy import Cut
from tests.support.images import build_and_push

FREEZE_S: Final = (1.0, 25.0)
CUT_S: Final = (1.0, 20.0)
FULL_S: Final = (3.0, 8.0)
SKEW_S: Final = 30
SKEWED_FOR_S: Final = (6.0, 15.0)
LOST_FROM_S: Final = 5.0
"""A worker that is kept from working for less may come back before it is taken for lost."""
WELL_S: Final = 60.0
FOUND_S: Final = 5.0
LANES: Final = 2
GAP_S: Final = (0.2, 2.0)
REST_S: Final = 3.0


DEPTHS: Final = ("outer", "process 1", "itself")


class NothingToStrike(Exception):
    """There was no such process at the moment."""


@dataclass
class Injector:
    """Strikes, and remembers."""

    made: Installation
    chance: random.Random
    longest_s: float = 25.0  # of a freeze or a cut
    faults: list[Fault] = field(default_factory=list)
    unwell: list[str] = field(default_factory=list)
    missed: dict[str, int] = field(default_factory=dict)  # how often there was nothing to strike
    _busy: set[str] = field(default_factory=set)
    _deck: list[str] = field(default_factory=list)
    _free: asyncio.Condition = field(default_factory=asyncio.Condition)

    @staticmethod
    def names(replicas: int, runtime: str = RUNTIME) -> list[str]:
        """Every kind of fault on an installation with so many nats-servers and containers by *runtime*."""
        roles = ("leader", "follower") if replicas > 1 else ("the only one",)
        ours = ("API server", "held init") if runtime == "native" else ("API server", runtime, "held init")
        return [
            *(f"{what} worker ({depth})" for what in ("kill", "freeze") for depth in DEPTHS),
            *(f"{what} {whom}" for what in ("kill", "freeze") for whom in ours),
            *(f"{what} nats-server ({role})" for what in ("kill", "freeze") for role in roles),
            "restart of all",
            *(f"cut {whom} ({how.value})" for whom in ("worker", "API server") for how in Cut),
            *(f"clock of {whom}" for whom in ("worker", "API server")),
            *(f"disk of {whom} full" for whom in ("worker", "nats-server")),
        ]

    async def strike(self, kind: str) -> None:
        """
        Strike once, and return when all is well again.

        Raises: NothingToStrike.
        """
        what, _, role = kind.removesuffix(")").partition(" (")
        await self._strikes()[what](role)

    def _strikes(self) -> dict[str, Callable[[str], Awaitable[None]]]:
        """What each kind does; it is told what stands in parentheses."""
        return {
            "kill worker": lambda depth: self._kill_worker(DEPTHS.index(depth)),
            "freeze worker": lambda depth: self._freeze_worker(DEPTHS.index(depth)),
            "kill API server": lambda _: self._kill_api(),
            "freeze API server": lambda _: self._freeze_api(),
            "kill nats-server": self._kill_nats,
            "freeze nats-server": self._freeze_nats,
            f"kill {self.made.runtime}": lambda _: self._strike_container(self.made.runtime, signal.SIGKILL),
            f"freeze {self.made.runtime}": lambda _: self._strike_container(self.made.runtime, signal.SIGSTOP),
            "kill held init": lambda _: self._strike_container("held init", signal.SIGKILL),
            "freeze held init": lambda _: self._strike_container("held init", signal.SIGSTOP),
            "restart of all": lambda _: self._restart_all(),
            "cut worker": lambda how: self._cut(WORKERS, Cut(how)),
            "cut API server": lambda how: self._cut(APIS, Cut(how)),
            "clock of worker": lambda _: self._skew(WORKERS),
            "clock of API server": lambda _: self._skew(APIS),
            "disk of worker full": lambda _: self._fill_worker(),
            "disk of nats-server full": lambda _: self._fill_nats(),
        }

    async def run(self, until_at: float, only: tuple[str, ...] = ()) -> None:
        """Strike until it is time, *only* these kinds if any are named; return when all is well again."""
        async with asyncio.TaskGroup() as group:
            for lane in range(LANES):
                group.create_task(self._lane(until_at, only), name=f"faults-{lane}")

    async def _lane(self, until_at: float, only: tuple[str, ...]) -> None:
        while time.monotonic() < until_at:
            kind = self._draw(only)
            try:
                await self.strike(kind)
            except NothingToStrike:
                self.missed[kind] = self.missed.get(kind, 0) + 1
            except NotReady as error:
                self.unwell.append(f"{error}, struck by: {kind}")
                signal_if_there(error.kept.pid, signal.SIGKILL)  # so that the rest of the run is worth something
            await asyncio.sleep(self.chance.uniform(*GAP_S))

    def _draw(self, only: tuple[str, ...]) -> str:
        """Take the next of a shuffled deck of all kinds, so that each comes as often as any other."""
        if not self._deck:
            self._deck = list(only or self.names(self.made.replicas, self.made.runtime))
            self.chance.shuffle(self._deck)
        return self._deck.pop()

    # --- who may be struck ----------------------------------------------------------------------------------------

    async def _take(self, names: tuple[str, ...], *, all_of_them: bool = False) -> str:
        """Choose one of *names* when none of its fellows is struck, and keep it until `_give`."""
        group = set(names)
        async with self._free:
            await self._free.wait_for(lambda: not self._busy & group)
            chosen = self.chance.choice(names)
            self._busy |= group if all_of_them else {chosen}
            return chosen

    async def _give(self, *names: str) -> None:
        """Let what was struck have a rest, in which the promises with a bound can be seen to hold."""
        await asyncio.sleep(REST_S)
        async with self._free:
            self._busy -= set(names)
            self._free.notify_all()

    def _note(
        self,
        kind: str,
        targets: set[str] | frozenset[str],
        began_at: float,
        proof: str,
        *,
        struck: bool,
        loses: bool = False,
        disables: bool = True,
    ) -> None:
        self.faults.append(
            Fault(
                kind=kind,
                targets=frozenset(targets),
                began_at=began_at,
                ended_at=time.monotonic(),
                proof=proof,
                struck=struck,
                loses=loses,
                disables=disables,
            )
        )

    def _freeze_s(self) -> float:
        low, high = FREEZE_S
        return self.chance.uniform(low, min(high, self.longest_s))

    # --- workers and API servers ----------------------------------------------------------------------------------

    async def _kill_worker(self, depth: int) -> None:
        name = await self._take(WORKERS)
        try:
            kept = self.made.workers[name]
            pid, began_at = worker_pid(kept, depth), time.monotonic()
            life = kept.pid
            signal_if_there(pid, signal.SIGKILL)
            dead = await until(lambda: is_dead(pid))
            gone = await kept.died(life)
            await kept.until_ready(for_s=WELL_S)
            kind = f"kill worker ({DEPTHS[depth]})"
            self._note(kind, {name}, began_at, f"pid {pid} died, all of it ended", struck=dead and gone, loses=True)
        finally:
            await self._give(name)

    async def _freeze_worker(self, depth: int) -> None:
        """Only the worker itself is kept from working by that; the two around it just wait."""
        name = await self._take(WORKERS)
        try:
            pid = worker_pid(self.made.workers[name], depth)
            for_s = self._freeze_s()
            hurts = depth == 2
            began_at, struck = await self._frozen(pid, for_s)
            if hurts:
                await self._until_beating(name)
            proof = f"pid {pid} was in state T for {for_s:.1f} s"
            loses = hurts and struck and for_s >= LOST_FROM_S
            kind = f"freeze worker ({DEPTHS[depth]})"
            self._note(kind, {name}, began_at, proof, struck=struck, loses=loses, disables=hurts)
        finally:
            await self._give(name)

    async def _kill_api(self) -> None:
        name = await self._take(APIS)
        try:
            kept = self.made.apis[name]
            pid, began_at = kept.pid, time.monotonic()
            signal_if_there(pid, signal.SIGKILL)
            dead = await kept.died(pid)
            await kept.until_ready(for_s=WELL_S)
            self._note("kill API server", {name}, began_at, f"pid {pid} died", struck=dead)
        finally:
            await self._give(name)

    async def _freeze_api(self) -> None:
        name = await self._take(APIS)
        try:
            kept = self.made.apis[name]
            pid, for_s = kept.pid, self._freeze_s()
            began_at, struck = await self._frozen(pid, for_s)
            await kept.until_ready(for_s=WELL_S)
            self._note(
                "freeze API server", {name}, began_at, f"pid {pid} was in state T for {for_s:.1f} s", struck=struck
            )
        finally:
            await self._give(name)

    async def _frozen(self, pid: int, for_s: float) -> tuple[float, bool]:
        """
        Stop a process for a while; say since when, and whether it was seen stopped before and after. A worker's
        watchdog may have killed it meanwhile: it stood still to its end.
        """
        began_at = time.monotonic()
        signal_if_there(pid, signal.SIGSTOP)
        try:
            stopped = await until(lambda: state_of(pid) == "T")
            await asyncio.sleep(for_s)
            still = state_of(pid) == "T" or is_dead(pid)
        finally:
            signal_if_there(pid, signal.SIGCONT)
        return began_at, stopped and still

    async def _until_beating(self, name: str) -> None:
        """Wait until a worker writes its sign of life again."""
        kept, seen = self.made.workers[name], dict[str, int]()
        if not await until_true(partial(self.made.operator.hears, kept, seen), within_s=WELL_S):
            raise NotReady(kept, WELL_S)

    # --- containers -----------------------------------------------------------------------------------------------

    async def _strike_container(self, what: str, number: signal.Signals) -> None:
        name = await self._take(WORKERS)
        try:
            pid = await self._find(name, what)
            kind = f"{'kill' if number == signal.SIGKILL else 'freeze'} {what}"
            if number == signal.SIGKILL:
                began_at = time.monotonic()
                signal_if_there(pid, number)
                struck, proof = await until(lambda: is_dead(pid)), f"pid {pid} died"
            else:
                for_s = self.chance.uniform(1.0, min(6.0, self.longest_s))
                began_at = time.monotonic()
                signal_if_there(pid, number)
                struck = await until(lambda: state_of(pid) == "T" or is_dead(pid)) and not is_dead(pid)
                await until(lambda: is_dead(pid), within_s=for_s)  # its worker may have killed it
                signal_if_there(pid, signal.SIGCONT)
                proof = f"pid {pid} was in state T"
            self._note(kind, {name}, began_at, proof, struck=struck, disables=False)
        finally:
            await self._give(name)

    async def _find(self, worker: str, what: str) -> int:
        """Find a container runtime of a worker, or an init: below one, or the worker's own child."""
        give_up_at = time.monotonic() + FOUND_S
        while time.monotonic() < give_up_at:
            below = children(worker_pid(self.made.workers[worker], 2))
            found = [pid for pid in below if name_of(pid) == self.made.runtime]
            if what == "held init":
                found = [init for pid in found for init in children(pid)] or [
                    pid for pid in below if name_of(pid) == INIT
                ]
            if found:
                return self.chance.choice(found)
            await asyncio.sleep(0.01)
        raise NothingToStrike

    # --- all, and the ways between them ---------------------------------------------------------------------------

    async def _restart_all(self) -> None:
        names = (*APIS, *WORKERS, *self.made.nats)
        await self._take(names, all_of_them=True)
        try:
            began_at = time.monotonic()
            lives = {name: kept.pid for name, kept in self.made.kept.items()}
            for pid in lives.values():
                signal_if_there(pid, signal.SIGKILL)
            dead = [await self.made.kept[name].died(pid) for name, pid in lives.items()]
            for kept in self.made.kept.values():
                await kept.until_ready(for_s=WELL_S)
            self._note(
                "restart of all", set(names), began_at, f"{sum(dead)} processes died", struck=all(dead), loses=True
            )
        finally:
            await self._give(*names)

    async def _cut(self, names: tuple[str, ...], how: Cut) -> None:
        name = await self._take(names)
        proxies = self.made.proxies[name].values()
        try:
            for_s = self.chance.uniform(CUT_S[0], min(CUT_S[1], self.longest_s))
            before = sum(proxy.withheld_bytes + proxy.broken for proxy in proxies)
            began_at = time.monotonic()
            for proxy in proxies:
                proxy.cut(how)
            await asyncio.sleep(for_s)
            stopped = sum(proxy.withheld_bytes + proxy.broken for proxy in proxies) - before
            for proxy in proxies:
                proxy.heal()
            await (self._until_beating(name) if name in WORKERS else self.made.apis[name].until_ready(for_s=WELL_S))
            what = "bytes were withheld" if how is Cut.SILENT else "connections broken"
            role = "worker" if name in WORKERS else "API server"
            self._note(
                f"cut {role} ({how.value})",
                {name},
                began_at,
                f"{stopped} {what} in {for_s:.1f} s",
                struck=stopped > 0,
                loses=name in WORKERS and for_s >= LOST_FROM_S,
            )
        finally:
            for proxy in proxies:
                proxy.heal()
            await self._give(name)

    # --- clocks and disks -----------------------------------------------------------------------------------------

    async def _skew(self, names: tuple[str, ...]) -> None:
        name = await self._take(names)
        file = self.made.clock_file(name)
        try:
            by_s = self.chance.choice((SKEW_S, -SKEW_S))
            began_at = time.monotonic()
            file.write_text(f"{by_s:+d}s\n")
            await asyncio.sleep(self.chance.uniform(*SKEWED_FOR_S))
            off_s = await self._clock_of(name)
            file.write_text("+0\n")
            await asyncio.sleep(1.5)  # it reads the file once a second
            role = "worker" if name in WORKERS else "API server"
            proof = f"it was {off_s:+.0f} s off" if off_s is not None else "nobody could tell"
            struck = off_s is not None and abs(off_s - by_s) < 5
            self._note(f"clock of {role}", {name}, began_at, proof, struck=struck, disables=False)
        finally:
            file.write_text("+0\n")
            await self._give(name)

    async def _clock_of(self, name: str) -> float | None:
        """By how much a process's clock is off, by what it itself says; None if it says nothing."""
        if name in WORKERS:
            return self._newest_beat(name)
        try:
            async with self.made.client(name) as client:
                answer = await client.get("/v1/status", headers=self.made.users[0].headers, timeout=5)
        except httpx.HTTPError:
            return None
        date = datetime.datetime.strptime(answer.headers["date"], "%a, %d %b %Y %H:%M:%S GMT")
        return date.replace(tzinfo=datetime.UTC).timestamp() - time.time()

    def _newest_beat(self, name: str) -> float | None:
        """The newest line of a worker's log; it writes one for each activation."""
        log = self.made.workers[name].log
        events = [event for event in self.made.workers[name].events() if "timestamp" in event]
        if not events:
            return None
        said = datetime.datetime.fromisoformat(events[-1]["timestamp"]).timestamp()
        return said - log.stat().st_mtime

    async def _fill_worker(self) -> None:
        name = await self._take(WORKERS)
        disk = self.made.disks[name]
        try:
            began_at = time.monotonic()
            filled = disk.fill()
            answers = [await self._register_new_image() for _ in range(2)]
            await asyncio.sleep(self.chance.uniform(*FULL_S))
            full = disk.free_bytes == 0
            disk.free()
            proof = f"{filled} bytes filled it; registrations meanwhile: {', '.join(answers)}"
            self._note("disk of worker full", {name}, began_at, proof, struck=full, disables=False)
        finally:
            disk.free()
            await self._give(name)

    async def _register_new_image(self) -> str:
        """Have one of the workers pull an image that it has not; say what was answered."""
        name = f"f-{new_id()}"
        image = await build_and_push(self.made.registry.url, name, files={"/new": name})
        headers = self.made.users[0].headers
        try:
            async with self.made.client(self.chance.choice(APIS)) as client:
                function = {"name": name, "image": image, "command": ["true"]}
                answer = await client.post("/v1/functions", json=function, headers=headers)
                if answer.status_code == 201:
                    await client.delete(f"/v1/functions/{name}", headers=headers)
        except httpx.HTTPError as error:
            return type(error).__name__
        return str(answer.status_code if answer.status_code == 201 else answer.json().get("code"))

    async def _fill_nats(self) -> None:
        """Full for a while, then freed. A server whose stream froze by that needs a restart, as operators know."""
        name = await self._take(tuple(self.made.nats))
        node = self.made.nats[name]
        try:
            began_at = time.monotonic()
            filled = node.disk.fill()
            await asyncio.sleep(self.chance.uniform(*FULL_S))
            filled += node.disk.fill()  # what it gave back itself meanwhile
            full = node.disk.free_bytes == 0
            node.disk.free()
            proof = f"{filled} bytes filled it"
            if not (await until_true(node.is_healthy) and await self._writes_again()):
                life = node.kept.pid
                signal_if_there(life, signal.SIGKILL)
                await node.kept.died(life)
                proof += ", it had to be restarted"
            await node.kept.until_ready(for_s=WELL_S)
            self._note("disk of nats-server full", {name}, began_at, proof, struck=full)
        finally:
            node.disk.free()
            await self._give(name)

    async def _writes_again(self) -> bool:
        """Whether some worker's signs of life are stored."""
        seen: dict[str, int] = {}

        async def any_beats() -> bool:
            return any([await self.made.operator.hears(kept, seen) for kept in self.made.workers.values()])

        return await until_true(any_beats)

    # --- NATS -----------------------------------------------------------------------------------------------------

    async def _nats_node(self, role: str) -> str:
        """Take the leader of the work stream, or one that follows."""
        names = tuple(self.made.nats)
        leader = names[0]
        if role != "the only one":
            try:
                leader = await self.made.operator.leader(ACT) or ""
            except (QueueUnavailable, APIError) as error:  # there is none just now
                raise NothingToStrike from error
        chosen = leader if role != "follower" else self.chance.choice([name for name in names if name != leader])
        if chosen not in names:
            raise NothingToStrike
        async with self._free:
            await self._free.wait_for(lambda: not self._busy & set(names))
            self._busy.add(chosen)
        return chosen

    async def _kill_nats(self, role: str) -> None:
        name = await self._nats_node(role)
        try:
            kept = self.made.nats[name].kept
            pid, began_at = kept.pid, time.monotonic()
            signal_if_there(pid, signal.SIGKILL)
            dead = await kept.died(pid)
            await kept.until_ready(for_s=WELL_S)
            self._note(f"kill nats-server ({role})", {name}, began_at, f"{name}, pid {pid}, died", struck=dead)
        finally:
            await self._give(name)

    async def _freeze_nats(self, role: str) -> None:
        name = await self._nats_node(role)
        try:
            kept = self.made.nats[name].kept
            pid, for_s = kept.pid, self._freeze_s()
            began_at, struck = await self._frozen(pid, for_s)
            await kept.until_ready(for_s=WELL_S)
            proof = f"{name}, pid {pid}, was in state T for {for_s:.1f} s"
            self._note(f"freeze nats-server ({role})", {name}, began_at, proof, struck=struck)
        finally:
            await self._give(name)


def worker_pid(kept: Kept, depth: int) -> int:
    """
    The outer process of a worker, its process 1, or the worker itself.

    Raises: NothingToStrike while it starts.
    """
    pid = kept.pid
    for _ in range(depth):
        below = children(pid)
        if not below:
            raise NothingToStrike
        pid = below[0]
    return pid
