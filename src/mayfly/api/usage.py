"""
How full the whole installation is, read for the metrics: activations in flight, limits, workers and slots. Rows: A2.

It is read when somebody scrapes, and at most once in `READ_EVERY_S` however many do: NATS, which carries the calls, is
not to be kept busy by those who look on. What cannot be read is not shown, rather than shown as it was.
"""

from __future__ import annotations

import asyncio
import math
import time

import structlog

from mayfly.api.metrics import ApiMetrics
from mayfly.bus.connection import Bus
from mayfly.bus.queue import in_flight
from mayfly.bus.schema import limits_in_force
from mayfly.bus.stores import Stores
from mayfly.domain.errors import QueueUnavailable
from mayfly.services.status import beats

log = structlog.get_logger()

READ_EVERY_S = 1.0
READ_WITHIN_S = 2.0  # well within the time that a scrape may take


class Usage:
    """Reads it, and shows it in the metrics."""

    def __init__(self, bus: Bus, stores: Stores, metrics: ApiMetrics) -> None:
        """Nothing is read yet."""
        self._bus = bus
        self._stores = stores
        self._metrics = metrics
        self._reading = asyncio.Lock()
        self._read_at = -math.inf

    async def refresh(self) -> None:
        """Read it again, unless that was done just now; who comes meanwhile waits for that reading."""
        async with self._reading:
            if time.monotonic() - self._read_at < READ_EVERY_S:
                return
            try:
                async with asyncio.timeout(READ_WITHIN_S):
                    await self._read()
            except (TimeoutError, QueueUnavailable) as error:
                log.info("metrics.usage-unknown", reason=repr(error))
                self._metrics.forget_usage()
            self._read_at = time.monotonic()

    async def _read(self) -> None:
        depth, limits, workers = await asyncio.gather(
            in_flight(self._bus), limits_in_force(self._bus), beats(self._stores)
        )
        show = self._metrics
        show.in_flight.set(depth)
        show.workers.set(len(workers))
        show.slots.set(sum(beat.slots for beat in workers))
        show.running.set(sum(beat.running for beat in workers))
        for scope, limit in zip(("platform", "user"), limits, strict=True):
            show.limit.labels(scope).set(math.inf if limit is None else limit)
