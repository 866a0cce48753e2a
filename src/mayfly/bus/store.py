"""
One bucket of NATS's key-value store, as typed entries with compare-and-set. Rows: A4.

Guarantees:
- a read is answered by the stream's leader, so it sees every write that was confirmed before;
- a write says at which revision the entry must stand (0: absent), and exactly one of two such writes wins;
- when the answer to a write is lost, the same write is repeated; one that loses is read back, and bytes equal to
  ours mean that we had won before. Values that race therefore carry a nonce;
- while the bucket has no leader, reads and compare-and-sets wait for one (`patience`);
- every write may set how long the entry lives; the server removes it afterwards;
- what was deleted stays deleted, also when nats-server is killed. One that starts again after that forgets which values
  were replaced (https://github.com/nats-io/nats-server/issues/8505), so a value comes back whose successor has expired.
  So a tombstone lives as long as what it replaces: for ever, if that does.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from typing import Generic, TypeVar

import msgspec
from nats.js import api
from nats.js.errors import APIError, KeyWrongLastSequenceError

from mayfly.bus import messages
from mayfly.bus.answers import Answer, Failure
from mayfly.bus.codec import Codec, Versioned
from mayfly.bus.connection import REQUEST_TIMEOUT_S, Bus, translated
from mayfly.bus.messages import Stored
from mayfly.bus.patience import UNANSWERED, patiently
from mayfly.bus.subjects import kv_stream, kv_subject, stream_info

T = TypeVar("T", bound=Versioned)

WRONG_LAST_SEQUENCE = (10071, 10164)
PORTION = 2000
"""Keys of a long list that are dealt with before others have their turn: a millisecond or two. An answer of nats-server
has up to 100,000, which at once take a tenth of a second."""

NO_NAMES = 2**31 - 1  # an offset behind all subjects: how many there are, and none of them
READ_TIMEOUT_S = 2.0  # one attempt; a node that has just died answers none, and another may by then


class Conflict(Exception):
    """The entry does not stand at the expected revision: somebody else wrote first."""


class _Subjects(msgspec.Struct):
    subjects: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET  # an object, with a number for each name


class _InfoAnswer(msgspec.Struct):
    total: int = 0  # subjects that fit; an answer has 100,000 of them at most
    state: _Subjects = msgspec.field(default_factory=_Subjects)
    error: Failure | None = None


_INFO = Answer(_InfoAnswer)
_NAME = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*"):[0-9]+')


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """A value and the revision it was read at."""

    key: str
    value: T
    revision: int


class Store(Generic[T]):
    """A bucket whose values are structs of one type."""

    def __init__(self, bus: Bus, bucket: str, struct: type[T]) -> None:
        self._bus = bus
        self._bucket = bucket
        self._codec = Codec(struct)

    def now(self) -> float:
        """Return the time, by NATS's clock, in seconds since the epoch."""
        return self._bus.clock.now()

    async def get(self, key: str) -> Entry[T] | None:
        """
        Read an entry at the leader; None if there is none.

        Raises: QueueUnavailable; Undecodable if what lies there cannot be read.
        """
        stored = await self._read(key)
        if stored is None or _is_tombstone(stored):
            return None
        return Entry(key, self._codec.decode(stored.data), stored.seq)

    async def create(self, key: str, value: T, *, ttl_s: float | None = None) -> int:
        """
        Write an entry that must not exist; return its revision.

        Raises: Conflict when it exists; QueueUnavailable.
        """
        try:
            return await self.update(key, value, revision=0, ttl_s=ttl_s)
        except Conflict:
            stored = await self._read(key)
            if stored is None or not _is_tombstone(stored):
                raise
            return await self.update(key, value, revision=stored.seq, ttl_s=ttl_s)

    async def update(self, key: str, value: T, *, revision: int, ttl_s: float | None = None) -> int:
        """
        Write an entry that must stand at *revision*; return the new one.

        Raises: Conflict when it does not; QueueUnavailable when nobody can say whether the write was made.
        """
        return await self._compare_and_set(key, self._codec.encode(value), revision=revision, ttl_s=ttl_s)

    async def put(self, key: str, value: T, *, ttl_s: float | None = None) -> int:
        """
        Write an entry whatever stands there: for what only one process ever writes.

        Raises: QueueUnavailable.
        """
        with translated("write"):
            subject = kv_subject(self._bucket, key)
            return (await self._bus.js.publish(subject, self._codec.encode(value), msg_ttl=ttl_s)).seq

    async def delete(self, key: str, *, revision: int) -> None:
        """
        Remove an entry that must stand at *revision*.

        Raises: Conflict; QueueUnavailable.
        """
        stored = await self._read(key)
        if stored is None or stored.seq != revision:
            raise Conflict(key)
        headers = {"KV-Operation": "PURGE", **_time_to_live(stored)}
        await self._compare_and_set(key, b"", revision=revision, ttl_s=None, headers=headers)

    async def remove(self, key: str) -> bool:
        """
        Remove an entry at whatever revision it stands, whether or not it can be read; say whether there was one.

        Raises: QueueUnavailable.
        """
        while (stored := await self._read(key)) and not _is_tombstone(stored):
            with suppress(Conflict):
                await self.delete(key, revision=stored.seq)
                return True
        return False

    async def vacancy(self, key: str) -> int | None:
        """
        Say at which revision a key is free: 0 if nothing was ever there; None if it is taken.

        Raises: QueueUnavailable.
        """
        stored = await self._read(key)
        if stored is None:
            return 0
        return stored.seq if _is_tombstone(stored) else None

    async def bury(self, key: str, *, revision: int) -> None:
        """
        See that a key which is free at *revision* is so at a later one: whoever was to write it at this one never can.

        Raises: Conflict when it is taken by now; QueueUnavailable.
        """
        await self._compare_and_set(key, b"", revision=revision, ttl_s=None, headers={"KV-Operation": "DEL"})

    async def erase(self, key: str) -> None:
        """
        Remove what stands under a key, whether or not it can be read, without leaving a tombstone; what was written
        anew meanwhile, too. In a bucket of `subjects.LEAVE_NOTHING`.

        Raises: QueueUnavailable.
        """
        stream = kv_stream(self._bucket)
        while stored := await self._read(key):
            with translated("erase"):
                await patiently(partial(messages.delete, self._bus, stream, stored.seq, erase=True), also=UNANSWERED)

    async def keys(self, prefix: str | None = None) -> list[str]:
        """
        List the keys below *prefix* (whole tokens, such as a user id), or all, sorted. Entries that were deleted
        may be among them: read each.

        Raises: QueueUnavailable.
        """
        found = [key async for portion in self.portions(prefix) for key in portion]
        return [key for key, _ in groupby(sorted(found))]  # found in order, nearly, so this takes little time

    async def portions(self, prefix: str | None = None) -> AsyncIterator[list[str]]:
        """
        List them likewise, `PORTION` at a time at most, each portion sorted. Others have their turn before the next
        one. Who comes or goes meanwhile may have another listed twice, of more than 100,000.

        Raises: QueueUnavailable.
        """
        head = kv_subject(self._bucket, "")
        pattern = f"{head}{prefix}.>" if prefix else f"{head}>"
        offset, total = 0, 1
        while offset < total:
            with translated("list keys"):
                page = await patiently(partial(self._subjects, pattern, offset=offset), also=UNANSWERED)
            before, total = offset, page.total
            for portion in _portions(page.state.subjects, head):
                offset += len(portion)
                yield portion
                await asyncio.sleep(0)
            if offset == before:
                return

    async def count(self) -> int:
        """
        Count the entries of the bucket, tombstones included.

        Raises: QueueUnavailable.
        """
        with translated("count keys"):
            return (await self._bus.js.stream_info(kv_stream(self._bucket))).state.messages

    async def count_below(self, prefix: str) -> int:
        """
        Count what is stored below *prefix*, as of `keys`: entries, and tombstones, which take room as well.

        Raises: QueueUnavailable.
        """
        pattern = kv_subject(self._bucket, f"{prefix}.>")
        with translated("count keys"):
            ask = partial(self._subjects, pattern, offset=NO_NAMES)
            return (await patiently(ask, also=UNANSWERED)).total

    async def _subjects(self, pattern: str, *, offset: int) -> _InfoAnswer:
        query = msgspec.json.encode({"subjects_filter": pattern, "offset": offset})
        subject = stream_info(kv_stream(self._bucket), self._bus.api)
        answer = _INFO.decode((await self._bus.client.request(subject, query, timeout=REQUEST_TIMEOUT_S)).data)
        if answer.error:
            raise answer.error.to_error()
        subjects = answer.state.subjects
        if subjects is not msgspec.UNSET and not bytes(memoryview(subjects)[:1]).startswith(b"{"):
            raise APIError(description="an answer that cannot be read: its subjects are no object")
        return answer

    async def _read(self, key: str) -> Stored | None:
        subject = kv_subject(self._bucket, key)
        ask = partial(messages.read, self._bus, kv_stream(self._bucket), timeout_s=READ_TIMEOUT_S, last_by_subj=subject)
        with translated("read"):
            return await patiently(ask, also=UNANSWERED)

    async def _compare_and_set(
        self, key: str, data: bytes, *, revision: int, ttl_s: float | None, headers: dict[str, str] | None = None
    ) -> int:
        """Write; a write that loses to bytes equal to its own was made before, by an attempt whose answer was lost."""
        try:
            return await self._publish_or_repeat(key, data, revision=revision, ttl_s=ttl_s, headers=headers)
        except Conflict:
            stored = await self._read(key)
            if stored is not None and stored.seq > revision and stored.data == data:
                return stored.seq
            raise

    async def _publish_or_repeat(
        self, key: str, data: bytes, *, revision: int, ttl_s: float | None, headers: dict[str, str] | None
    ) -> int:
        with translated("write"):
            return await patiently(
                lambda: self._publish(key, data, revision=revision, ttl_s=ttl_s, headers=headers), also=UNANSWERED
            )

    async def _publish(
        self, key: str, data: bytes, *, revision: int, ttl_s: float | None, headers: dict[str, str] | None
    ) -> int:
        sent = {api.Header.EXPECTED_LAST_SUBJECT_SEQUENCE: str(revision), **(headers or {})}
        try:
            ack = await self._bus.js.publish(
                kv_subject(self._bucket, key), data, headers=sent, msg_ttl=None if ttl_s is None else max(1.0, ttl_s)
            )
        except KeyWrongLastSequenceError as error:
            raise Conflict(key) from error
        except APIError as error:
            if error.err_code in WRONG_LAST_SEQUENCE:
                raise Conflict(key) from error
            raise
        return ack.seq


def _portions(subjects: msgspec.Raw | msgspec.UnsetType, head: str) -> Iterator[list[str]]:
    """Take names out of JSON bit by bit: all at once would be one long step. They come sorted, as Go writes maps."""
    names = (_text(match[1]) for match in _NAME.finditer(b"" if subjects is msgspec.UNSET else subjects))
    while portion := sorted(name[len(head) :] for name in islice(names, PORTION)):
        yield portion


def _text(quoted: bytes) -> str:
    return msgspec.json.decode(quoted, type=str) if b"\\" in quoted else quoted[1:-1].decode()


def _is_tombstone(stored: Stored) -> bool:
    return b"KV-Operation:" in stored.hdrs


def _time_to_live(stored: Stored) -> dict[str, str]:
    """The header by which a message expires as that one does, or later; none if it does not."""
    for line in stored.hdrs.decode().splitlines():
        name, _, value = line.partition(":")
        if name.lower() == api.Header.MSG_TTL.lower():
            return {api.Header.MSG_TTL: value.strip()}
    return {}
