"""
How the whole installation stands, read for the metrics: activations in flight and waiting, limits, workers and slots,
streams. Rows: A2.

It is read when somebody scrapes, and at most once in `READ_EVERY_S` however many do: NATS, which carries the calls, is
not to be kept busy by those who look on. What cannot be read is not shown, rather than shown as it was.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection

import structlog

from mayfly.api.metrics import ApiMetrics
from mayfly.bus.connection import Bus
from mayfly.bus.health import store_usage, streams_health, waiting
from mayfly.bus.queue import in_flight
from mayfly.bus.schema import limits_in_force
from mayfly.bus.stores import Stores
from mayfly.domain.errors import QueueUnavailable
from mayfly.services.status import read_workers

log = structlog.get_logger()

READ_EVERY_S = 1.0
READ_WITHIN_S = 2.0  # well within the time that a scrape may take
LOST_AFTER_S = 10.0
FORGOTTEN_AFTER_S = 50.0  # a goodbye can be seen for far longer (`domain.worker.GONE_LIVES_S`)


class Usage:
    """Reads it, and shows it in the metrics."""

    def __init__(self, bus: Bus, stores: Stores, metrics: ApiMetrics) -> None:
        """Nothing is read yet."""
        self._bus = bus
        self._stores = stores
        self._metrics = metrics
        self._reading = asyncio.Lock()
        self._read_at = -math.inf
        self._losses = Losses()

    async def refresh(self) -> None:
        """Read it again, unless that was done just now; who comes meanwhile waits for that reading."""
        async with self._reading:
            if time.monotonic() - self._read_at < READ_EVERY_S:
                return
            await asyncio.gather(
                self._within_time(self._read, self._metrics.forget_usage),
                self._within_time(self._read_streams, self._metrics.forget_streams),
            )
            self._read_at = time.monotonic()

    async def _within_time(self, read: Callable[[], Awaitable[None]], forget: Callable[[], None]) -> None:
        try:
            async with asyncio.timeout(READ_WITHIN_S):
                await read()
        except (TimeoutError, QueueUnavailable) as error:
            log.info("metrics.usage-unknown", reason=repr(error))
            forget()

    async def _read_streams(self) -> None:
        self._metrics.show_streams(await streams_health(self._bus))

    async def _read(self) -> None:
        bus = self._bus
        depth, waits, limits, store, workers = await asyncio.gather(
            in_flight(bus), waiting(bus), limits_in_force(bus), store_usage(bus), read_workers(self._stores)
        )
        show = self._metrics
        show.in_flight.set(depth)
        show.waiting.set(waits)
        show.store_bytes.set(store.size_bytes)
        show.store_limit.set(store.max_bytes or math.inf)
        show.workers.set(len(workers.alive))
        show.slots.set(workers.slots)
        show.running.set(workers.running)
        for scope, limit in zip(("platform", "user"), limits, strict=True):
            show.limit.labels(scope).set(math.inf if limit is None else limit)
        alive = {beat.id for beat in workers.alive}
        show.workers_lost.inc(self._losses.noticed(alive, workers.left, now=time.monotonic()))


class Losses:
    """
    Tells which workers went without a goodbye: their signs of life have run out, where a goodbye leaves its trace in
    the bucket.

    While NATS has no leader nobody can give a sign, and all may be missing right after: so a worker counts as lost only
    if it is still missing `LOST_AFTER_S` later. When nobody has looked for `FORGOTTEN_AFTER_S`, a goodbye may have been
    missed, and all begins anew.
    """

    def __init__(self) -> None:
        """Nobody is known yet."""
        self._missing_since: dict[str, float | None] = {}  # of each worker seen; None: it is there
        self._looked_at = -math.inf

    def noticed(self, alive: Collection[str], left: Collection[str], *, now: float) -> int:
        """Say how many have just turned out to be lost; *left* are those that said goodbye."""
        if now - self._looked_at > FORGOTTEN_AFTER_S:
            self._missing_since = {}
        self._looked_at = now
        seen = {each: since for each, since in self._missing_since.items() if each not in left}
        missing = {each: since or now for each, since in seen.items() if each not in alive}
        lost = [each for each, since in missing.items() if now - since >= LOST_AFTER_S]
        self._missing_since = {**dict.fromkeys(alive), **missing}
        for each in lost:
            del self._missing_since[each]
        return len(lost)
