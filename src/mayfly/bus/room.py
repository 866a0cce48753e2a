"""
How much room JetStream has left, and whether it takes a response at all.

Two things end it. At its limit (`max_file` of the account, `max_file_store` of a server) every write is refused at
once, and taken again as soon as there is room. On a full disk the stream whose write fails takes nothing any more,
without a word, until its nats-server is restarted. So there is a limit below the disk's end, and a write is tried too.
Rows: A3, A4.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from nats.js.errors import APIError

from mayfly.bus import subjects
from mayfly.bus.connection import Bus, translated
from mayfly.bus.health import StoreUsage, store_usage
from mayfly.bus.patience import NOT_YET

PROBE_TIMEOUT_S = 2.0
PROBE_LIVES_S = 1


class StoreRefuses(Exception):
    """JetStream has answered that it does not take a write; the reason is its own."""


@dataclass(frozen=True, slots=True)
class Room:
    """What is stored, and what is in flight."""

    store: StoreUsage
    copies: int
    in_flight: int
    most_in_flight: int | None  # M

    @property
    def free_bytes(self) -> float:
        """What may still be written, of one copy."""
        if self.store.max_bytes is None:
            return float("inf")
        return (self.store.max_bytes - self.store.size_bytes) / self.copies


async def read_room(bus: Bus) -> Room:
    """
    Ask how much is stored, and how much may be.

    Raises: QueueUnavailable.
    """
    with translated("read the room"):
        async with asyncio.timeout(PROBE_TIMEOUT_S):  # one that nobody leads does not answer, nor a second later
            store = await store_usage(bus)
            stream = await bus.js.stream_info(subjects.ACT)
    most = stream.config.max_msgs or -1
    return Room(
        store=store,
        copies=max(1, stream.config.num_replicas or 1),
        in_flight=stream.state.messages,
        most_in_flight=most if most > 0 else None,
    )


async def try_response(bus: Bus) -> None:
    """
    Write into RESPONSES what is gone a second later.

    Raises: StoreRefuses when it is refused; QueueUnavailable when nobody answers.
    """
    with translated("try the store"):
        try:
            await bus.js.publish(subjects.probe(), b"", timeout=PROBE_TIMEOUT_S, msg_ttl=PROBE_LIVES_S)
        except APIError as error:
            if error.err_code in NOT_YET:
                raise
            raise StoreRefuses(error.description or repr(error)) from error
