"""
Reading NATS's clock (`bus.clock`), at the start and every few seconds.

What is asked is the state of the consumer that all workers share: both roles may, and its leader says when it answered.
"""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import structlog

from mayfly.bus import subjects
from mayfly.bus.answers import Answer
from mayfly.bus.connection import Bus, translated
from mayfly.bus.patience import UNANSWERED, patiently
from mayfly.domain.errors import QueueUnavailable

log = structlog.get_logger()

READ_EVERY_S = 5.0
READ_TIMEOUT_S = 1.0  # so a reading is wrong by half of that at most
TOLD_FROM_S = 2.0  # a difference from the machine's own clock that an operator ought to know of


class _Answer(msgspec.Struct):
    ts: datetime.datetime | None = None


_ANSWER = Answer(_Answer)


@asynccontextmanager
async def keeping_time(bus: Bus) -> AsyncIterator[None]:
    """
    Read the clock now, and again and again while inside; a later reading that fails is made up for by the next.

    Raises: QueueUnavailable when it cannot be read now.
    """
    await _read(bus)
    ahead_s = bus.clock.machine_is_ahead_s
    if abs(ahead_s) >= TOLD_FROM_S:
        log.warning("clock.differs", machine_is_ahead_s=round(ahead_s, 1), effect="Records are dated by NATS's clock.")
    reading = asyncio.create_task(_read_for_ever(bus), name="clock")
    try:
        yield
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _read_for_ever(bus: Bus) -> None:
    while True:
        await asyncio.sleep(READ_EVERY_S)
        try:
            await _read(bus)
        except QueueUnavailable:
            log.debug("clock.unread")


async def _read(bus: Bus) -> None:
    with translated("read the clock"):
        await patiently(lambda: _ask(bus), also=UNANSWERED)


async def _ask(bus: Bus) -> None:
    asked_at = time.monotonic()
    subject = subjects.consumer_info(subjects.ACT, subjects.ACT_CONSUMER, bus.api)
    reply = await bus.client.request(subject, b"", timeout=READ_TIMEOUT_S)
    stamp = _ANSWER.decode(reply.data).ts
    if stamp is None:
        raise QueueUnavailable("NATS has no work stream: run `mayfly bootstrap`.")
    bus.clock.read(stamp.timestamp(), asked_at=asked_at, answered_at=time.monotonic())
