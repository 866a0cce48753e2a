"""What was aimed at, and whether this run reached it. Nothing fails because of it: a machine may be busy or slow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.labels import OURS
from bench.summary import best_per_s, p50_ms


@dataclass(frozen=True, slots=True)
class Goal:
    """A number that is to be at most, or at least, another one. Not measured is None."""

    words: str
    bound: float
    unit: str
    measured: float | None
    at_least: bool = False

    @property
    def reached(self) -> bool | None:
        """Whether it was; None when it was not measured."""
        if self.measured is None:
            return None
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound


def goals(found: Mapping[str, Any], runtime: str) -> list[Goal]:
    """Hold what was measured with one runtime against the goals."""
    contenders, name = found["contenders"], f"{OURS}{runtime}"
    hot, rate = contenders[name]["1"], best_per_s(contenders, name)
    rest = found["at_rest"][runtime]["memory"]
    faster, more = "one at a time, times as fast as", "many at once, times the rate of"
    return [
        Goal("one at a time, p50", 6, "ms", hot["p50_ms"]),
        Goal("one at a time, p99", 12, "ms", hot["p99_ms"]),
        Goal(f"{faster} `docker run`", 40, "x", _ratio(p50_ms(contenders, "docker"), hot["p50_ms"]), at_least=True),
        Goal(f"{faster} the Engine API", 25, "x", _ratio(p50_ms(contenders, "engine"), hot["p50_ms"]), at_least=True),
        Goal("first call, p50", 6.5, "ms", found["cold"][runtime]["p50_ms"]),
        Goal(f"{more} bare `crun run`", 1, "x", _ratio(rate, best_per_s(contenders, "crun")), at_least=True),
        Goal(f"{more} `docker run`", 25, "x", _ratio(rate, best_per_s(contenders, "docker")), at_least=True),
        Goal("1 MiB in and out, p50", 40, "ms", found["kinds"][name]["1 MiB"]["p50_ms"]),
        Goal("API server at rest, proportional set size", 120, "MiB", rest["api"]["pss_mib"]),
        Goal("worker at rest, proportional set size", 120, "MiB", rest["worker"]["pss_mib"]),
    ]


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other is not None else None
