"""
The janitor puts right what a crash left, in every API server, once a second.

It walks the work stream, which holds at most M messages, and compares each with its record: a message whose record is
final or gone is a slot that nobody gives back, so it is deleted; a queued record out of time is ended; a running one
whose worker is lost is ended, and its slot given back only after `FENCE_S`, when a dead worker's container is gone.
Several janitors do no harm: records change by compare-and-set, and a message is deleted by the sequence at which just
that message was read. Rows: F11, F13.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from mayfly.bus.codec import Undecodable
from mayfly.bus.connection import Bus
from mayfly.bus.places import Places
from mayfly.bus.queue import Queued, delete_queued, walk
from mayfly.bus.store import Entry
from mayfly.bus.stores import Stores
from mayfly.domain.activation import Activation, State
from mayfly.domain.errors import QueueUnavailable
from mayfly.services.settle import OwnerCheck, settle_lost, settle_out_of_time

log = structlog.get_logger()

ACTIONS = ("slot-returned", "place-returned", "timed-out", "worker-lost")
EVERY_S = 1.0
YOUNG_S = 2.0  # a call in its first seconds is left to those who are busy with it
FENCE_S = 15.0
"""From the loss of a worker to the return of its slot. A dead worker has taken its containers along long before. One
that is frozen, or cut off from NATS, has not: until a watchdog sees to that, its containers end at their own limits, or
when it comes back and finds the record settled."""


class Janitor:
    """One janitor."""

    def __init__(
        self, bus: Bus, stores: Stores, *, keep_s: float, on_action: Callable[[str], None] = lambda _: None
    ) -> None:
        """*keep_s* is how long a record is kept after its end; *on_action* is told each of `ACTIONS` as it is taken."""
        self._bus = bus
        self._records = stores.activations
        self._places = Places(bus)
        self._keep_s = keep_s
        self._on_action = on_action
        self._owners: dict[str, OwnerCheck] = {}

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
        Walk the stream once; return how many messages were deleted.

        Raises: QueueUnavailable.
        """
        deleted = 0
        seen: set[str] = set()
        async for queued in walk(self._bus):
            seen.add(queued.key)
            if queued.age_s > YOUNG_S and await self._is_over_if_readable(queued):
                await delete_queued(self._bus, queued.seq)
                log.warning("janitor.slot-returned", activation=queued.key, age_s=round(queued.age_s, 1))
                self._on_action("slot-returned")
                deleted += 1
        self._owners = {key: check for key, check in self._owners.items() if key in seen}
        await self._free_places()
        return deleted

    async def _free_places(self) -> None:
        """Free the places of activations that are over: nobody did whose API server died, or whose worker was lost."""
        async for taken in self._places.all_taken():
            entry = await self._records.get(taken.holder)
            if entry is None or (entry.value.state.is_final and self._slot_is_free(entry.value)):
                await self._places.free(taken)
                log.warning("janitor.place-returned", activation=taken.holder)
                self._on_action("place-returned")

    async def _is_over_if_readable(self, queued: Queued) -> bool:
        """A record of a version that is unknown here is left to those who know it, and holds up no other."""
        try:
            return await self._is_over(queued)
        except Undecodable as error:
            log.error("janitor.undecodable", activation=queued.key, error=str(error))
            return False

    async def _is_over(self, queued: Queued) -> bool:
        entry = await self._records.get(queued.key)
        if entry is None:
            return True
        if entry.value.state.is_final:
            return self._slot_is_free(entry.value)
        if entry.value.state is State.QUEUED:
            return await self._end_if_late(entry)
        await self._end_if_lost(entry)
        return False

    async def _end_if_late(self, entry: Entry[Activation]) -> bool:
        if self._bus.clock.now() < entry.value.deadline_at + YOUNG_S:
            return False
        ended = await settle_out_of_time(self._records, entry, keep_s=self._keep_s) is not None
        if ended:
            self._on_action("timed-out")
        return ended

    async def _end_if_lost(self, entry: Entry[Activation]) -> None:
        check = self._owners.setdefault(entry.key, OwnerCheck(self._bus))
        if await check.is_lost(entry.value) and await settle_lost(self._records, entry, keep_s=self._keep_s):
            self._on_action("worker-lost")

    def _slot_is_free(self, record: Activation) -> bool:
        """A worker acks within moments of its final write: older ones were left. A lost one's container may live on."""
        fence = FENCE_S if record.state is State.WORKER_LOST else YOUNG_S
        return self._bus.clock.now() > (record.ended_at or record.deadline_at) + fence
