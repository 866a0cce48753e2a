"""A plan's load, offered to a real `mayfly up`: the same arrivals as in a simulation, and the same outcome of it."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from bench.capacity.arrivals import Arrival, arrivals
from bench.capacity.neighbours import busy_s, counting_runnable, of_the_kernel, others
from bench.capacity.outcome import Outcome, Spread
from bench.capacity.plan import Plan
from bench.connection import Connection
from bench.installation import Function, Installation, seen_by_users
from mayfly.client.shapes import timing

KEPT_S = 2.0  # an idle connection; the API server keeps it for 5 s
WAITED_S = 0.005  # a call that found a free slot was claimed sooner, however busy the machine was


async def offer(registry: str, function: Function, plan: Plan) -> tuple[Plan, Outcome]:
    """
    Start an installation as the plan says, and call as it says. Return the plan with the cores of this machine, and
    with those others who computed on it meanwhile; and what came of the calls.

    Raises: RuntimeError when a call is answered in another way than by its result or a refusal.
    """
    settings: dict[str, Any] = {
        "slots": plan.slots,
        "max_activations": plan.max_activations or "none",
        "max_activations_per_user": plan.max_per_user or "none",
        "admission_wait_ms": round(plan.admission_wait_ms),
    }
    async with seen_by_users(registry, plan.users, **settings) as users:
        for each in users:
            await each.register(function)
        return await _Load(plan, users, function).offer()


@dataclass(frozen=True, slots=True)
class _Ended:
    """A call that was answered."""

    latency_s: float
    refusal: str | None
    steps_s: dict[str, float]


class _Load:
    def __init__(self, plan: Plan, users: Sequence[Installation], function: Function) -> None:
        self._plan = plan
        self._users = users
        self._function = function
        self._idle: list[tuple[float, Connection]] = []  # since when; the last one is used first
        self._ended: list[_Ended] = []

    async def offer(self) -> tuple[Plan, Outcome]:
        began = time.perf_counter()
        try:
            async with counting_runnable() as runnable, asyncio.TaskGroup() as group:
                meters = group.create_task(self._metered_after(self._plan.warm_up_s), name="capacity-meters")
                for arrival in arrivals(self._plan):
                    await asyncio.sleep(began + arrival.at_s - time.perf_counter())
                    group.create_task(self._call(arrival, due=began + arrival.at_s), name="capacity-call")
            now, before = Used.until_now(self._users[0]), meters.result()
        finally:
            for _, connection in self._idle:
                connection.close()
        cores, used = len(os.sched_getaffinity(0)), now.since(before)
        beside = others(statistics.fmean(runnable), ours_of_busy=now.ours_of_busy_since(before))
        return replace(self._plan, cores=cores, others=beside), self._outcome(used, cores)

    async def _metered_after(self, seconds: float) -> Used:
        await asyncio.sleep(seconds)
        return Used.until_now(self._users[0])

    async def _call(self, arrival: Arrival, *, due: float) -> None:
        """Call once. A client that is late because the machine is busy is part of what the caller waits."""
        user = self._users[arrival.user]
        connection = await self._connection(user)
        answer = await connection.request("POST", self._function.path, self._function.parameter, user.headers)
        latency_s = time.perf_counter() - due
        self._idle.append((time.perf_counter(), connection))
        if answer.status == 200 and answer.body == self._function.result:
            ended = _Ended(latency_s, None, timing(answer.headers["server-timing"]))
        elif answer.status == 429:
            ended = _Ended(latency_s, msgspec.json.decode(answer.body)["scope"], {})
        else:
            raise RuntimeError(f"{self._function.name}: {answer.status} {answer.body[:300]!r}")
        if arrival.at_s >= self._plan.warm_up_s:
            self._ended.append(ended)

    async def _connection(self, user: Installation) -> Connection:
        while self._idle:
            since, connection = self._idle.pop()
            if time.perf_counter() - since < KEPT_S:
                return connection
            connection.close()
        return await user.connect()

    def _outcome(self, used: dict[str, float], cores: int) -> Outcome:
        refused = Counter(each.refusal for each in self._ended if each.refusal)
        finished = [each for each in self._ended if not each.refusal]
        in_slots_s = sum(each.steps_s["image"] + each.steps_s["run"] for each in finished)
        return Outcome(
            arrived=len(self._ended),
            refused={scope: refused[scope] for scope in ("platform", "user")},
            finished=len(finished),
            in_flight=0,
            waited=sum(each.steps_s["queue"] > WAITED_S for each in finished),
            queue_ms=Spread.of(each.steps_s["queue"] for each in finished),
            latency_ms=Spread.of(each.latency_s for each in finished),
            used={
                "slots": in_slots_s / (self._plan.seconds - self._plan.warm_up_s) / self._plan.slots,
                "cores": sum(used.values()) / cores,
                **{role: each / cores for role, each in used.items()},
            },
        )


@dataclass(frozen=True, slots=True)
class Used:
    """Seconds of a core that an installation and its client have used, by role."""

    at: float
    cpu_s: dict[str, float]
    kernel_s: float
    """By the kernel's own threads."""

    busy_s: float
    """By everybody on this machine."""

    @classmethod
    def until_now(cls, installation: Installation) -> Used:
        """Read the meters."""
        cpu_s = {role: read() for role, read in installation.cpu().items()}
        return cls(time.perf_counter(), cpu_s, of_the_kernel(), busy_s())

    def since(self, before: Used) -> dict[str, float]:
        """How many cores were in use on average between two readings."""
        time_s = self.at - before.at
        return {role: (cpu_s - before.cpu_s[role]) / time_s for role, cpu_s in self.cpu_s.items()}

    def ours_of_busy_since(self, before: Used) -> float:
        """What part of all that this machine computed between two readings was this installation's, or for it."""
        kernel_s = max(0.0, self.kernel_s - before.kernel_s)  # those that have ended take theirs along
        ours_s = sum(self.cpu_s.values()) - sum(before.cpu_s.values()) + kernel_s
        return ours_s / max(self.busy_s - before.busy_s, ours_s, 1e-9)
