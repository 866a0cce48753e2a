"""
The model beside Mayfly: two loads, each offered to a real `mayfly up` and simulated, with the very same arrivals.

What calls cost is measured in the same minutes, before, between and after the loads, on an installation of its own that
is idle meanwhile: on a machine that others use as well it drifts. How many others compute during a load is counted, and
the model has as many.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from random import Random

from bench import calls
from bench.capacity.compared import Compared, Validation
from bench.capacity.costs import Costs
from bench.capacity.load import offer
from bench.capacity.model import simulate
from bench.capacity.plan import Plan
from bench.figures import Block, Figures
from bench.installation import Function, Installation, running_installation
from tests.support.registry import Registry

TURNS, ALONE_S, SATURATED_S, AT_ONCE = 3, 1.0, 2.0, 8  # each time that costs are measured

SLEEPING = Plan(
    rate_per_s=9.6, duration_ms=1000, users=1, slots=8, max_activations=16, max_per_user=16,
    one_machine=True, seconds=90, warm_up_s=10,
)  # fmt: skip
"""A second of sleep, 1.2 times as often as eight slots have room for, with places to wait for as many as run."""


def short_calls(saturation_per_s: float) -> Plan:
    """Calls of nothing at 60 % of what saturates the machine, of two users, at limits that are often reached."""
    return Plan(
        rate_per_s=0.6 * saturation_per_s, users=2, slots=3, max_activations=3, max_per_user=2, admission_wait_ms=0,
        one_machine=True, seconds=40, warm_up_s=3,
    )  # fmt: skip


@dataclass
class Meter:
    """Measures what a call costs, now and then."""

    installation: Installation
    function: Function
    alone: list[Block] = field(default_factory=list)
    saturated: list[Block] = field(default_factory=list)

    async def measure(self) -> None:
        """Once more."""
        for _ in range(TURNS):
            self.alone.append(await calls.block(self.installation, self.function, 1, ALONE_S))
            self.saturated.append(await calls.block(self.installation, self.function, AT_ONCE, SATURATED_S))

    @property
    def alone_ms(self) -> float:
        """How long a call takes that is alone: by the best second, as others on the machine can only make it longer."""
        return min(Figures.of(self.alone).rounds_p50_ms)

    @property
    def saturation_per_s(self) -> float:
        """Calls a second, eight at once."""
        return Figures.of(self.saturated).per_s

    @property
    def costs(self) -> Costs:
        """What the model is given."""
        return Costs.measured(Figures.of(self.saturated).cpu_ms, alone_ms=self.alone_ms)


async def validate() -> Validation:
    """
    Offer both loads to a real installation, and simulate them.

    Raises: RuntimeError when a call is answered in another way than by its result or a refusal.
    """
    async with Registry() as registry:
        functions = await calls.functions(registry.url, Random(1))  # noqa: S311 - no secret
        async with running_installation(registry.url, "auto") as idle:
            await idle.register(functions["hot"])
            meter = Meter(idle, functions["hot"])
            await meter.measure()
            _say("short calls")
            short, short_outcome = await offer(registry.url, functions["hot"], short_calls(meter.saturation_per_s))
            await meter.measure()
            _say("functions that sleep")
            sleeping, sleeping_outcome = await offer(registry.url, functions["1 s"], SLEEPING)
            await meter.measure()
    costs = meter.costs
    compared = (
        Compared("short calls at 60 % of saturation", short, short_outcome, simulate(short, costs)),
        Compared("1 s of sleep at 1.2 x the slots", sleeping, sleeping_outcome, simulate(sleeping, costs)),
    )
    return Validation(costs, meter.alone_ms, meter.saturation_per_s, compared)


def _say(words: str) -> None:
    print(f"simulate: {words}", file=sys.stderr, flush=True)
