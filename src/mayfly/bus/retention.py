"""
What lies in `RESPONSES` of each user, as it comes in; and the books that are kept of it.

JetStream can bound what a stream holds, and the messages of a subject by number, but not a user's bytes. So nats-server
republishes the headers of each response on `kept.>`, with its size and its sequence, and each API server adds up
(`services.retention`). No consumer is needed: who may make one, or pull from one, could have nats-server send an empty
message to any subject, such as the one that deletes a stream.

A user's books lie in the stream that they describe, so they go when that goes. Rows: A3, F4.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError

from mayfly.bus import subjects
from mayfly.bus.codec import Codec, Undecodable
from mayfly.bus.connection import Bus, translated
from mayfly.bus.patience import UNANSWERED, patiently
from mayfly.domain.stored import Count

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Kept:
    """One message of the stream: whose it is, which API server waits for it, its place, and the size of its body."""

    user_id: str
    instance: str
    seq: int
    size: int

    @property
    def is_response(self) -> bool:
        """Whether it is a user's, and not one that an API server wrote about them."""
        return self.instance != subjects.BOOKS


class Chunk(msgspec.Struct, array_like=True):
    """Neighbouring responses of one user: the last one's place, and the bytes of all."""

    last_seq: Count
    size: Count


class Books(msgspec.Struct, frozen=True, kw_only=True):
    """What a user has in the stream, the oldest first."""

    v: int = 1
    chunks: list[Chunk]


BOOKS = Codec(Books)


@dataclass(frozen=True, slots=True)
class Fullness:
    """How much lies in the stream of all users, and how much may; None for no bound."""

    size_bytes: int
    max_bytes: int | None


@asynccontextmanager
async def hearing_kept(bus: Bus, heard: Callable[[Kept], None]) -> AsyncIterator[None]:
    """Call *heard* for every message that the stream takes. Those of an outage are not heard: see `read_kept`."""

    async def on_message(message: Msg) -> None:
        headers = message.headers or {}
        heard(_kept(message.subject, int(headers["Nats-Sequence"]), int(headers["Nats-Msg-Size"])))

    with translated("listen"):
        subscription = await bus.client.subscribe(subjects.kept("*", "*", "*"), cb=on_message)
        await bus.client.flush()
    try:
        yield
    finally:
        if bus.is_connected:
            await subscription.unsubscribe()


async def read_kept(bus: Bus, seq: int) -> Kept | None:
    """
    Read what lies at *seq*; None when it has left the stream.

    Raises: QueueUnavailable.
    """
    with translated("read a response"):
        try:
            message = await patiently(partial(bus.js.get_msg, subjects.RESPONSES, seq), also=UNANSWERED)
        except NotFoundError:
            return None
    return _kept(message.subject or "", seq, len(message.data or b""))


async def read_books(bus: Bus, user_id: str) -> Books:
    """
    Read a user's books; empty ones when there are none.

    Raises: QueueUnavailable.
    """
    with translated("read the books"):
        try:
            read = partial(bus.js.get_last_msg, subjects.RESPONSES, subjects.books(user_id))
            message = await patiently(read, also=UNANSWERED)
        except NotFoundError:
            return Books(chunks=[])
    try:
        return BOOKS.decode(message.data or b"")
    except Undecodable as error:
        log.error("retention.undecodable", user=user_id, error=str(error))
        return Books(chunks=[])


async def read_fullness(bus: Bus) -> Fullness:
    """
    Ask how full the stream is.

    Raises: QueueUnavailable.
    """
    with translated("read how full the responses are"):
        info = await patiently(partial(bus.js.stream_info, subjects.RESPONSES), also=UNANSWERED)
    most = info.config.max_bytes or -1
    return Fullness(info.state.bytes, most if most > 0 else None)


async def users_with_books(bus: Bus) -> list[str]:
    """
    List the users of whom there are books: all but those who have little.

    Raises: QueueUnavailable.
    """
    with translated("list the books"):
        ask = partial(bus.js.stream_info, subjects.RESPONSES, subjects_filter=subjects.books("*"))
        info = await patiently(ask, also=UNANSWERED)
    return [subject.split(".")[1] for subject in info.state.subjects or ()]


async def write_books(bus: Bus, user_id: str, books: Books, *, keep_s: float) -> None:
    """
    Write a user's books, for the API server that comes after this one.

    Raises: QueueUnavailable.
    """
    with translated("write the books"):
        await bus.js.publish(subjects.books(user_id), BOOKS.encode(books), msg_ttl=keep_s)


async def drop_responses(bus: Bus, user_id: str, *, up_to_seq: int) -> None:
    """
    Remove a user's responses up to and with that one. Doing it twice does no harm.

    Raises: QueueUnavailable.
    """
    with translated("drop responses"):
        await bus.js.purge_stream(subjects.RESPONSES, seq=up_to_seq + 1, subject=subjects.responses_of(user_id))


def _kept(subject: str, seq: int, size: int) -> Kept:
    _, user_id, instance, _ = subject.split(".")
    return Kept(user_id, instance, seq, size)
