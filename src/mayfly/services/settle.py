"""
Moving a record along from outside its worker: refused, out of time, worker lost.

Each is one compare-and-set, so whoever loses it learns that the record went another way and follows that. Rows: F12.
"""

from __future__ import annotations

import time
from typing import Any

import structlog

from mayfly.bus.codec import Undecodable
from mayfly.bus.connection import Bus
from mayfly.bus.requests import Ownership, ask_owner
from mayfly.bus.store import Conflict, Entry, Store
from mayfly.bus.stores import Stores
from mayfly.domain.activation import Activation, State
from mayfly.domain.errors import TimedOut, WorkerLost
from mayfly.domain.ids import new_id
from mayfly.domain.worker import WorkerBeat

log = structlog.get_logger()

REFUSED_KEEP_S = 60.0
SILENCES_UNTIL_LOST = 3
GONE_FOR_S = 1.5  # a worker whose nats-server stops is connected to another one by then


async def settle(
    store: Store[Activation], entry: Entry[Activation], state: State, *, keep_s: float, **changes: Any
) -> Activation | None:
    """
    Move a record to *state*, unless it moved meanwhile: then None. It is kept for *keep_s*, or its own time if that is
    shorter.

    Raises: QueueUnavailable when nobody can say.
    """
    record = entry.value.moved(state, nonce=new_id(), ended_at=store.now(), **changes)
    try:
        await store.update(entry.key, record, revision=entry.revision, ttl_s=record.kept_s(keep_s))
    except Conflict:
        return None
    log.info("activation.settled", activation=record.id, state=state, code=record.code)
    return record


async def settle_out_of_time(store: Store[Activation], entry: Entry[Activation], *, keep_s: float) -> Activation | None:
    """End a queued activation whose time ran out before a worker took it; None if one did meanwhile."""
    detail = "No worker had a free slot before the time ran out. Nothing was run."
    return await settle(
        store, entry, State.TIMED_OUT, keep_s=keep_s, code=TimedOut.code, detail=detail, clock="queue", ran="no"
    )


class OwnerCheck:
    """Asks the owner of one running activation, again and again, until it is certain whether it is still there."""

    def __init__(self, bus: Bus) -> None:
        """Nothing asked yet."""
        self._bus = bus
        self._silences = 0
        self._gone_since: float | None = None

    @property
    def is_silent(self) -> bool:
        """The owner is connected, and let the last question go unanswered."""
        return self._silences > 0

    @property
    def is_in_doubt(self) -> bool:
        """The owner did not answer the last time, so it should be asked again soon."""
        return self.is_silent or self._gone_since is not None

    async def is_lost(self, record: Activation) -> bool:
        """
        Ask once. A worker that denies has lost it, and so has one that is proved to be gone; one that is silent has
        after the third time, one that nobody knows after `GONE_FOR_S`: it may be changing over from one nats-server to
        another.

        Raises: QueueUnavailable when this process cannot ask.
        """
        answer = await ask_owner(self._bus, record.worker or "nobody", record.key)
        if answer is Ownership.SILENT:
            self._silences += 1
            return self._silences >= SILENCES_UNTIL_LOST
        self._silences = 0
        if answer is Ownership.GONE:
            self._gone_since = self._gone_since or time.monotonic()
            is_long_ago = time.monotonic() - self._gone_since >= GONE_FOR_S
            return is_long_ago or await is_proved_gone(Stores.on(self._bus).workers, record.worker)
        self._gone_since = None
        return answer is Ownership.DENIED


async def is_proved_gone(workers: Store[WorkerBeat], worker_id: str | None) -> bool:
    """
    Whether it is certain that no container of a worker lives: it said goodbye, or its successor did for it. That
    nothing is heard of a worker proves nothing.

    Raises: QueueUnavailable.
    """
    if worker_id is None:
        return False
    try:
        entry = await workers.get(worker_id)
    except Undecodable:
        return False
    return entry is not None and entry.value.gone


async def settle_lost(store: Store[Activation], entry: Entry[Activation], *, keep_s: float) -> Activation | None:
    """
    End a running activation whose worker is lost; None if it ended by itself meanwhile.

    The entry must have been read before its owner was asked: a worker writes the final state before it lets go.
    """
    detail = "The worker that ran this activation was lost, and nobody knows how far it came."
    return await settle(
        store, entry, State.WORKER_LOST, keep_s=keep_s, code=WorkerLost.code, detail=detail, ran="unknown"
    )
