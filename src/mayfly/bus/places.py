"""
Limits that the work stream cannot count: of one function, and of one user below the ceiling for all.

Such a limit of n is n numbered keys, 0 to n - 1. To take a place is to create a key that is not there, which exactly
one of those who try can; so there are never more holders than places, whoever crashes when. A freed place is deleted,
by the sequence at which it was taken, so nobody's but that holder's. Rows: F13.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

import structlog

from mayfly.bus import messages
from mayfly.bus.codec import Undecodable
from mayfly.bus.connection import Bus, translated
from mayfly.bus.store import Conflict, Store
from mayfly.bus.subjects import PLACES, kv_stream
from mayfly.domain.place import Place

log = structlog.get_logger()


class NoPlace(Exception):
    """All are taken."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A place that is taken."""

    key: str
    seq: int
    holder: str


class Places:
    """All counted limits. *of* names one: `bus.subjects.places_of`."""

    def __init__(self, bus: Bus) -> None:
        """Work on an open bus."""
        self._bus = bus
        self._store = Store(bus, PLACES, Place)

    async def take(self, of: str, limit: int, *, holder: str, ttl_s: float) -> Taken:
        """
        Take one of *limit* places for the activation whose record has the key *holder*; it is free after *ttl_s* if
        nobody frees it before.

        A limit that was lowered is exact when those who came before have left.

        Raises: NoPlace; QueueUnavailable.
        """
        place = Place(holder=holder)
        while True:
            taken = {int(key.rpartition(".")[2]) for key in await self._store.keys(of)}
            free = [number for number in range(limit) if number not in taken]
            if len(taken) >= limit or not free:
                raise NoPlace
            key = f"{of}.{random.choice(free)}"  # noqa: S311 - so that those who come at once seldom try the same
            try:
                return Taken(key, await self._store.create(key, place, ttl_s=ttl_s), holder)
            except Conflict:  # somebody else has it, so this ends
                continue

    async def held(self, of: str, *, holder: str) -> Taken | None:
        """
        Find the place that an activation has already.

        Raises: QueueUnavailable.
        """
        for key in await self._store.keys(of):
            taken = await self._read(key)
            if taken and taken.holder == holder:
                return taken
        return None

    async def free(self, taken: Taken) -> bool:
        """
        Give a place back; return whether it was still that holder's.

        Raises: QueueUnavailable.
        """
        with translated("free a place"):
            return await messages.delete(self._bus, kv_stream(PLACES), taken.seq)

    async def all_taken(self) -> AsyncIterator[Taken]:
        """
        Read every place that is taken; one of a version that is unknown here is left to those who know it.

        Raises: QueueUnavailable.
        """
        for key in await self._store.keys():
            if taken := await self._read(key):
                yield taken

    async def _read(self, key: str) -> Taken | None:
        """Read one; of a version that is unknown here, it is left to those who know it."""
        try:
            entry = await self._store.get(key)
        except Undecodable as error:
            log.error("places.undecodable", key=key, error=str(error))
            return None
        return Taken(key, entry.revision, entry.value.holder) if entry else None
