"""What came of a simulation: refusals, times, and how busy everything was."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Mean and percentiles, in milliseconds; all 0 where there is nothing."""

    mean: float
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Spread:
        """Describe some times."""
        ms = sorted(each * 1000 for each in seconds) or [0.0]
        p50, p95, p99 = (ms[min(len(ms) - 1, int(len(ms) * share))] for share in (0.5, 0.95, 0.99))
        return cls(sum(ms) / len(ms), p50, p95, p99)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of the calls that arrived after the warm-up. `arrived = refused + finished + in_flight`."""

    arrived: int
    refused: dict[str, int]  # by whose limit: platform or user
    finished: int
    in_flight: int  # when the time was over
    waited: int  # of the finished: how many found no free slot
    queue_ms: Spread  # until a slot was free
    latency_ms: Spread  # from client to client
    used: dict[str, float]  # shares: of the slots, of the workers' cores, and by each role of the cores that it runs on

    @property
    def refused_share(self) -> float:
        """Of all that arrived."""
        return sum(self.refused.values()) / max(1, self.arrived)
