"""
The audit trail: writing down what was done, counting refused logins, and showing a user his own.

An entry is written after what it tells of and before that is answered (docs/adr/2026-12-01-audit-after-the-change.md):
what was answered with success is in the trail. A call is not written down here; it has a record of its own.

Guarantees:
- an entry that cannot be written is an error, never silence;
- refused logins make at most one entry a minute for a user and an address, which says how many they were. They are
  written some time later and beside the answers, so that no answer tells by its time whether a user exists.
Rows: F3.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from mayfly.bus import subjects
from mayfly.bus.audit import AuditStream, Found
from mayfly.bus.connection import Bus
from mayfly.domain.audit import OF_LOGINS, SUBJECT_MAX_CHARACTERS, Action, Actor, AuditEntry, Outcome
from mayfly.domain.errors import InvalidRequest, NotAuthenticated, QueueUnavailable
from mayfly.domain.ids import UserId, new_ulid
from mayfly.domain.user import User

log = structlog.get_logger()

NOT_WRITTEN = (
    "What you asked for was done, but it could not be written into the audit trail. See how things stand before you "
    "repeat it."
)
WINDOW_S = 60.0
WRITTEN_EVERY_S = 1.0
CLOSED_WITHIN_S = 5.0
ADDRESSES_PER_USER = 4  # of one window; who comes from further ones is counted together, without an address
WINDOWS_AT_MOST = 4096  # of all users; beyond, all are counted together, without a user
KINDS = (subjects.LOGINS, subjects.DONE, subjects.TRIED)

_CURSOR = re.compile(rf"[0-9]{{1,19}}(\.[0-9]{{1,19}}){{{len(KINDS) - 1}}}")


class Audit:
    """The trail of all users; a listing is of one owner's only."""

    def __init__(self, bus: Bus) -> None:
        """Work on an open bus."""
        self._bus = bus
        self._stream = AuditStream(bus)

    async def record(
        self,
        actor: Actor,
        action: Action,
        subject: str | None = None,
        *,
        outcome: Outcome = "done",
        code: str | None = None,
        in_trail_of: UserId | None = None,
    ) -> None:
        """
        Write down what *actor* did to *subject*, in his own trail unless it says whose; returns when NATS has it.

        Raises: QueueUnavailable, with `NOT_WRITTEN` where it was done.
        """
        owner = in_trail_of or actor.user_id or subjects.NOBODY
        entry = self._entry(actor, action, subject, outcome=outcome, code=code)
        try:
            await self._stream.append(subjects.audit(owner, _kind(action, outcome)), entry)
        except QueueUnavailable as error:
            log.error("audit.not-written", action=action, user_id=owner, outcome=outcome)
            raise QueueUnavailable(NOT_WRITTEN if outcome == "done" else None, retry_after_s=1) from error

    def refused_login(self, actor: Actor, *, times: int, at: float) -> AuditEntry:
        """Make the entry that somebody was not let in, so many *times*, the last *at* that moment by NATS's clock."""
        return self._entry(
            actor, Action.SESSION_BEGIN, None, outcome="refused", code=NotAuthenticated.code, times=times, at=at
        )

    async def record_refused_login(self, entry: AuditEntry) -> None:
        """
        Write down an entry of `refused_login`. Nothing is lost if it is there already.

        Raises: QueueUnavailable when nobody can say whether it is, and then the same one can be written again.
        """
        owner = entry.actor.user_id or subjects.NOBODY
        await self._stream.append(subjects.audit(owner, subjects.TRIED), entry)

    async def list(self, owner: UserId, *, limit: int, after: str | None = None) -> tuple[list[AuditEntry], str | None]:
        """
        List an owner's entries, the newest first, *limit* at a time; the second value continues the list. What one
        page costs are *limit* + 3 reads, however long the trail is.

        Raises: InvalidRequest when *after* is no such value; QueueUnavailable.
        """
        lines = [subjects.audit(owner, kind) for kind in KINDS]
        if after is None:
            heads = [await self._stream.newest(line) for line in lines]
        else:
            heads = [await self._stream.at(line, seq) for line, seq in zip(lines, _positions(after), strict=True)]
        entries: list[AuditEntry] = []
        while any(heads) and len(entries) < limit:
            which, head = _newer(heads)
            entries.append(head.entry)
            heads[which] = await self._stream.at(lines[which], head.entry.previous)
        more = ".".join(str(head.seq if head else 0) for head in heads)
        return entries, more if any(heads) else None

    def now(self) -> float:
        """Return the time, by NATS's clock, in seconds since the epoch."""
        return self._bus.clock.now()

    def _entry(
        self,
        actor: Actor,
        action: Action,
        subject: str | None,
        *,
        outcome: Outcome,
        code: str | None,
        times: int = 1,
        at: float | None = None,
    ) -> AuditEntry:
        return AuditEntry(
            id=new_ulid(),
            at=self.now() if at is None else at,
            action=action,
            subject=None if subject is None else subject[:SUBJECT_MAX_CHARACTERS],
            actor=actor,
            outcome=outcome,
            code=code,
            times=times,
        )


@dataclass(slots=True)
class _Window:
    """Refused logins of one user from one address."""

    actor: Actor
    at: float  # of the last one
    due_at: float  # when what is counted may be written
    times: int = 0  # in no entry yet
    offered: AuditEntry | None = None  # not known to be written: offered again as it is, or it would count twice


Key = tuple[UserId | None, str | None]
EVERYBODY: Key = (None, None)


class Refusals:
    """Counts refused logins, and has them written now and then."""

    def __init__(self, trail: Audit, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is counted; *clock* tells when a window is over."""
        self._trail = trail
        self._clock = clock
        self._windows: dict[Key, _Window] = {}
        self._of_user: Counter[UserId | None] = Counter()

    def note(self, user: User | None, *, address: str, request_id: str) -> None:
        """Count a login that was refused; None where there is no such user. It takes as long for one as for none."""
        user_id, user_name = (user.id, user.name) if user else (None, None)
        wanted: tuple[Key, ...] = ((user_id, address), (user_id, None), EVERYBODY)
        key = next(each for each in wanted if each in self._windows or self._has_room(each))
        actor = Actor(
            by="nobody",
            user_id=key[0],
            user_name=user_name if key[0] else None,
            address=key[1],
            request_id=request_id,
        )
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = _Window(actor, at=0, due_at=self._clock())
            self._of_user[key[0]] += 1
        window.actor, window.at, window.times = actor, self._trail.now(), window.times + 1

    async def run(self) -> None:
        """Write what is due, for ever."""
        while True:
            await asyncio.sleep(WRITTEN_EVERY_S)
            await self.write()

    async def close(self) -> None:
        """Write what is left, as far as NATS takes it within `CLOSED_WITHIN_S`."""
        try:
            async with asyncio.timeout(CLOSED_WITHIN_S):
                await self.write(all_now=True)
        except TimeoutError:
            log.warning("audit.refusals-lost", windows=len(self._windows))

    async def write(self, *, all_now: bool = False) -> None:
        """
        Write what was counted in windows that are over, or in *all_now*, and forget those in which nothing came. What
        NATS does not take now is tried again the next time.
        """
        for key, window in list(self._windows.items()):
            if self._is_over(window) and not window.times and not window.offered:
                self._forget(key)
                continue
            while window.offered or (window.times and (all_now or self._is_over(window))):
                try:
                    await self._offer(window)
                except QueueUnavailable as error:
                    log.warning("audit.refusals-not-written", windows=len(self._windows), error=repr(error))
                    return

    async def _offer(self, window: _Window) -> None:
        """
        Write what was counted, or once more what was offered before: whoever was interrupted, or heard nothing, does
        not know whether it was written.
        """
        if window.offered is None:
            window.offered = self._trail.refused_login(window.actor, times=window.times, at=window.at)
            window.times = 0
        await self._trail.record_refused_login(window.offered)
        window.offered, window.due_at = None, self._clock() + WINDOW_S

    def _is_over(self, window: _Window) -> bool:
        return self._clock() >= window.due_at

    def _forget(self, key: Key) -> None:
        del self._windows[key]
        self._of_user[key[0]] -= 1
        if not self._of_user[key[0]]:
            del self._of_user[key[0]]

    def _has_room(self, key: Key) -> bool:
        if key == EVERYBODY:
            return True
        return len(self._windows) < WINDOWS_AT_MOST and (key[1] is None or self._of_user[key[0]] < ADDRESSES_PER_USER)


def _newer(heads: list[Found | None]) -> tuple[int, Found]:
    """Of the ends of several chains, find the one that was written last."""
    return max(((index, head) for index, head in enumerate(heads) if head), key=lambda each: each[1].seq)


def _kind(action: Action, outcome: Outcome) -> str:
    """Say with which others an entry shares its room."""
    if action is Action.PASSWORD_CHANGE and outcome == "refused":
        return subjects.TRIED
    return subjects.LOGINS if action in OF_LOGINS else subjects.DONE


def _positions(cursor: str) -> list[int]:
    positions = [int(part) for part in cursor.split(".")] if _CURSOR.fullmatch(cursor) else []
    if not positions or max(positions) >= 1 << 63:
        raise InvalidRequest("`after` must be the `next` of the page before.", field="after")
    return positions
