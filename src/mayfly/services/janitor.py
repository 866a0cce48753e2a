"""
The janitor puts right what a crash left, in every API server, once a second.

It looks at what lies in the work stream, at most M messages, and compares each with its record: a message whose record
is final or gone is a slot that nobody gives back, so it is deleted; a queued record out of time is ended; a running
one whose worker is lost is ended.

Guarantees:
- The slot of a lost worker comes back when no container of it can live: when the worker is proved to be gone, or
  `FENCE_S` after its record was seen to have ended, while the worker and its watchdog allow it `LEASE_S`
  (`worker.lease`). That it is not heard of proves nothing.
- Several janitors do no harm: records change by compare-and-set, and a message is deleted only after it was read once
  more at its sequence, and found to be that one.
- The fence is measured by one monotonic clock, from when this janitor saw the record ended: whose clock is wrong, or
  who was just started, waits longer, never shorter.
- One that is slow to answer holds up no other, and the next sweep for `LOOK_S` at the most.
Rows: F11, F13.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import structlog

from mayfly.bus.codec import Undecodable
from mayfly.bus.connection import Bus
from mayfly.bus.places import Places, Taken
from mayfly.bus.queue import Inventory, Queued, delete_if_there, is_there
from mayfly.bus.store import Entry
from mayfly.bus.stores import Stores
from mayfly.domain.activation import Activation, State
from mayfly.domain.errors import QueueUnavailable
from mayfly.services.settle import OwnerCheck, is_proved_gone, settle_lost, settle_out_of_time

log = structlog.get_logger()

ACTIONS = ("slot-returned", "place-returned", "timed-out", "worker-lost")
EVERY_S = 1.0
YOUNG_S = 2.0  # a call in its first seconds is left to those who are busy with it, and so is one that just ended
LOOK_S = 5.0  # at one message; then it is left to the next sweep
LOOKS_AT_ONCE = 32
FENCE_S = 15.0
"""From the end of a record as `worker-lost` to the return of its slot: `domain.worker.LEASE_S`, and 3 s for what dies
slowly."""


@dataclass
class _Case:
    """What one janitor has seen of one activation, by its own monotonic clock."""

    owner: OwnerCheck
    over_at: float | None = None

    def has_been_over_for(self, seconds: float) -> bool:
        """Whether its record was final, or gone, at each look since so long ago. At the first look it is only now."""
        now = time.monotonic()
        self.over_at = self.over_at or now
        return now >= self.over_at + seconds


class Janitor:
    """One janitor."""

    def __init__(
        self, bus: Bus, stores: Stores, *, keep_s: float, on_action: Callable[[str], None] = lambda _: None
    ) -> None:
        """*keep_s* is how long a record is kept after its end; *on_action* is told each of `ACTIONS` as it is taken."""
        self._bus = bus
        self._records = stores.activations
        self._workers = stores.workers
        self._inventory = Inventory(bus)
        self._places = Places(bus)
        self._keep_s = keep_s
        self._on_action = on_action
        self._cases: dict[str, _Case] = {}
        self._room = asyncio.Semaphore(LOOKS_AT_ONCE)

    async def run(self) -> None:
        """Sweep for ever; while NATS cannot be reached there is nothing to put right."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.sweep()
            except QueueUnavailable as error:
                log.info("janitor.waiting", reason=error.detail)

    async def sweep(self) -> int:
        """
        Look at what lies in the stream; return how many messages were deleted.

        Raises: QueueUnavailable.
        """
        messages = await self._inventory.take()
        places = [taken async for taken in self._places.all_taken()]
        keys = {*(each.key for each in messages), *(each.holder for each in places)}
        self._cases = {key: self._cases.get(key) or _Case(OwnerCheck(self._bus)) for key in keys}
        due = [each for each in messages if self._age_s(each) > YOUNG_S]
        deleted = await asyncio.gather(*(self._look(each.key, partial(self._put_right, each)) for each in due))
        await asyncio.gather(*(self._look(each.holder, partial(self._free_if_over, each)) for each in places))
        return sum(deleted)

    async def _look(self, key: str, look: Callable[[_Case], Awaitable[bool]]) -> bool:
        """
        Do *look* in its time; return what it says. A record of a version that is unknown here is left to those who know
        it; what cannot be read now, to the next sweep.
        """
        async with self._room:
            try:
                async with asyncio.timeout(LOOK_S):
                    return await look(self._cases[key])
            except Undecodable as error:
                log.error("janitor.undecodable", activation=key, error=str(error))
            except (QueueUnavailable, TimeoutError) as error:
                log.warning("janitor.not-read", activation=key, error=repr(error))
        return False

    async def _put_right(self, queued: Queued, case: _Case) -> bool:
        """Return whether the message was deleted. Nearly all are gone when their record is seen to have ended."""
        was_over = case.over_at is not None
        if not await self._is_over(queued, case):
            if case.over_at is not None and not was_over and not await is_there(self._bus, queued):
                self._inventory.forget(queued)
            return False
        is_deleted = await delete_if_there(self._bus, queued)
        self._inventory.forget(queued)
        if not is_deleted:  # acked, or another janitor was faster
            return False
        log.warning("janitor.slot-returned", activation=queued.key, age_s=round(self._age_s(queued), 1))
        self._on_action("slot-returned")
        return True

    async def _free_if_over(self, taken: Taken, case: _Case) -> bool:
        """Free the place of an activation that is over: nobody did whose API server died, or whose worker was lost."""
        entry = await self._records.get(taken.holder)
        if not await self._slot_is_free(entry, case) and not await self._end_if_late(entry):
            return False
        if not await self._places.free(taken):  # somebody else was faster
            return False
        log.warning("janitor.place-returned", activation=taken.holder)
        self._on_action("place-returned")
        return True

    async def _is_over(self, queued: Queued, case: _Case) -> bool:
        entry = await self._records.get(queued.key)
        if await self._slot_is_free(entry, case):
            return True
        if entry is not None and entry.value.state is State.RUNNING:
            await self._end_if_lost(entry, case)
        return await self._end_if_late(entry)

    async def _slot_is_free(self, entry: Entry[Activation] | None, case: _Case) -> bool:
        """
        A worker acks within moments of its final write: older ones were left. A lost one's container may live on. And a
        record that is gone must be gone for a while: a server that was frozen while it was made, and has just woken up
        as what it takes for a leader, has not heard of it for some moments.
        """
        if entry is not None and not entry.value.state.is_final:
            case.over_at = None
            return False
        if entry is None or entry.value.state is not State.WORKER_LOST:
            return case.has_been_over_for(YOUNG_S)
        return case.has_been_over_for(FENCE_S) or await is_proved_gone(self._workers, entry.value.worker)

    def _age_s(self, queued: Queued) -> float:
        return self._bus.clock.now() - queued.stored_at

    async def _end_if_late(self, entry: Entry[Activation] | None) -> bool:
        """End a queued one that is out of time. It may hold a place only: its API server died before the message."""
        if entry is None or entry.value.state is not State.QUEUED:
            return False
        if self._bus.clock.now() < entry.value.deadline_at + YOUNG_S:
            return False
        ended = await settle_out_of_time(self._records, entry, keep_s=self._keep_s) is not None
        if ended:
            self._on_action("timed-out")
        return ended

    async def _end_if_lost(self, entry: Entry[Activation], case: _Case) -> None:
        if await case.owner.is_lost(entry.value) and await settle_lost(self._records, entry, keep_s=self._keep_s):
            self._on_action("worker-lost")
