"""Loads as they were beside loads as they were simulated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.capacity.costs import Costs
from bench.capacity.outcome import Outcome
from bench.capacity.plan import Plan
from bench.capacity.table import percent

QUIET_OTHERS = 0.2
NOISY = "**That is too many others for short calls to prove anything: measure it again where nothing else runs.**"


@dataclass(frozen=True)
class Compared:
    """One load, as it was and as it was simulated."""

    load: str
    plan: Plan
    real: Outcome
    model: Outcome


@dataclass(frozen=True)
class Validation:
    """Both loads, and what calls cost meanwhile."""

    costs: Costs
    alone_ms: float
    saturation_per_s: float
    compared: tuple[Compared, ...]

    @property
    def is_quiet(self) -> bool:
        """Whether hardly anybody else computed on the machine."""
        return all(each.plan.others <= QUIET_OTHERS for each in self.compared)


@dataclass(frozen=True)
class Figure:
    """Something that is compared."""

    name: str
    of: Callable[[Outcome], float]
    is_time: bool = False

    def row(self, compared: Compared) -> str:
        """Write real, model, and the model's error in percent of what was real."""
        real, model = self.of(compared.real), self.of(compared.model)
        error = f"{(model - real) / real:+.0%}".replace("%", " %") if real else "-"
        shown = [f"{each:,.1f} ms" if self.is_time else percent(each) for each in (real, model)]
        return f"| {compared.load} | {self.name} | {shown[0]} | {shown[1]} | {error} |"


SHARES = (
    Figure("refused", lambda outcome: outcome.refused_share),
    Figure("slots in use", lambda outcome: outcome.used["slots"]),
    Figure("cores in use", lambda outcome: outcome.used["cores"]),
)
LATENCY = (
    Figure("latency, p50", lambda outcome: outcome.latency_ms.p50, is_time=True),
    Figure("latency, p95", lambda outcome: outcome.latency_ms.p95, is_time=True),
    Figure("latency, p99", lambda outcome: outcome.latency_ms.p99, is_time=True),
)
QUEUE = (
    Figure("wait for a slot, p50", lambda outcome: outcome.queue_ms.p50, is_time=True),
    Figure("wait for a slot, p95", lambda outcome: outcome.queue_ms.p95, is_time=True),
)


def table(validation: Validation) -> str:
    """Write real beside model. Where nobody waits for a slot, that time is left out: it is 0 in the model only."""
    rows = [
        figure.row(compared)
        for compared in validation.compared
        for figure in (*SHARES, *(QUEUE if compared.model.queue_ms.p50 else ()), *LATENCY)
    ]
    return "\n".join(["| load | figure | real | model | error |", "|---|---|---|---|---|", *rows])


def conditions(validation: Validation) -> str:
    """Say what the table holds for."""
    costs, cores = validation.costs, validation.compared[0].plan.cores
    arrived = " and ".join(f"{each.real.arrived:,}" for each in validation.compared)
    others = " and ".join(f"{each.plan.others:.1f}" for each in validation.compared)
    return (
        f"{arrived} calls on {cores:g} cores, on which {others} processes of others computed meanwhile, on average. "
        f"Alone a call took {validation.alone_ms:.1f} ms. At saturation its processor time was {costs.cpu_s * 1e3:.1f} "
        f"ms, and {validation.saturation_per_s:.0f}/s went through.{'' if validation.is_quiet else f' {NOISY}'}"
    )
