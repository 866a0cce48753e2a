"""
How the queue and the streams stand: what waits, which stream has a leader, which copies are current, how full each is.

The leader of each stream is asked, all at once. Where a group of servers has no leader the others say so half a second
later; where nobody is left to say it, there is no answer, which comes to the same. Rows: A2, A3, A4.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec
import nats.errors

from mayfly.bus import subjects
from mayfly.bus.answers import Answer, Failure
from mayfly.bus.connection import REQUEST_TIMEOUT_S, Bus, translated
from mayfly.bus.patience import NOT_YET
from mayfly.domain.errors import QueueUnavailable

STREAMS = (subjects.ACT, subjects.RESPONSES, *map(subjects.kv_stream, subjects.BUCKETS))
"""Those that calls need. Of the audit trail an API server is told nothing but its entries."""

ANSWERED_S = 1.5  # a leader answers within milliseconds; that there is none is said after 0.5 s


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamHealth:
    """One stream. Without a leader nobody can say more than its name."""

    name: str
    leader: str | None = None  # the server
    replicas: int = 0  # how many copies there are to be
    current: int = 0  # how many of them are up to date, the leader's included
    behind: tuple[str, ...] = ()  # the servers whose copy is not
    messages: int = 0
    size_bytes: int = 0
    max_bytes: int | None = None
    drops_oldest: bool = False  # what it does when it is full; else it refuses what is new

    @property
    def fullness(self) -> float:
        """How much of its limit in bytes it takes, from 0 to 1; 0 where it has none."""
        return self.size_bytes / self.max_bytes if self.max_bytes else 0.0


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """What all streams take on the disks of all servers together, and may take."""

    size_bytes: int
    max_bytes: int | None

    @property
    def fullness(self) -> float:
        """From 0 to 1; 0 without a limit."""
        return self.size_bytes / self.max_bytes if self.max_bytes else 0.0


class _Peer(msgspec.Struct):
    name: str = ""
    current: bool = False
    offline: bool = False


class _Cluster(msgspec.Struct):
    leader: str = ""
    replicas: list[_Peer] = []


class _Config(msgspec.Struct):
    num_replicas: int = 1
    max_bytes: int = -1
    discard: str = "old"


class _State(msgspec.Struct):
    messages: int = 0
    bytes: int = 0


class _StreamAnswer(msgspec.Struct):
    error: Failure | None = None
    config: _Config = msgspec.field(default_factory=_Config)
    state: _State = msgspec.field(default_factory=_State)
    cluster: _Cluster = msgspec.field(default_factory=_Cluster)


_STREAM = Answer(_StreamAnswer)


async def streams_health(bus: Bus) -> tuple[StreamHealth, ...]:
    """
    Ask how each of `STREAMS` stands, for at most `ANSWERED_S`.

    Raises: QueueUnavailable when there is no answer about any of them.
    """
    with translated("ask how the streams stand"):
        found = tuple(await asyncio.gather(*(_health(bus, name) for name in STREAMS)))
    if not any(each.leader for each in found):
        raise QueueUnavailable("None of NATS's streams has a leader.", retry_after_s=1)
    return found


async def _health(bus: Bus, name: str) -> StreamHealth:
    try:
        reply = await bus.client.request(subjects.stream_info(name, bus.api), b"", timeout=ANSWERED_S)
    except (nats.errors.TimeoutError, nats.errors.NoRespondersError):
        return StreamHealth(name=name)
    answer = _STREAM.decode(reply.data)
    if answer.error is None:
        return _led(name, answer)
    if answer.error.err_code in NOT_YET:
        return StreamHealth(name=name)
    raise answer.error.to_error()


def _led(name: str, answer: _StreamAnswer) -> StreamHealth:
    peers = answer.cluster.replicas
    current = [peer for peer in peers if peer.current and not peer.offline]
    return StreamHealth(
        name=name,
        leader=answer.cluster.leader or None,
        replicas=answer.config.num_replicas,
        current=1 + len(current) if answer.cluster.leader else len(current),
        behind=tuple(sorted(peer.name for peer in peers if peer not in current)),
        messages=answer.state.messages,
        size_bytes=answer.state.bytes,
        max_bytes=answer.config.max_bytes if answer.config.max_bytes > 0 else None,
        drops_oldest=answer.config.discard == "old",
    )


async def store_usage(bus: Bus) -> StoreUsage:
    """
    Ask how full the store is: the limit is that of NATS's account.

    Raises: QueueUnavailable.
    """
    with translated("ask how full the store is"):
        info = await bus.js.account_info()
    limit = info.limits.max_storage
    return StoreUsage(info.storage, limit if limit > 0 else None)


async def waiting(bus: Bus) -> int:
    """
    Count the activations that are admitted and were not handed to a worker yet. nats-server counts a moment after it
    has confirmed them.

    Raises: QueueUnavailable.
    """
    with translated("count what waits"):
        info = await bus.js.consumer_info(subjects.ACT, subjects.ACT_CONSUMER, timeout=REQUEST_TIMEOUT_S)
    return info.num_pending or 0
