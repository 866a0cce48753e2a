"""One call as it arrives at an API server, before there is a record of it. Rows: F7, F12, F13."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

from mayfly.bus.subjects import places_of
from mayfly.domain.function import Function
from mayfly.domain.ids import UserId

OF_THE_USER = "user"  # in the key of a place, where a function's id stands else


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """What a caller says about one call, and what is known of the caller."""

    timeout_s: float | None = None  # shortens the function's own, never lengthens it
    traceparent: str | None = None
    received_at: float | None = None  # time.monotonic() when the request arrived: the budget runs from there
    idempotency_key: str | None = None
    user_limit: int | None = None  # of this user's activations in flight, below the limit for every user


PLAIN = CallOptions()


class Call:
    """One call, as it arrived."""

    def __init__(self, owner: UserId, function: Function, parameter: bytes, options: CallOptions = PLAIN) -> None:
        """Put it together; it begins now unless the options say when."""
        self.owner = owner
        self.function = function
        self.options = options
        self.began = options.received_at if options.received_at is not None else time.monotonic()
        """By time.monotonic()."""
        self._parameter: bytes | None = parameter

    @property
    def parameter(self) -> bytes:
        """What the function is given. Not to be had any more once it was let go of."""
        if self._parameter is None:
            raise RuntimeError("the parameter lies in the queue, and nowhere else")
        return self._parameter

    def let_go_of_parameter(self) -> None:
        """Forget it, as it lies in the queue: it may have 1 MiB, and there may be many who wait for long."""
        self._parameter = None

    @property
    def budget_s(self) -> float:
        """How long it may take, from its arrival to its end."""
        return min(self.function.limits.timeout_s, self.options.timeout_s or math.inf)

    @property
    def deadline(self) -> float:
        """When its time is over, by time.monotonic()."""
        return self.began + self.budget_s

    def counted_limits(self) -> Iterator[tuple[str, str, int]]:
        """The limits that count by places: whose, how its keys begin, how many."""
        if self.options.user_limit is not None:
            yield "user", places_of(self.owner, OF_THE_USER), self.options.user_limit
        if self.function.limits.max_concurrency is not None:
            yield "function", places_of(self.owner, self.function.id), self.function.limits.max_concurrency
