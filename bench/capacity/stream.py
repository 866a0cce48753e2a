"""The work stream as the model has it: exact limits on one side, claims of free slots on the other."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

from bench.capacity.events import Cores, Loop, Then


@dataclass(slots=True)
class Worker:
    """A worker process: its event loop, and the cores that it shares with its containers."""

    loop: Loop
    cores: Cores
    free: int


class Stream:
    """
    The work stream, or one shard of it. M and U count what waits and what runs; the first that waits is claimed first,
    by the workers in turn that have a free slot.
    """

    def __init__(self, nats: Cores, *, limit: float, user_limit: float) -> None:
        """It is empty, and has no workers; *nats* is where it is led."""
        self.nats = nats
        self._limit = limit
        self._user_limit = user_limit
        self._in_flight = 0
        self._of_user: Counter[int] = Counter()
        self._waiting: deque[Then] = deque()
        self._idle: deque[Worker] = deque()

    def join(self, worker: Worker) -> None:
        """Have a worker claim from here."""
        self._idle.append(worker)

    def refusal(self, user: int) -> str | None:
        """Admit a call, or say whose limit is reached."""
        if self._of_user[user] >= self._user_limit:  # NATS looks at the subject first
            return "user"
        if self._in_flight >= self._limit:
            return "platform"
        self._in_flight += 1
        self._of_user[user] += 1
        return None

    def claimed(self, then: Then) -> None:
        """Wait until a worker has claimed the call, which is what comes of it: a step."""
        self._waiting.append(then)
        self._hand_out()

    def acked(self, user: int) -> None:
        """Give a place back."""
        self._in_flight -= 1
        self._of_user[user] -= 1

    def slot_freed(self, worker: Worker) -> None:
        """Have a worker claim again."""
        worker.free += 1
        if worker.free == 1:
            self._idle.append(worker)
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and self._idle:
            worker = self._idle.popleft()
            worker.free -= 1
            if worker.free:
                self._idle.append(worker)
            self._waiting.popleft()(worker)
