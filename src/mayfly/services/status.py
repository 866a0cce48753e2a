"""
How the installation stands: workers, queue, limits and usage, and for the operator its streams. Rows: F13, A2, A5.

What is a tenant's to know are sums, which say nothing of anybody else, and his own usage. Workers one by one with the
names of their hosts, the streams with those of their servers, and what to do about either are the operator's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import structlog

from mayfly.bus import subjects
from mayfly.bus.codec import Undecodable
from mayfly.bus.connection import Bus
from mayfly.bus.health import StoreUsage, StreamHealth, store_usage, streams_health, waiting
from mayfly.bus.queue import in_flight
from mayfly.bus.schema import limits_in_force
from mayfly.bus.stores import Stores
from mayfly.domain.errors import QueueUnavailable
from mayfly.domain.ids import UserId
from mayfly.domain.worker import WorkerBeat

log = structlog.get_logger()

NEARLY_FULL = 0.9
NEEDED = (subjects.ACT, subjects.kv_stream(subjects.WORKERS))
NO_WORKER = "No worker is connected: calls wait until one comes, or until their time runs out."


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """The workers that live, and the ids of those that have left of themselves not long ago."""

    alive: tuple[WorkerBeat, ...]
    left: frozenset[str]

    @property
    def slots(self) -> int:
        """Of all together."""
        return sum(beat.slots for beat in self.alive)

    @property
    def running(self) -> int:
        """Activations that they run, as they say."""
        return sum(beat.running for beat in self.alive)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Usage beside limits, as of now; None for a limit means that there is no maximum."""

    workers: tuple[WorkerBeat, ...]
    slots: int
    running: int
    waiting: int  # admitted, and not handed to a worker yet
    in_flight: int
    max_activations: int | None
    own_in_flight: int
    max_activations_per_user: int | None  # the caller's: his own, where that is lower
    streams: tuple[StreamHealth, ...] = ()  # only for the operator, as what follows
    store: StoreUsage | None = None

    @property
    def remark(self) -> str | None:
        """What a caller ought to know about these numbers, if anything."""
        return None if self.workers else NO_WORKER

    @property
    def operators_remark(self) -> str | None:
        """What the operator ought to do something about, a sentence each."""
        return " ".join(self._remarks()) or None

    def _remarks(self) -> Iterator[str]:
        if not self.workers:
            yield NO_WORKER
        elif all(beat.draining for beat in self.workers):
            yield "Every worker is draining: calls wait until another one comes, or until their time runs out."
        if self.max_activations is not None and self.slots > self.max_activations:
            idle = self.slots - self.max_activations
            yield f"{idle} of {self.slots} slots can never be used: MAYFLY_MAX_ACTIVATIONS is {self.max_activations}."
        yield from remarks_on(self.streams)
        if self.store and self.store.fullness >= NEARLY_FULL:
            yield f"NATS's store is {self.store.fullness:.0%} full: when it is, no call is taken."


async def status(
    bus: Bus, stores: Stores, owner: UserId, *, own_limit: int | None = None, operator: bool = False
) -> Status:
    """
    Read the state of the installation, and *owner*'s usage; for the *operator* also that of the streams. *own_limit*
    is the owner's, below that for every user.

    Raises: QueueUnavailable; it names to the operator the streams that have no leader.
    """
    streams = await _led_streams(bus) if operator else ()
    workers, waits, total, own, (most, most_per_user) = await asyncio.gather(
        read_workers(stores), waiting(bus), in_flight(bus), in_flight(bus, owner), limits_in_force(bus)
    )
    return Status(
        workers=workers.alive,
        slots=workers.slots,
        running=workers.running,
        waiting=waits,
        in_flight=total,
        max_activations=most,
        own_in_flight=own,
        max_activations_per_user=min((each for each in (most_per_user, own_limit) if each is not None), default=None),
        streams=streams,
        store=await store_usage(bus) if operator else None,
    )


async def _led_streams(bus: Bus) -> tuple[StreamHealth, ...]:
    """Read the streams; those of which the rest is read must have a leader, or it would be waited for in vain."""
    streams = await streams_health(bus)
    if any(each.leader is None and each.name in NEEDED for each in streams):
        raise QueueUnavailable(" ".join(remarks_on(streams)), retry_after_s=1)
    return streams


def remarks_on(streams: tuple[StreamHealth, ...]) -> Iterator[str]:
    """Say what is wrong with streams, a sentence for each kind of trouble."""
    leaderless = [each.name for each in streams if each.leader is None]
    if leaderless:
        yield f"Without a leader, so neither read nor written: {', '.join(leaderless)}. Look after the nats-servers."
    for server in sorted({server for each in streams for server in each.behind}):
        names = ", ".join(each.name for each in streams if server in each.behind)
        yield f"{server} is offline or lags behind: its copies of {names} are not current."
    for each in streams:
        if each.fullness >= NEARLY_FULL:
            then = (
                "the oldest entries go before their time" if each.drops_oldest else "it refuses what is new when full"
            )
            yield f"{each.name} is {each.fullness:.0%} full: {then}."


async def read_workers(stores: Stores) -> Workers:
    """
    Read what each worker that lives has last said of itself. Its own last words are those of one that drains, or
    nothing, where its entry was; the last words of one that was lost are its successor's.

    Raises: QueueUnavailable.
    """
    ids = await stores.workers.keys()
    found = dict(zip(ids, await asyncio.gather(*(_beat(stores, each) for each in ids)), strict=True))
    return Workers(
        alive=tuple(beat for beat in found.values() if beat and not beat.gone),
        left=frozenset(each for each, beat in found.items() if beat is None or (beat.gone and beat.draining)),
    )


async def _beat(stores: Stores, worker_id: str) -> WorkerBeat | None:
    """Read one worker's sign of life; one of a version that is unknown here is not counted."""
    try:
        entry = await stores.workers.get(worker_id)
    except Undecodable as error:
        log.error("status.undecodable", worker=worker_id, error=str(error))
        return None
    return entry.value if entry else None
