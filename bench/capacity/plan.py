"""
What is simulated: an installation and its load. Each field says once what it may be: for the command line, for the
check, and for the message when it is something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

DISTRIBUTIONS = ("fixed", "exponential", "lognormal")
CALLS_AT_MOST = 5_000_000
"""In one simulation: some five minutes of a core."""


class BadInput(ValueError):
    """An input that cannot be simulated; the text names it, says what it may be, and what to do."""


def number(default: float, least: float, most: float, meaning: str) -> Any:
    """Declare a number from *least* to *most*."""
    return field(default=default, metadata={"kind": float, "least": least, "most": most, "meaning": meaning})


def whole(default: int | None, least: int, most: int, meaning: str) -> Any:
    """Declare a whole number from *least* to *most*; with the default None there may be none."""
    return field(default=default, metadata={"kind": int, "least": least, "most": most, "meaning": meaning})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """
    An installation and its load.

    Raises: BadInput.
    """

    rate_per_s: float = number(50.0, 0.001, 1_000_000, "calls a second, on average")
    burst: int = whole(1, 1, 100_000, "calls that one user makes at once; bursts come at random (Poisson)")
    users: int = whole(100, 1, 1_000_000, "users, who call equally often")
    duration_ms: float = number(0.0, 0, 300_000, "how long a function takes on an idle core, on average")
    distribution: str = field(
        default="fixed", metadata={"choices": DISTRIBUTIONS, "meaning": "how its durations are distributed"}
    )
    spread: float = number(1.0, 0.01, 100, "of lognormal durations: standard deviation / mean")
    cpu_share: float = number(0.0, 0, 1, "the share of the duration that computes; the rest waits")

    workers: int = whole(1, 1, 100_000, "worker processes")
    slots: int = whole(8, 1, 4096, "slots of each worker (MAYFLY_SLOTS)")
    cores: float = number(2.0, 0.01, 4096, "cores of each worker")
    others: float = number(0.0, 0, 10_000, "processes of others that always compute on each worker's cores")
    apis: int = whole(1, 1, 10_000, "API servers, each on a core of its own")
    nats_cores: float = number(2.0, 0.01, 4096, "cores of the nats-server that leads the streams, or a shard of them")
    shards: int = whole(1, 1, 10_000, "shards that the users are spread over; workers and M are split evenly")
    max_activations: int | None = whole(None, 1, 100_000_000, "M, waiting and running, in all")
    max_per_user: int | None = whole(None, 1, 100_000_000, "U, of one user")
    admission_wait_ms: float = number(150.0, 0, 5000, "how long a full stream is asked again")
    one_machine: bool = field(
        default=False,
        metadata={"meaning": "all, the clients included, share the cores of the one worker, as with `mayfly up`"},
    )

    seconds: float = number(60.0, 0.001, 1_000_000, "simulated time")
    warm_up_s: float = number(5.0, 0, 1_000_000, "how much of it at the beginning is not counted")
    seed: int = whole(1, 0, 2**63, "of the random numbers: the same seed gives the same outcome")

    def __post_init__(self) -> None:
        """Check each field, and then what must fit together."""
        for each in fields(self):
            _check(each, getattr(self, each.name))
        for problem in self._misfits():
            raise BadInput(problem)

    def _misfits(self) -> Iterator[str]:
        if self.warm_up_s >= self.seconds:
            yield f"warm_up_s is {self.warm_up_s:g} and must be below seconds, {self.seconds:g}: simulate for longer"
        if self.shards > self.workers:
            yield (
                f"shards is {self.shards} and must be at most workers, {self.workers}, as each shard has workers of "
                "its own: take fewer shards or more workers"
            )
        if self.max_activations is not None and self.shards > self.max_activations:
            yield (
                f"max_activations is {self.max_activations} and must be at least shards, {self.shards}, over which it "
                "is split: raise it or take fewer shards"
            )
        if self.one_machine and self.workers > 1:
            yield f"workers is {self.workers} and must be 1 with one_machine: give the one more slots and cores"
        if (calls := self.rate_per_s * self.seconds) > CALLS_AT_MOST:
            yield (
                f"rate_per_s x seconds is {calls:,.0f} calls and must be at most {CALLS_AT_MOST:,}: simulate a shorter "
                "time; the more calls a second, the less of it is needed"
            )

    @classmethod
    def read(cls, words: Mapping[str, str | bool]) -> Plan:
        """
        Make a plan of what was typed, by field.

        Raises: BadInput.
        """
        return cls(**{each.name: _read(each, words[each.name]) for each in fields(cls) if each.name in words})


def _read(of: Field[Any], word: str | bool) -> Any:
    kind = of.metadata.get("kind")
    if kind is None or isinstance(word, bool):
        return word
    if word == "none" and of.default is None:
        return None
    try:
        return kind(word)
    except ValueError:
        kind_name = "a whole number" if kind is int else "a number"
        raise BadInput(f"{of.name} is {word!r} and must be {kind_name}: write it in digits, without a unit") from None


def _check(of: Field[Any], value: Any) -> None:
    may_be = of.metadata
    if "choices" in may_be and value not in may_be["choices"]:
        raise BadInput(f"{of.name} is {value!r} and must be one of: {', '.join(may_be['choices'])}")
    if "least" not in may_be or (value is None and of.default is None):
        return
    least, most = may_be["least"], may_be["most"]
    if not least <= value <= most:  # so is what is no number
        remedy = "lower" if value > most else "raise"
        raise BadInput(f"{of.name} is {value:,.12g} and must be from {least:,.12g} to {most:,.12g}: {remedy} it")
