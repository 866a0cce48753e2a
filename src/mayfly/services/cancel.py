"""
Cancelling an activation: a queued one is settled at once, a running one is ended by its worker.

Cancel and completion race for one compare-and-set, so there is one outcome, and whoever loses sees the winner's.
Rows: F11, F12.
"""

from __future__ import annotations

import asyncio

import structlog

from mayfly.bus.connection import Bus
from mayfly.bus.requests import ask_to_cancel
from mayfly.bus.responses import Listener
from mayfly.bus.store import Entry
from mayfly.bus.stores import Stores
from mayfly.domain.activation import Activation, State
from mayfly.domain.errors import Cancelled, NotFound
from mayfly.services.following import FIRST_LOOK_S
from mayfly.services.settle import settle

log = structlog.get_logger()

WITHIN_S = 10.0  # a killed container is gone in milliseconds, and a lost worker is told within 5 s

BEFORE_START = "The activation was cancelled while it waited. Nothing was run."
BEFORE_START_BY_OPERATOR = (
    "The activation was ended by an operator of this installation while it waited. Nothing was run."
)


class Canceller:
    """Cancels activations, through one API server."""

    def __init__(self, bus: Bus, stores: Stores, listener: Listener, *, keep_s: float) -> None:
        """*keep_s* is how long records are kept after their end."""
        self._bus = bus
        self._records = stores.activations
        self._listener = listener
        self._keep_s = keep_s

    async def cancel(self, record: Activation, *, by_operator: bool = False) -> Activation:
        """
        See that an activation ends, and return its record: cancelled, or as it ended before that; not final if its
        worker needs longer than `WITHIN_S`. The record says if it was not its owner but an operator who wanted it.

        Raises: NotFound when the record goes meanwhile; QueueUnavailable.
        """
        async with self._listener.waiting_for(self._bus, record.instance, record.ulid) as waiter:
            try:
                async with asyncio.timeout(WITHIN_S):
                    while not (found := await self._try(record.key, by_operator=by_operator)).state.is_final:
                        await asyncio.wait({waiter.final}, timeout=FIRST_LOOK_S)
            except TimeoutError:
                found = (await self._read(record.key)).value
        return found

    async def _try(self, key: str, *, by_operator: bool) -> Activation:
        """Take one step towards its end; return the record as it is then."""
        entry = await self._read(key)
        if entry.value.state is State.QUEUED:
            cancelled = await settle(
                self._records,
                entry,
                State.CANCELLED,
                keep_s=self._keep_s,
                code=Cancelled.code,
                detail=BEFORE_START_BY_OPERATOR if by_operator else BEFORE_START,
                ran="no",
            )
            return cancelled or (await self._read(key)).value
        if entry.value.state is State.RUNNING and entry.value.worker:
            await ask_to_cancel(self._bus, entry.value.worker, key, by_operator=by_operator)
        return entry.value

    async def _read(self, key: str) -> Entry[Activation]:
        entry = await self._records.get(key)
        if entry is None:
            raise NotFound("The record of this activation is no longer kept.")
        return entry
