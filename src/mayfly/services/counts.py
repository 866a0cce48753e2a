"""
How many things of a kind each user has, from which it follows how long the next one is kept (`domain.lifetime`).

nats-server counts, tombstones included, and what it said is remembered here with what was added since. For while it
counts, whoever writes to that bucket waits, and whoever reads behind him: 10 ms with 10,000 entries, 150 ms with
100,000. So who makes things again and again, or refreshes one, does not have it count each time: a user is counted when
he is new here, after so many more, and once in a while when he has many; never twice at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import structlog

from mayfly.bus.store import Store
from mayfly.domain.ids import UserId
from mayfly.domain.lifetime import Lifetime

log = structlog.get_logger()

COUNTS_IN = 32  # parts of the most: so many added here, and a user is counted again
COUNTED_AGAIN_S = 300.0  # later, while what he makes is kept shorter: some of it has expired
USERS_AT_MOST = 10_000  # in memory; others are counted at their next


@dataclass(slots=True)
class Count:
    """What one user has, as far as it is known here."""

    counted: int = 0
    since: int = 0  # added here since it was counted
    at: float | None = None  # when, by the monotonic clock
    counting: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def present(self) -> int:
        return self.counted + self.since


class Counts:
    """The counts of all users, for one API server."""

    def __init__(self, lifetime: Lifetime, stores: dict[str, Store[Any]]) -> None:
        """Count in these *stores*, by what they hold; the largest number holds."""
        self._lifetime = lifetime
        self._stores = stores
        self._counts: OrderedDict[UserId, Count] = OrderedDict()

    def of(self, user_id: UserId) -> Count:
        """Return what is known of a user."""
        count = self._counts.get(user_id)
        if count is None:
            if len(self._counts) >= USERS_AT_MOST:
                self._counts.popitem(last=False)
            count = self._counts[user_id] = Count()
        self._counts.move_to_end(user_id)
        return count

    def is_due(self, user_id: UserId) -> bool:
        """Whether a user is to be counted again."""
        count = self.of(user_id)
        if count.at is None or count.since * COUNTS_IN >= self._lifetime.most:
            return True
        return self._lifetime.is_short(count.present) and time.monotonic() - count.at >= COUNTED_AGAIN_S

    def add(self, user_id: UserId) -> float:
        """Say how long a user's next is to be kept, in seconds, and count it."""
        count = self.of(user_id)
        keep_s = self._lifetime.of_next(count.present)
        count.since += 1
        return keep_s

    async def settle(self, user_id: UserId) -> None:
        """
        Have a user counted who is due.

        Raises: QueueUnavailable; what was known then holds.
        """
        count = self.of(user_id)
        async with count.counting:
            if self.is_due(user_id):
                await self._count(user_id, count)

    async def _count(self, user_id: UserId, count: Count) -> None:
        before = count.since
        found = {what: await store.count_below(user_id) for what, store in self._stores.items()}
        count.counted, count.since, count.at = max(found.values()), count.since - before, time.monotonic()
        if self._lifetime.is_short(count.present):
            keep_s = round(self._lifetime.of_next(count.present))
            log.warning("lifetimes.short", user=user_id, **found, keep_s=keep_s)
