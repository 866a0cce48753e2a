"""Who calls when: what a simulated load follows, and a real one as well."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from bench.capacity.plan import Plan


@dataclass(frozen=True, slots=True)
class Arrival:
    """A call that is made."""

    at_s: float
    user: int
    duration_s: float


def arrivals(plan: Plan) -> Iterator[Arrival]:
    """Say who calls when, and how long the function takes; always the same of one seed."""
    when, how_long = random.Random(f"{plan.seed} when"), random.Random(f"{plan.seed} how long")  # noqa: S311 - no secret
    at_s = 0.0
    while (at_s := at_s + when.expovariate(plan.rate_per_s / plan.burst)) < plan.seconds:
        user = when.randrange(plan.users)
        for _ in range(plan.burst):
            yield Arrival(at_s, user, _duration_s(plan, how_long))


def _duration_s(plan: Plan, chance: random.Random) -> float:
    mean_s = plan.duration_ms / 1000
    if plan.distribution == "fixed" or not mean_s:
        return mean_s
    if plan.distribution == "exponential":
        return chance.expovariate(1 / mean_s)
    sigma_squared = math.log1p(plan.spread**2)
    return chance.lognormvariate(math.log(mean_s) - sigma_squared / 2, math.sqrt(sigma_squared))
