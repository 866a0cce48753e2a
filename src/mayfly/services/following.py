"""
Following an activation to its end, by whichever API server: hearing of it, and looking for it at growing intervals.

Who follows also sees to an end that nobody else would bring about: of a queued activation whose time is over, and of a
running one whose worker is lost. Rows: F12.
"""

from __future__ import annotations

import asyncio
import time

from mayfly.bus.connection import Bus
from mayfly.bus.responses import Waiter
from mayfly.bus.stores import Stores
from mayfly.domain.activation import Activation, State
from mayfly.domain.errors import QueueUnavailable
from mayfly.services.settle import OwnerCheck, settle_lost, settle_out_of_time

FIRST_LOOK_S = 0.25  # the end is heard, normally; from here on it is also looked for
LOOKS_GROW_BY = 1.5
LOOK_AT_MOST_EVERY_S = 0.75
SILENT_LOOK_S = 0.1
"""
Until a silent worker is asked again. Of the 5 s that are promised this is all but one: 0.75 s until it is asked first,
three questions that go unanswered for a second each, and these two pauses.
"""
OUTAGE_S = 10.0  # how long past a call's deadline an outage of NATS is sat out
UNTOLD = "The queue was lost while the activation was under way; its record will say how it ended."


class Follower:
    """Follows activations for one API server."""

    def __init__(self, bus: Bus, stores: Stores, *, keep_s: float) -> None:
        """*keep_s* is how long records are kept after their end."""
        self._bus = bus
        self._records = stores.activations
        self._keep_s = keep_s

    async def end(self, waiter: Waiter, key: str, *, deadline: float, looked_for: bool = True) -> Activation:
        """
        Wait for the final record: heard as it is written, and looked for. *deadline* is that of the call which waits,
        by time.monotonic(), and bounds an outage; the activation's own stands in its record. Without *looked_for*
        nothing was missed so far.

        Raises: QueueUnavailable with `ran="unknown"` when that cannot be learned until `OUTAGE_S` after the deadline.
        """
        owner_check = OwnerCheck(self._bus)
        pause = 0.0 if looked_for else FIRST_LOOK_S
        while True:
            try:
                async with asyncio.timeout(pause):
                    return await asyncio.shield(waiter.final)
            except TimeoutError:
                pause = min(max(pause, FIRST_LOOK_S) * LOOKS_GROW_BY, LOOK_AT_MOST_EVERY_S)
            now, in_doubt_s = time.monotonic(), FIRST_LOOK_S
            try:
                if final := await self._look(key, owner_check):
                    return final
                if owner_check.is_silent:
                    in_doubt_s = SILENT_LOOK_S
            except QueueUnavailable as error:
                if now > deadline + OUTAGE_S:
                    raise QueueUnavailable(UNTOLD, ran="unknown") from error
            if owner_check.is_in_doubt:
                pause = in_doubt_s

    async def _look(self, key: str, owner_check: OwnerCheck) -> Activation | None:
        """Read the record, and end it if nobody else will."""
        entry = await self._records.get(key)
        if entry is None:
            raise QueueUnavailable(UNTOLD, ran="unknown")
        if entry.value.state.is_final:
            return entry.value
        if entry.value.state is State.RUNNING:
            if await owner_check.is_lost(entry.value):
                return await settle_lost(self._records, entry, keep_s=self._keep_s)
        elif self._bus.clock.now() > entry.value.deadline_at:
            return await settle_out_of_time(self._records, entry, keep_s=self._keep_s)
        return None
