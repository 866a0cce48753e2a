"""
Simulated time: a clock, and what takes time on it.

What happens is told as stories: generators that yield a step, and go on when it is over. A step is a function that
begins something and takes what it is to call at its end. Why no library: docs/adr/2026-12-01-stories-on-a-heap.md.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from heapq import heappop, heappush
from typing import Any, TypeAlias

Then: TypeAlias = Callable[..., None]
Step: TypeAlias = Callable[[Then], None]
Story: TypeAlias = Generator[Step, Any, None]


def follow(story: Story, outcome: object = None) -> None:
    """Go on with a story until its next step has begun; *outcome* is what the step before came to."""
    try:
        step = story.send(outcome)
    except StopIteration:
        return
    step(partial(follow, story))


class Clock:
    """The simulated time in seconds, and what is to happen."""

    def __init__(self) -> None:
        """It is 0, and nothing is planned."""
        self.now = 0.0
        self._events: list[tuple[float, int, Then]] = []
        self._numbers = itertools.count()  # events of one moment happen in the order in which they were planned

    def at(self, at_s: float, then: Then) -> None:
        """Have something happen then; at once, if that is over."""
        heappush(self._events, (max(at_s, self.now), next(self._numbers), then))

    def until(self, at_s: float) -> Step:
        """Let time pass until then: a step."""
        return partial(self.at, at_s)

    def sleep(self, delay_s: float) -> Step:
        """Let so much time pass: a step."""
        return partial(self.at, self.now + delay_s)

    def run(self, until_s: float) -> None:
        """Have everything happen up to then."""
        while self._events and self._events[0][0] <= until_s:
            self.now, _, then = heappop(self._events)
            then()
        self.now = until_s


class Level:
    """A number that changes with time, and its integral: slots in use, in slot-seconds."""

    def __init__(self, clock: Clock) -> None:
        """It is 0."""
        self._clock = clock
        self._value = 0
        self._since = 0.0
        self._integral = 0.0

    def add(self, change: int) -> None:
        """Change it now."""
        self._integral, self._since = self.integral, self._clock.now
        self._value += change

    @property
    def integral(self) -> float:
        """From the beginning until now."""
        return self._integral + self._value * (self._clock.now - self._since)


class Cores:
    """
    Processor cores that all who compute share evenly, each on one core at most, as the kernel does it.

    Guarantees: each works at the rate min(1, cores / those who compute), *others* among these, who always do. `_given`
    is what somebody would have got who computes from the beginning; who comes now is done when it has grown by his own
    work, so that one heap of these targets is the order of ends whatever the rate does meanwhile.
    """

    def __init__(self, clock: Clock, cores: float, *, others: float = 0.0) -> None:
        """Nobody of ours computes."""
        self._clock = clock
        self._cores = cores
        self._others = others
        self._jobs: list[tuple[float, int, Then]] = []
        self._numbers = itertools.count()
        self._given = 0.0
        self._used_s = 0.0
        self._rate = 0.0
        self._since = 0.0
        self._plan = 0  # the number of the one planned end that counts: those planned before are void

    @property
    def used_s(self) -> float:
        """Seconds of a core that ours have computed until now."""
        return self._used_s + self._rate * len(self._jobs) * (self._clock.now - self._since)

    def work(self, cpu_s: float) -> Step:
        """Compute for so many seconds of a core: a step."""
        return partial(self._begin, cpu_s)

    def _begin(self, cpu_s: float, then: Then) -> None:
        self._catch_up()
        heappush(self._jobs, (self._given + cpu_s, next(self._numbers), then))
        self._plan_next_end()

    def _catch_up(self) -> None:
        self._used_s = self.used_s
        self._given += self._rate * (self._clock.now - self._since)
        self._since = self._clock.now

    def _plan_next_end(self) -> None:
        self._plan += 1
        if self._jobs:
            self._rate = min(1.0, self._cores / (len(self._jobs) + self._others))
            left_s = self._jobs[0][0] - self._given
            self._clock.at(self._clock.now + left_s / self._rate, partial(self._end, self._plan))
        else:
            self._rate = 0.0

    def _end(self, plan: int) -> None:
        if plan != self._plan:
            return
        self._catch_up()
        _, _, then = heappop(self._jobs)
        self._plan_next_end()
        then()


class Loop:
    """A process that does one thing after the other, as an event loop does, on cores that it may share with others."""

    def __init__(self, cores: Cores) -> None:
        """It has nothing to do."""
        self._cores = cores
        self._waiting: deque[tuple[float, Then]] = deque()
        self._is_busy = False

    def work(self, cpu_s: float) -> Step:
        """Do something that takes so many seconds of a core, when it is its turn: a step."""
        return partial(self._queue, cpu_s)

    def _queue(self, cpu_s: float, then: Then) -> None:
        self._waiting.append((cpu_s, then))
        if not self._is_busy:
            self._begin_next()

    def _begin_next(self) -> None:
        self._is_busy = True
        cpu_s, then = self._waiting.popleft()
        self._cores.work(cpu_s)(partial(self._end, then))

    def _end(self, then: Then) -> None:
        self._is_busy = False
        if self._waiting:
            self._begin_next()
        then()
