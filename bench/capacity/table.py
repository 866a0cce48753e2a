"""Simulations as a Markdown table, a row each: what was varied, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from bench.capacity.costs import Costs
from bench.capacity.outcome import Outcome, Spread

HEADS = (
    "refused", "waited", "queue ms, p50 / p95 / p99", "latency ms, p50 / p95 / p99",
    "slots used", "workers' cores", "API", "NATS",
)  # fmt: skip


MEANINGS = {
    "client_s": "client, ms of a core",
    "api_s": "API",
    "nats_s": "NATS",
    "worker_s": "worker",
    "container_s": "container",
    "behind_s": "behind the answer",
    "idle_s": "ms without processor",
}


@dataclass(frozen=True)
class Row:
    """One simulation."""

    varied: Mapping[str, object]
    outcome: Outcome


def table(rows: Sequence[Row]) -> str:
    """Write the table; the last four columns say how busy each is."""
    heads = [*rows[0].varied, *HEADS]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [*map(_value, row.varied.values()), *_cells(row.outcome)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def costs_table(costs: Costs) -> str:
    """Write what a call costs."""
    ms = {MEANINGS[name]: f"{seconds * 1000:.2f}" for name, seconds in asdict(costs).items()}
    return f"| {' | '.join(ms)} |\n{'|---' * len(ms)}|\n| {' | '.join(ms.values())} |"


def _value(value: object) -> str:
    return "none" if value is None else f"{value:,.12g}" if isinstance(value, int | float) else str(value)


def _cells(outcome: Outcome) -> list[str]:
    used = outcome.used
    return [
        percent(outcome.refused_share),
        percent(outcome.waited / max(1, outcome.finished)),
        _spread(outcome.queue_ms) if outcome.finished else "none ended",
        _spread(outcome.latency_ms) if outcome.finished else "none ended",
        *(f"{used[what]:.0%}".replace("%", " %") for what in ("slots", "cores", "api", "nats")),
    ]


def percent(share: float) -> str:
    """Write a share: with one digit behind the point below ten percent, which a limit is chosen by."""
    return f"{share * 100:.{0 if share >= 0.1 else 1}f} %"


def _spread(spread: Spread) -> str:
    return " / ".join(f"{each:,.{0 if each >= 100 else 1}f}" for each in (spread.p50, spread.p95, spread.p99))
