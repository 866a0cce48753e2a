"""
What was measured, as figures: blocks of calls, and what several blocks of the same kind come to.

Latencies are in milliseconds. The p50 is the median of the rounds' medians, so that one bad round does not make it;
p95 and p99 are those of all calls of all rounds, as one round has too few for them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Block:
    """Calls that were made in one go, so many at once."""

    times_ms: list[float]
    seconds: float
    cpu_s: dict[str, float] = field(default_factory=dict)
    """Processor seconds of all these calls, by whose they were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the blocks of all rounds come to."""

    calls: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    per_s: float
    rounds_p50_ms: list[float]
    rounds_per_s: list[float]
    cpu_ms: dict[str, float]
    """Processor milliseconds of one call, by whose they were."""

    @classmethod
    def of(cls, blocks: Sequence[Block]) -> Figures:
        """Add up the blocks of all rounds."""
        times = [each for block in blocks for each in block.times_ms]
        medians = [statistics.median(block.times_ms) for block in blocks]
        rates = [len(block.times_ms) / block.seconds for block in blocks]
        whose = {name: None for block in blocks for name in block.cpu_s}  # a dict keeps the order
        return cls(
            calls=len(times),
            p50_ms=statistics.median(medians),
            p95_ms=percentile(times, 0.95),
            p99_ms=percentile(times, 0.99),
            per_s=statistics.median(rates),
            rounds_p50_ms=medians,
            rounds_per_s=rates,
            cpu_ms={name: sum(block.cpu_s.get(name, 0) for block in blocks) * 1e3 / len(times) for name in whose},
        )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least so large a *share* of all does not exceed (nearest rank)."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]
