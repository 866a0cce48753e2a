"""
Looking into streams and buckets, for operators: what lies there, without claiming or changing it.

What is nobody's business but the user's (parameters, results, logs, password hashes, digests of tokens and codes) is
left out, and its size shown instead. Rows: A3, A4.
"""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec

from mayfly.bus import subjects
from mayfly.bus.connection import Bus, translated
from mayfly.bus.messages import read_through
from mayfly.domain.errors import NotFound

STREAMS = (subjects.ACT, subjects.RESPONSES, subjects.AUDIT)
PRIVATE = {"parameter", "result", "stderr", "password_hash", "refresh_digest", "secret_digest", "env"}
MOST = 1000


@dataclass(frozen=True, slots=True)
class Overview:
    """A stream or bucket as a whole."""

    name: str
    messages: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Message:
    """One message, with its private parts left out."""

    subject: str
    seq: int
    stored_at: datetime.datetime
    size_bytes: int
    content: Any


async def overview(bus: Bus) -> list[Overview]:
    """
    Say how much lies in each stream and bucket.

    Raises: QueueUnavailable.
    """
    found = []
    with translated("inspect"):
        for name in (*STREAMS, *subjects.BUCKETS):
            state = (await bus.js.stream_info(_stream(name))).state
            found.append(Overview(name, state.messages, state.bytes))
    return found


async def messages(bus: Bus, name: str) -> AsyncIterator[Message]:
    """
    Read what lies in a stream or bucket, the oldest first; of more than a thousand those among the last thousand
    sequences, which are fewer where much was replaced or removed. What comes meanwhile is not waited for.

    Raises: NotFound for an unknown name; QueueUnavailable.
    """
    if name not in (*STREAMS, *subjects.BUCKETS):
        raise NotFound(f"There is no stream or bucket {name!r}: {', '.join((*STREAMS, *subjects.BUCKETS))}.")
    with translated("inspect"):
        state = (await bus.js.stream_info(_stream(name))).state
    seq = 1 if state.messages <= MOST else max(1, state.last_seq - MOST + 1)
    with translated("inspect"):
        async for stored in read_through(bus, _stream(name), subject=">", first_seq=seq, last_seq=state.last_seq):
            yield Message(stored.subject, stored.seq, stored.time, len(stored.data), _content(stored.data))


def _stream(name: str) -> str:
    return name if name in STREAMS else subjects.kv_stream(name)


def _content(data: bytes) -> Any:
    if not data:
        return None
    try:
        return _without_private(msgspec.msgpack.decode(data))
    except msgspec.MsgspecError:
        return "(not readable)"


def _without_private(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _size(inner) if key in PRIVATE else _without_private(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_private(inner) for inner in value]
    return value


def _size(value: Any) -> str | None:
    if value is None:
        return None
    return f"({len(value)} bytes)" if isinstance(value, bytes) else "(not shown)"
