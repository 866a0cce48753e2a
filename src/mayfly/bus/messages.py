"""
Single messages of a stream, read and removed at its leader.

JetStream answers these questions in JSON, and errors in the same shape: one is an APIError here, unless it says that
there is no such message. Rows: A3, A4.
"""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from mayfly.bus.answers import Answer, Failure
from mayfly.bus.connection import REQUEST_TIMEOUT_S, Bus
from mayfly.bus.subjects import message_delete, message_get

NOT_FOUND = frozenset({10037, 10043})  # to read; to delete, at a sequence between the first and the last message
NOT_DELETED = 10057
NOTHING_THERE = frozenset({"no message found", "stream store EOF"})
"""In nats-server's words, as `NOT_DELETED` is for every reason: before a stream's first message, after its last."""


class Stored(msgspec.Struct):
    """A message as it lies in a stream."""

    subject: str
    seq: int
    time: datetime.datetime
    data: bytes = b""
    hdrs: bytes = b""


class _Answer(msgspec.Struct):
    message: Stored | None = None
    error: Failure | None = None


_ANSWER = Answer(_Answer)


async def read(bus: Bus, stream: str, *, timeout_s: float = REQUEST_TIMEOUT_S, **which: Any) -> Stored | None:
    """
    Read one message; *which* is NATS's own way to name it: `last_by_subj`, or `seq` with or without `next_by_subj`.

    Raises: what nats-py raises.
    """
    query = msgspec.json.encode(which)
    reply = await bus.client.request(message_get(stream, bus.api), query, timeout=timeout_s)
    answer = _ANSWER.decode(reply.data)
    _check(answer)
    return answer.message


async def read_through(bus: Bus, stream: str, *, subject: str, first_seq: int, last_seq: int) -> AsyncIterator[Stored]:
    """
    Read what lies there from one sequence to another, the oldest first. Without the end one that is written to faster
    than it is read would never be through.

    Raises: what nats-py raises.
    """
    seq = first_seq
    while seq <= last_seq:
        stored = await read(bus, stream, seq=seq, next_by_subj=subject)
        if stored is None or stored.seq > last_seq:
            return
        seq = stored.seq + 1
        yield stored


async def delete(bus: Bus, stream: str, seq: int, *, erase: bool = False) -> bool:
    """
    Remove one message; return whether it was there. *erase* overwrites it in nats-server's files.

    Raises: what nats-py raises.
    """
    query = msgspec.json.encode({"seq": seq, "no_erase": not erase})
    reply = await bus.client.request(message_delete(stream), query, timeout=REQUEST_TIMEOUT_S)
    answer = _ANSWER.decode(reply.data)
    _check(answer)
    return answer.error is None


def _check(answer: _Answer) -> None:
    error = answer.error
    if error is None or error.err_code in NOT_FOUND:
        return
    if error.err_code != NOT_DELETED or error.description not in NOTHING_THERE:
        raise error.to_error()
