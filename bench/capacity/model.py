"""
The model: an installation in which each call takes the way of `docs/explanation/life-of-an-activation.md`, with what
each hop costs as the bench measured it. The stream admits, and its shards; free slots claim; processes and containers
share cores; what comes behind the answer's back holds the slot a little longer.

What it leaves out stands in docs/explanation/capacity.md.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

from bench.capacity.arrivals import Arrival, arrivals
from bench.capacity.costs import Costs
from bench.capacity.events import Clock, Cores, Level, Loop, Step, Story, follow
from bench.capacity.outcome import Outcome
from bench.capacity.plan import Plan
from bench.capacity.stream import Stream, Worker
from bench.capacity.tally import Meter, Tally
from mayfly.bus.patience import ASKED_AGAIN_S

ADMIT, START, END = 4, 2, 3
"""Requests to NATS of one call: session, function, record and message; function again and start fence; response, result
fence and ack."""
REQUESTS = ADMIT + START + END
ROLES = ("client", "api", "nats", "worker", "containers", "function")


class Model:
    """One installation, simulated once."""

    def __init__(self, plan: Plan, costs: Costs) -> None:
        """Build it; nobody has called yet."""
        self._plan = plan
        self._costs = costs
        self._clock = clock = Clock()
        self._slots = Level(clock)
        self._spent = dict.fromkeys(ROLES, 0.0)  # seconds of a core
        self._machine = machine = Cores(clock, plan.cores, others=plan.others) if plan.one_machine else None
        hosts = [machine or Cores(clock, plan.cores, others=plan.others) for _ in range(plan.workers)]
        apis = [machine or Cores(clock, 1) for _ in range(plan.apis)]
        nats = [machine or Cores(clock, plan.nats_cores) for _ in range(plan.shards)]
        limit = plan.max_activations // plan.shards if plan.max_activations else math.inf
        self._apis = itertools.cycle([Loop(cores) for cores in apis])
        self._streams = [Stream(cores, limit=limit, user_limit=plan.max_per_user or math.inf) for cores in nats]
        for stream, cores in zip(itertools.cycle(self._streams), hosts, strict=False):
            stream.join(Worker(Loop(cores), cores, plan.slots))
        by_hash = random.Random(f"{plan.seed} home")  # noqa: S311 - stands for the hash of a user's id
        self._home = [by_hash.choice(self._streams) for _ in range(plan.users)]
        self._tally = Tally(clock, self._meters(hosts, apis, nats), counted_from_s=plan.warm_up_s)

    def _meters(self, hosts: Sequence[Cores], apis: Sequence[Cores], nats: Sequence[Cores]) -> dict[str, Meter]:
        """Read cores where they are one role's own; by role, where roles share them, what has been done."""
        plan = self._plan
        by_role = {role: Meter(partial(self._spent.__getitem__, role), plan.workers * plan.cores) for role in ROLES}
        if not plan.one_machine:
            by_role["api"] = Meter(partial(_used_s, apis), plan.apis)
            by_role["nats"] = Meter(partial(_used_s, nats), plan.shards * plan.nats_cores)
        return {
            "slots": Meter(lambda: self._slots.integral, plan.workers * plan.slots),
            "cores": Meter(partial(_used_s, hosts), plan.workers * plan.cores),
            **by_role,
        }

    def run(self) -> Outcome:
        """Simulate the plan's time, and say what came of it."""
        follow(self._load())
        self._clock.run(self._plan.seconds)
        return self._tally.outcome()

    def _load(self) -> Story:
        for arrival in arrivals(self._plan):
            yield self._clock.until(arrival.at_s)
            follow(self._call(arrival))

    def _call(self, arrival: Arrival) -> Story:
        """From the client's first byte out to its last byte in."""
        costs, stream, api = self._costs, self._home[arrival.user], next(self._apis)
        began = self._tally.arrived()
        yield from self._at_the_client()
        yield from self._on(api, "api", costs.api_s / 2)
        yield from self._on(stream.nats, "nats", costs.nats_s * ADMIT / REQUESTS)
        refusal = yield from self._admitted(stream, arrival.user)
        queue_s = 0.0 if refusal else (yield from self._in_a_slot(stream, arrival))
        yield from self._on(api, "api", costs.api_s / 2)
        yield from self._at_the_client()
        self._tally.answered(began, refusal, queue_s)

    def _at_the_client(self) -> Story:
        if self._machine:
            yield from self._on(self._machine, "client", self._costs.client_s / 2)
        else:
            yield self._clock.sleep(self._costs.client_s / 2)

    def _admitted(self, stream: Stream, user: int) -> Generator[Step, Any, str | None]:
        """Ask for a place, and again while one may just be coming back; return whose limit is against it, if it is."""
        give_up_at, pause_s = self._clock.now + self._plan.admission_wait_ms / 1000, ASKED_AGAIN_S
        while (refusal := stream.refusal(user)) and self._clock.now < give_up_at:
            yield self._clock.sleep(min(pause_s, give_up_at - self._clock.now))
            yield from self._on(stream.nats, "nats", self._costs.nats_s / REQUESTS)
            pause_s *= 2
        return refusal

    def _in_a_slot(self, stream: Stream, arrival: Arrival) -> Generator[Step, Any, float]:
        """From the stream to the result; return how long the call waited for a slot."""
        costs, computes_s = self._costs, arrival.duration_s * self._plan.cpu_share
        queued_at = self._clock.now
        worker: Worker = yield stream.claimed
        queue_s = self._clock.now - queued_at
        self._slots.add(1)
        yield from self._on(worker.loop, "worker", costs.worker_s / 2)
        yield from self._on(stream.nats, "nats", costs.nats_s * START / REQUESTS)
        yield from self._on(worker.cores, "containers", costs.container_s)
        yield self._clock.sleep(costs.idle_s)
        yield from self._on(worker.cores, "function", computes_s)
        yield self._clock.sleep(arrival.duration_s - computes_s)
        yield from self._on(worker.loop, "worker", costs.worker_s / 2)
        yield from self._on(stream.nats, "nats", costs.nats_s * END / REQUESTS)
        stream.acked(arrival.user)
        follow(self._behind_the_answer(stream, worker))
        return queue_s

    def _behind_the_answer(self, stream: Stream, worker: Worker) -> Story:
        yield from self._on(worker.cores, "containers", self._costs.behind_s)
        self._slots.add(-1)
        stream.slot_freed(worker)

    def _on(self, place: Cores | Loop, role: str, cpu_s: float) -> Story:
        if cpu_s:
            yield place.work(cpu_s)
            self._spent[role] += cpu_s


def _used_s(places: Sequence[Cores]) -> float:
    return sum(cores.used_s for cores in set(places))


def simulate(plan: Plan, costs: Costs) -> Outcome:
    """Simulate *plan* with what calls cost by *costs*. The same seed gives the same outcome, to the last digit."""
    return Model(plan, costs).run()
