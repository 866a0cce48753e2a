"""Reading activations afterwards: the record, the result, the logs; and waiting for their end. Rows: F4, F10, F12."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import groupby, islice, takewhile
from weakref import WeakValueDictionary

import structlog

from mayfly.bus.codec import Undecodable
from mayfly.bus.connection import Bus
from mayfly.bus.responses import Listener, read_response
from mayfly.bus.schema import LEAK_BACKSTOP_S
from mayfly.bus.store import Store
from mayfly.bus.stores import Stores
from mayfly.domain.activation import Activation, State
from mayfly.domain.errors import Gone, MayflyError, NotFound
from mayfly.domain.ids import UserId, split_activation_id, ulid_time
from mayfly.services.outcome import Succeeded, outcome_of
from mayfly.services.settle import settle_lost, settle_out_of_time

log = structlog.get_logger()

LATE_S = 2.0  # from a deadline on, others have so long to end a record before a reader does
ULID_SKEW_S = 60.0  # how far the moment in an id may lie before that in its record: some ids are older than their call
SHOWN_S = 1e-6  # times are shown in whole microseconds: who asks since one that was shown gets that activation too
LOOKED_AT_MOST = 5000  # records that one page may cost, however few of them fit: the list goes on after the last one
LOOK_FIRST_AFTER_S, LOOK_AT_LEAST_EVERY_S = 0.25, 1.0


@dataclass(frozen=True, slots=True)
class Logs:
    """What a function wrote to stderr: all of it, or its end."""

    stderr: bytes
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which activations a list has: those that fit all that is not None."""

    function: str | None = None
    state: State | None = None
    since: float | None = None  # the earliest time of arrival, in seconds since the epoch

    def fits(self, record: Activation) -> bool:
        """Whether the list has this one."""
        return (
            self.function in (None, record.function)
            and self.state in (None, record.state)
            and (self.since is None or record.created_at > self.since - SHOWN_S)
        )

    def may_fit(self, place: str) -> bool:
        """Whether its place in the list does not rule it out, and none before it."""
        return self.since is None or ulid_time(place.partition(".")[0]) >= self.since - ULID_SKEW_S


@dataclass(frozen=True, slots=True)
class Shelf:
    """
    The places of one user's records in his list: the key turned round, so that the oldest is the first. In sorted
    portions, which are put together only as far as somebody looks: to sort all at once would hold everybody up.
    """

    portions: list[list[str]]

    def newest(self, *, before: str | None = None) -> Iterator[str]:
        """Go through them from the newest on, or from the one before that place."""
        backwards = (_backwards(places, before) for places in self.portions)
        return (place for place, _ in groupby(merge(*backwards, reverse=True)))


class Places:
    """
    Looks up the places of users' records.

    All of a user's are looked up for each page: with 100,000 records that holds nats-server's bucket for 0.2 s, and
    takes a tenth of a second here, in small steps between which others have their turn. So they are looked up once at a
    time, however many pages a user asks for at once, and for all who have to wait.
    """

    def __init__(self, store: Store[Activation]) -> None:
        """Of the records in this bucket."""
        self._store = store
        self._next: dict[UserId, asyncio.Task[Shelf]] = {}  # not begun yet, so it finds what is there now
        self._turns: WeakValueDictionary[UserId, asyncio.Lock] = WeakValueDictionary()  # gone with the last who waits

    async def of(self, owner: UserId) -> Shelf:
        """
        Look up a user's.

        Raises: QueueUnavailable.
        """
        task = self._next.get(owner)
        if task is None:
            task = self._next[owner] = asyncio.create_task(self._in_turn(owner), name=f"list-{owner}")
        return await asyncio.shield(task)

    async def _in_turn(self, owner: UserId) -> Shelf:
        async with self._turns.setdefault(owner, asyncio.Lock()):
            del self._next[owner]  # who comes from now on waits for the one after this
            return Shelf([sorted(map(_place, keys)) async for keys in self._store.portions(owner)])


class Activations:
    """The records of all users; each method sees one owner's only."""

    def __init__(self, bus: Bus, stores: Stores, listener: Listener, *, keep_s: float) -> None:
        """*keep_s* is how long records are kept after their end."""
        self._bus = bus
        self._store = stores.activations
        self._places = Places(stores.activations)
        self._listener = listener
        self._keep_s = keep_s

    async def get(self, owner: UserId, activation_id: str) -> Activation:
        """
        Read a record.

        Raises: NotFound; QueueUnavailable.
        """
        parts = split_activation_id(activation_id)
        record = await self._read(f"{owner}.{parts[0]}.{parts[1]}") if parts else None
        if record is None:
            raise NotFound(
                f"You have no activation {activation_id!r}. Records are kept for some time only; "
                "`GET /v1/activations` lists yours."
            )
        return record

    async def list(
        self, owner: UserId, wanted: Wanted = Wanted(), *, limit: int, after: str | None = None
    ) -> tuple[list[Activation], str | None]:
        """
        List an owner's activations, the newest first, *limit* at a time; the second value continues the list. There can
        be fewer, or none, and more to come: no more than `LOOKED_AT_MOST` or *limit* are looked at.

        Raises: QueueUnavailable.
        """
        newest = (await self._places.of(owner)).newest(before=after)
        left = list(islice(takewhile(wanted.may_fit, newest), max(LOOKED_AT_MOST, limit) + 1))
        looked_at = left[: max(LOOKED_AT_MOST, limit)]
        found: list[Activation] = []
        for chunk in _chunks(looked_at, limit):
            records = await asyncio.gather(*(self._read_if_readable(_key(owner, place)) for place in chunk))
            found += [record for record in records if record and wanted.fits(record)]
            if len(found) > limit:
                return found[:limit], _place(found[limit - 1].key)
        return found, looked_at[-1] if len(looked_at) < len(left) else None

    async def outcome(self, owner: UserId, activation_id: str, *, wait_s: float = 0) -> Succeeded | MayflyError | None:
        """
        Say how an activation ended; None when it has not within *wait_s*.

        Raises: NotFound; QueueUnavailable.
        """
        record = await self.get(owner, activation_id)
        if not record.state.is_final and wait_s > 0:
            record = await self._end_of(record, owner, until=time.monotonic() + wait_s)
        return await outcome_of(self._bus, record) if record.state.is_final else None

    async def logs(self, owner: UserId, activation_id: str) -> Logs:
        """
        Read what the function wrote to stderr; empty while it runs.

        Raises: NotFound; Gone when it is no longer kept; QueueUnavailable.
        """
        record = await self.get(owner, activation_id)
        if not record.attempt or not record.response_seq:
            return Logs(b"", truncated=False)
        response = await read_response(self._bus, record.key, attempt=record.attempt)
        if response is None:
            raise Gone("The logs are no longer kept.", ran=record.ran)
        return Logs(response.stderr, response.stderr_truncated)

    async def _end_of(self, record: Activation, owner: UserId, *, until: float) -> Activation:
        """Wait for the end: hear of it, and look for it now and then; return the record as it is then."""
        async with self._listener.waiting_for(self._bus, record.instance, record.ulid) as waiter:
            pause = LOOK_FIRST_AFTER_S
            while not record.state.is_final and (left := until - time.monotonic()) > 0:
                record = await self.get(owner, record.id)
                if not record.state.is_final:
                    await asyncio.wait({waiter.final}, timeout=min(pause, left))
                    pause = min(pause * 2, LOOK_AT_LEAST_EVERY_S)
        return waiter.final.result() if waiter.final.done() else record

    async def _read_if_readable(self, key: str) -> Activation | None:
        """Read a record for a list, which it is no reason to show nothing of, if it cannot be read."""
        try:
            return await self._read(key)
        except Undecodable as error:
            log.error("activations.undecodable", activation=key, error=str(error))
            return None

    async def _read(self, key: str) -> Activation | None:
        """
        Read a record, and end one that nobody else ends: a queued one that is out of time, if its API server died
        before it was in the queue, or if NATS, killed, has forgotten that it was refused; a running one whose message
        has left the stream in an outage, with which the janitor would have found it.
        """
        entry = await self._store.get(key)
        if entry is None:
            return None
        record, late_s = entry.value, self._bus.clock.now() - entry.value.deadline_at
        if record.state is State.QUEUED and late_s > LATE_S:
            return await settle_out_of_time(self._store, entry, keep_s=self._keep_s) or record
        if record.state is State.RUNNING and late_s > LEAK_BACKSTOP_S:
            return await settle_lost(self._store, entry, keep_s=self._keep_s) or record
        return record


def _chunks(keys: list[str], size: int) -> Iterator[list[str]]:
    return (keys[start : start + size] for start in range(0, len(keys), size))


def _backwards(places: list[str], before: str | None) -> Iterator[str]:
    end = len(places) if before is None else bisect_left(places, before)
    return map(places.__getitem__, range(end - 1, -1, -1))


def _place(key: str) -> str:
    """A ULID sorts by time; the rest of the key makes the order whole."""
    _, instance, ulid = key.split(".")
    return f"{ulid}.{instance}"


def _key(owner: UserId, place: str) -> str:
    ulid, _, instance = place.partition(".")
    return f"{owner}.{instance}.{ulid}"
