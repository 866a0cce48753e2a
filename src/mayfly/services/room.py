"""
Refusing new calls while the store has no room for their outcome, rather than running them and losing it. Rows: A3, F12.

A call that is admitted will need room: its response, and its record once more. So each API server looks once a second
how much is free, and takes no new call while that is less than what all admitted ones may need at the most. Those have
the rest for themselves. On a disk that is full before JetStream's limit nobody can say how much is free; there the
server tries to write a response, and takes no new call once that has failed.

What is refused has not begun: it has no record, and `ran` is `no`, unless an earlier call with its key may run.
See docs/howto/when-the-store-is-full.md.
"""

from __future__ import annotations

import asyncio
import math
import time

import structlog

from mayfly.bus.connection import Bus
from mayfly.bus.patience import FAILOVER_S
from mayfly.bus.room import Room, StoreRefuses, read_room, try_response
from mayfly.domain.errors import QueueUnavailable
from mayfly.domain.limits import MIB

log = structlog.get_logger()

EVERY_S = 1.0
RETRY_AFTER_S = 5.0
CALL_BYTES = 3 * MIB // 2  # a result of 1 MiB, 256 KiB of stderr, the record, and what NATS has around them
MARGIN_BYTES = 64 * MIB  # for everything else that is written: logins, functions, signs of life
IDLE_S = 60.0  # without a call; then nobody looks
BETWEEN_LOOKS = 256  # calls that may be admitted until the next look

FULL = "The store is nearly full, and what is left is for the outcomes of calls under way. Nothing was run."
REFUSING = "The store takes no results now, so no call is begun. Nothing was run."
SILENT = "The store has not answered for {seconds:.0f} s, so no call is begun. Nothing was run."


def reserve_bytes(room: Room) -> int:
    """Say how much of one copy is kept free for the calls that are admitted, and those that may be until the next look.
    Never more than for M calls."""
    calls = room.in_flight + BETWEEN_LOOKS
    return MARGIN_BYTES + CALL_BYTES * (min(calls, room.most_in_flight) if room.most_in_flight else calls)


class Guard:
    """
    Keeps calls out, for one API server, while their outcome could not be stored.

    It looks only while there are calls: who restores a backup with the API servers idle finds nothing written.
    """

    def __init__(self, bus: Bus) -> None:
        """Let nobody in before the first look."""
        self._bus = bus
        self._trouble: str | None = None
        self._wanted_at = self._looked_at = self._answered_at = -math.inf
        self._looking = asyncio.Lock()

    async def check(self) -> None:
        """
        Let a new call pass, or not. The first one after a while looks.

        Raises: QueueUnavailable with `ran: no`.
        """
        now = time.monotonic()
        if now - self._wanted_at > IDLE_S:
            self._answered_at = now  # nobody has asked
        self._wanted_at = now
        async with self._looking:
            if time.monotonic() - self._looked_at > IDLE_S:
                await self.look()
        if self._trouble:
            raise QueueUnavailable(self._trouble, ran="no", retry_after_s=RETRY_AFTER_S)

    async def run(self) -> None:
        """Look for ever: while there are calls, and until trouble is over."""
        while True:
            await asyncio.sleep(EVERY_S)
            if self._trouble or time.monotonic() - self._wanted_at < IDLE_S:
                await self.look()

    async def look(self) -> None:
        """
        Look once. Silence is sat out as long as a change of leader may take, as calls themselves sit it out: a question
        that was asked within that time may be one that nobody has got, and says nothing of the store now.
        """
        asked_at = time.monotonic()
        try:
            trouble = await self._find()
            self._answered_at = time.monotonic()
        except QueueUnavailable:
            silent_s = time.monotonic() - self._answered_at
            is_due = asked_at - self._answered_at > FAILOVER_S
            trouble = SILENT.format(seconds=silent_s) if is_due else self._trouble
        self._looked_at = time.monotonic()
        self._tell(trouble)
        self._trouble = trouble

    async def _find(self) -> str | None:
        room = await read_room(self._bus)
        if room.free_bytes < reserve_bytes(room):
            return FULL
        try:
            await try_response(self._bus)
        except StoreRefuses as error:
            log.warning("room.refused", reason=str(error))
            return REFUSING
        return None

    def _tell(self, trouble: str | None) -> None:
        if trouble and not self._trouble:
            log.error("room.closed", reason=trouble)
        elif self._trouble and not trouble:
            log.info("room.open")
