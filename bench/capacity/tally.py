"""What is counted while a simulation runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.capacity.events import Clock
from bench.capacity.outcome import Outcome, Spread


@dataclass(frozen=True, slots=True)
class Meter:
    """How much of something was used until now, such as seconds of a core, and how much of it there is each second."""

    used: Callable[[], float]
    there: float


class Tally:
    """Counts the calls that begin after the warm-up, and reads the meters from then on."""

    def __init__(self, clock: Clock, meters: Mapping[str, Meter], *, counted_from_s: float) -> None:
        """Nothing has happened."""
        self._clock = clock
        self._meters = meters
        self._counted_from_s = counted_from_s
        self._before: dict[str, float] = {}
        self._arrived = 0
        self._in_flight = 0
        self._refused: Counter[str] = Counter()
        self._queue_s: list[float] = []
        self._latency_s: list[float] = []
        clock.at(counted_from_s, self._begin)

    def _begin(self) -> None:
        self._before = {name: meter.used() for name, meter in self._meters.items()}

    def arrived(self) -> float:
        """Count a call that begins; return when."""
        if self._clock.now >= self._counted_from_s:
            self._arrived += 1
            self._in_flight += 1
        return self._clock.now

    def answered(self, began: float, refusal: str | None, queue_s: float) -> None:
        """Count the end of a call, which was refused for *refusal* or waited *queue_s* for its slot."""
        if began < self._counted_from_s:
            return
        self._in_flight -= 1
        if refusal:
            self._refused[refusal] += 1
        else:
            self._queue_s.append(queue_s)
            self._latency_s.append(self._clock.now - began)

    def outcome(self) -> Outcome:
        """Sum up."""
        time_s = self._clock.now - self._counted_from_s
        return Outcome(
            arrived=self._arrived,
            refused={scope: self._refused[scope] for scope in ("platform", "user")},
            finished=len(self._latency_s),
            in_flight=self._in_flight,
            waited=sum(queue_s > 0 for queue_s in self._queue_s),
            queue_ms=Spread.of(self._queue_s),
            latency_ms=Spread.of(self._latency_s),
            used={
                name: (meter.used() - self._before[name]) / time_s / meter.there for name, meter in self._meters.items()
            },
        )
