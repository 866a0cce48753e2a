"""How the installation stands: workers and slots, limits and usage. Rows: F13, A5."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from mayfly.bus.codec import Undecodable
from mayfly.bus.connection import Bus
from mayfly.bus.queue import in_flight
from mayfly.bus.schema import limits_in_force
from mayfly.bus.stores import Stores
from mayfly.domain.ids import UserId
from mayfly.domain.worker import WorkerBeat

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Usage beside limits, as of now; None for a limit means that there is no maximum."""

    workers: tuple[WorkerBeat, ...]
    slots: int
    running: int
    in_flight: int
    max_activations: int | None
    own_in_flight: int
    max_activations_per_user: int | None

    @property
    def remark(self) -> str | None:
        """What an operator ought to know about these numbers, if anything."""
        if not self.workers:
            return "No worker is connected: calls wait until one comes, or until their time runs out."
        if self.max_activations is not None and self.slots > self.max_activations:
            idle = self.slots - self.max_activations
            return f"{idle} of {self.slots} slots can never be used: MAYFLY_MAX_ACTIVATIONS is {self.max_activations}."
        return None


async def status(bus: Bus, stores: Stores, owner: UserId) -> Status:
    """
    Read the state of the installation, and *owner*'s usage.

    Raises: QueueUnavailable.
    """
    workers, total, own, (most, most_per_user) = await asyncio.gather(
        beats(stores), in_flight(bus), in_flight(bus, owner), limits_in_force(bus)
    )
    return Status(
        workers=workers,
        slots=sum(beat.slots for beat in workers),
        running=sum(beat.running for beat in workers),
        in_flight=total,
        max_activations=most,
        own_in_flight=own,
        max_activations_per_user=most_per_user,
    )


async def beats(stores: Stores) -> tuple[WorkerBeat, ...]:
    """
    Read what each worker that lives has last said of itself.

    Raises: QueueUnavailable.
    """
    found = await asyncio.gather(*(_beat(stores, key) for key in await stores.workers.keys()))
    return tuple(beat for beat in found if beat)


async def _beat(stores: Stores, worker_id: str) -> WorkerBeat | None:
    """Read one worker's sign of life; one of a version that is unknown here is not counted."""
    try:
        entry = await stores.workers.get(worker_id)
    except Undecodable as error:
        log.error("status.undecodable", worker=worker_id, error=str(error))
        return None
    return entry.value if entry and not entry.value.gone else None
