"""
The stream of the audit trail: appending an entry, and reading back from the newest.

NATS reads a subject forwards only, and a user wants what is newest. So each entry names the sequence of the one before
it on its subject, and a reader goes from one to the next: as many questions as entries. That chain is whole because an
entry is written only if the one that it names is still the newest. Rows: F3.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from weakref import WeakValueDictionary

import structlog
from msgspec.structs import replace
from nats.js import api
from nats.js.errors import APIError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from mayfly.bus import messages, subjects
from mayfly.bus.codec import Codec, Undecodable
from mayfly.bus.connection import Bus, translated
from mayfly.bus.messages import Stored
from mayfly.bus.patience import FAILOVER_S, UNANSWERED, patiently
from mayfly.bus.store import READ_TIMEOUT_S, WRONG_LAST_SEQUENCE
from mayfly.domain.audit import AuditEntry
from mayfly.domain.errors import QueueUnavailable

log = structlog.get_logger()

ENTRY = Codec(AuditEntry)
DUPLICATE_IN_PROCESS = 10158


class _Overtaken(Exception):
    """Somebody else has written to this subject since its newest entry was read."""


@dataclass(frozen=True, slots=True)
class Found:
    """An entry, and where it lies."""

    seq: int
    entry: AuditEntry


class AuditStream:
    """
    The stream, as one process writes and reads it.

    What one process writes to a subject it writes one after the other: so only as many race as there are processes,
    however much one user does at once.
    """

    def __init__(self, bus: Bus) -> None:
        """Work on an open bus."""
        self._bus = bus
        self._writing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # gone with the last who waits

    async def append(self, subject: str, entry: AuditEntry) -> None:
        """
        Write an entry; returns when the stream has it, exactly once.

        Raises: QueueUnavailable when nobody can say whether it has.
        """
        async with self._writing.setdefault(subject, asyncio.Lock()):
            with translated("write the audit trail"):
                try:
                    await self._append_behind_the_newest(subject, entry)
                except _Overtaken as error:
                    raise QueueUnavailable(retry_after_s=1) from error

    async def newest(self, subject: str) -> Found | None:
        """
        Read the newest entry of a subject; None if there is none.

        Raises: QueueUnavailable.
        """
        with translated("read the audit trail"):
            return _found(await self._read(last_by_subj=subject))

    async def at(self, subject: str, seq: int) -> Found | None:
        """
        Read the entry at a sequence; None if there is none any more, or what lies there is of another subject.

        Raises: QueueUnavailable.
        """
        with translated("read the audit trail"):
            stored = await self._read(seq=seq) if seq else None
        return _found(stored) if stored is not None and stored.subject == subject else None

    async def _append_behind_the_newest(self, subject: str, entry: AuditEntry) -> None:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(_Overtaken),
            wait=wait_random_exponential(multiplier=0.005, max=0.2),
            stop=stop_after_delay(FAILOVER_S),
            reraise=True,
        ):
            with attempt:
                await self._append(subject, entry)

    async def _append(self, subject: str, entry: AuditEntry) -> None:
        """Write it once. It has the same id each time, so one that was stored unheard is not stored again."""
        last = await self._read(last_by_subj=subject)
        previous = last.seq if last else 0
        data = ENTRY.encode(replace(entry, previous=previous))
        headers: dict[str, str] = {
            api.Header.MSG_ID: entry.id,
            api.Header.EXPECTED_LAST_SUBJECT_SEQUENCE: str(previous),
        }
        try:
            await patiently(lambda: self._bus.js.publish(subject, data, headers=headers), also=UNANSWERED)
        except APIError as error:
            if error.err_code in (*WRONG_LAST_SEQUENCE, DUPLICATE_IN_PROCESS):
                raise _Overtaken from error
            raise

    async def _read(self, **which: object) -> Stored | None:
        ask = partial(messages.read, self._bus, subjects.AUDIT, timeout_s=READ_TIMEOUT_S, **which)
        return await patiently(ask, also=UNANSWERED)


def _found(stored: Stored | None) -> Found | None:
    """Decode. What cannot be read ends the chain; and a chain goes back, whatever an entry says."""
    if stored is None:
        return None
    try:
        entry = ENTRY.decode(stored.data)
    except Undecodable as error:
        log.error("audit.undecodable", seq=stored.seq, error=str(error))
        return None
    return Found(stored.seq, entry if entry.previous < stored.seq else replace(entry, previous=0))
