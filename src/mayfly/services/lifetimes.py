"""
How long what a call leaves is kept: record, result, logs and Idempotency-Key. The more of them a user has, the shorter.

Without it the store would be whose calls are the most: some 50 a second for a day fill it, and then nobody's are taken.
The time is set as a call is admitted, from memory, so it costs a call nothing; whoever ends the call keeps to it. How
many records and keys a user has, tombstones included, is counted by nats-server, beside the calls: at his first one
here, after so many more, and once in a while when he has many.

Guarantees:
- one user has no more than `most` records, and as many keys, but for what he makes in `SHORTEST_S`, and for what other
  API servers have admitted since they were counted: `most / COUNTS_IN` for each server;
- that holds for any number of API servers, and after they were started anew, as nothing is counted in memory only;
- an activation has a record for longer than a key without one is carried on (`services.idempotency`), so the shortest
  time lets nothing run twice; a record of a call that is in flight is never shortened;
- while NATS does not count, what was counted last holds, and what was admitted here since.
"""

from __future__ import annotations

import asyncio

import structlog

from mayfly.bus.stores import Stores
from mayfly.domain.errors import QueueUnavailable
from mayfly.domain.ids import UserId
from mayfly.domain.lifetime import Lifetime
from mayfly.services.counts import Counts
from mayfly.services.idempotency import ADOPT_UNTIL_S

log = structlog.get_logger()

SHORTEST_S = ADOPT_UNTIL_S
"""Not a moment less: a key whose record is gone before is taken for one whose call was never begun, and run again."""

RETRY_S = 1.0


class Lifetimes:
    """The lifetimes of all users, for one API server."""

    def __init__(self, stores: Stores, *, keep_s: float, most: int) -> None:
        """*keep_s* is how long records are kept at the longest, *most* how many of them one user may have."""
        lifetime = Lifetime(longest_s=keep_s, shortest_s=SHORTEST_S, most=most)
        self._counts = Counts(lifetime, {"records": stores.activations, "idempotency_keys": stores.idempotency})
        self._due: dict[UserId, None] = {}
        self._news = asyncio.Event()

    def of_next(self, user_id: UserId) -> float:
        """Say how long what the next call of a user leaves is to be kept, in seconds, and count that call."""
        if self._counts.is_due(user_id):
            self._due[user_id] = None
            self._news.set()
        return self._counts.add(user_id)

    async def run(self) -> None:
        """Count those who are due, for ever; what NATS does not say now it is asked again."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self.settle()
            except QueueUnavailable as error:
                log.info("lifetimes.waiting", reason=error.detail)
                await asyncio.sleep(RETRY_S)
                self._news.set()

    async def settle(self) -> None:
        """
        Count what each has who is due.

        Raises: QueueUnavailable; who was not counted then is the next time.
        """
        while self._due:
            user_id = next(iter(self._due))
            await self._counts.settle(user_id)
            del self._due[user_id]
