"""
Back-off: whoever guesses passwords has to wait longer and longer, whichever API server he asks.

A guess is counted before it is looked at, at a user's name from one address, at the name from anywhere, and from the
address at any name; once too many have failed it is refused unread, a right one as well, or else the refusal would tell
which is right. Names that nobody has are counted alike. What is counted lies in NATS: all API servers see the same, and
it outlives them.

A lock-out must be no weapon. From an address where this user has logged in before (`KnownAddress`), only what failed at
his name from there counts, so that strangers cannot keep him out; logins and keys that exist are not asked here at all.

Guarantees:
- however many guesses come at once, to however many API servers, no more are looked at than the limits allow: each
  takes its turn by compare-and-set, and gives it back if it was right;
- a guess whose end nobody saw (its API server or caller was gone) counts as failed;
- while NATS does not answer nothing is looked at; a guess that ends for that reason is taken back, if NATS takes it;
- what is kept is bounded by the buckets' size, and by time. The oldest goes first. Rows: F3.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import structlog

from mayfly.bus.store import Conflict, Entry, Store
from mayfly.bus.stores import Stores
from mayfly.domain.attempts import BackOff, KnownAddress, Tally
from mayfly.domain.errors import QueueUnavailable, TooManyAttempts
from mayfly.domain.ids import new_id
from mayfly.services.passwords import Passwords
from mayfly.settings import BackOffSettings

log = structlog.get_logger()

Scope = Literal["user-and-address", "user", "address", "registrations"]
SCOPES: tuple[Scope, ...] = ("user-and-address", "user", "address", "registrations")

SENTENCES: dict[Scope, str] = {
    "user-and-address": "Too many logins with this user name have failed from your address",
    "user": "Too many logins with this user name have failed",
    "address": "Too many logins have failed from your address",
    "registrations": "Too many users were registered from your address",
}


@dataclass(frozen=True, slots=True)
class _Counter:
    scope: Scope
    key: str


class Attempts:
    """Counts attempts for all users, those that do not exist included."""

    def __init__(
        self, stores: Stores, settings: BackOffSettings, passwords: Passwords, *, on_refusal: Callable[[str], None]
    ) -> None:
        """*on_refusal* is told the scope of each refusal, one of `SCOPES`."""
        self._passwords = passwords
        self._tallies: Store[Tally] = stores.attempts
        self._known: Store[KnownAddress] = stores.addresses
        self._known_s = settings.known_address_s
        self._kept_s = settings.login_failures_kept_s
        self._on_refusal = on_refusal
        free: dict[Scope, int] = {
            "user-and-address": settings.login_failures_per_user_and_address,
            "user": settings.login_failures_per_user,
            "address": settings.login_failures_per_address,
            "registrations": settings.registrations_per_address,
        }
        self._back_off = {
            scope: BackOff(
                free=free[scope],
                delay_s=settings.login_back_off_s,
                delay_max_s=settings.login_back_off_max_s,
                kept_s=self._kept_s,
            )
            for scope in SCOPES
        }

    @asynccontextmanager
    async def guess(self, username: str, network: str | None) -> AsyncIterator[None]:
        """
        Look inside whether a password is right, and raise if it is not; *network* is where the guess comes from, None
        if nobody knows. A guess that nobody had the time to look at (TooManyAttempts) does not count, nor one that
        ended with NATS (QueueUnavailable).

        Raises: TooManyAttempts, with `retry_after_s`, before anything is looked at; QueueUnavailable.
        """
        counters = [_Counter("user", _key("user", username))]
        if network is not None:
            pair = _Counter("user-and-address", _key("pair", username, network))
            counters = [pair, *counters, _Counter("address", _key("address", network))]
        async with self._counted(counters, known=_key("known", username, network or ""), network=network) as taken:
            try:
                yield
            except QueueUnavailable:  # it was not looked at, or was right: of a wrong one nothing is written
                await self._give_back(taken)
                raise
        await self._succeeded(taken, username, network)

    @asynccontextmanager
    async def registration(self, network: str | None) -> AsyncIterator[None]:
        """
        Register a user inside. Each counts, also one that is refused since the name is taken: it told so.

        Raises: TooManyAttempts; QueueUnavailable.
        """
        counters = [] if network is None else [_Counter("registrations", _key("registrations", network))]
        async with self._counted(counters, known=None, network=network):
            yield

    @asynccontextmanager
    async def _counted(
        self, counters: list[_Counter], *, known: str | None, network: str | None
    ) -> AsyncIterator[list[_Counter]]:
        self._passwords.refuse_beyond_line()  # a flood is to cost no writes
        taken = await self._take_turn(counters, known, network)
        try:
            yield taken
        except TooManyAttempts:  # there was no room to look at it
            await self._give_back(taken)
            raise

    async def _take_turn(self, counters: list[_Counter], known: str | None, network: str | None) -> list[_Counter]:
        """Count an attempt everywhere where it is to be, or nowhere; return where."""
        reading = asyncio.gather(*(self._tallies.get(counter.key) for counter in counters))
        is_known, entries = await asyncio.gather(self._is_known(known), reading)
        if is_known:
            counters, entries = counters[:1], entries[:1]
        self._refuse_if_waiting(counters, entries, network)
        taken: list[_Counter] = []
        for counter, entry in zip(counters, entries, strict=True):
            try:
                await self._count(counter, entry, network)
            except TooManyAttempts:  # others have been faster since it was read
                await self._give_back(taken)
                raise
            taken.append(counter)
        return taken

    async def _is_known(self, key: str | None) -> bool:
        return key is not None and await self._known.get(key) is not None

    def _refuse_if_waiting(
        self, counters: list[_Counter], entries: list[Entry[Tally] | None], network: str | None
    ) -> None:
        now = self._tallies.now()
        waits = [
            (self._back_off[counter.scope].wait_s(entry.value if entry else None, now), counter.scope)
            for counter, entry in zip(counters, entries, strict=True)
        ]
        wait_s, scope = max(waits, default=(0.0, SCOPES[0]))
        if wait_s > 0:
            self._refuse(scope, wait_s, network)

    def _refuse(self, scope: Scope, wait_s: float, network: str | None) -> None:
        log.warning("attempt.refused", scope=scope, network=network, wait_s=round(wait_s, 1))
        self._on_refusal(scope)
        raise TooManyAttempts(
            f"{SENTENCES[scope]}, so the next one has to wait; a right password would be refused until then as well. "
            "Logins and keys that you have go on.",
            retry_after_s=wait_s,
        )

    async def _count(self, counter: _Counter, entry: Entry[Tally] | None, network: str | None) -> None:
        """Count one attempt more, unless others who came at the same time have used up what is free."""
        back_off = self._back_off[counter.scope]
        while True:
            tally, now = entry.value if entry else None, self._tallies.now()
            wait_s = back_off.wait_s(tally, now)
            if wait_s > 0:
                self._refuse(counter.scope, wait_s, network)
            if await self._write(counter, entry, back_off.one_more(tally, now, new_id())):
                return
            entry = await self._tallies.get(counter.key)

    async def _succeeded(self, taken: list[_Counter], username: str, network: str | None) -> None:
        """Forget what has failed at this name from there, and from now on know the address."""
        pairs = [counter for counter in taken if counter.scope == "user-and-address"]
        others = [counter for counter in taken if counter.scope != "user-and-address"]
        await asyncio.gather(self._give_back(others), *(self._forget(counter) for counter in pairs))
        if network is not None:
            now = self._known.now()
            await self._known.put(_key("known", username, network), KnownAddress(since=now), ttl_s=self._known_s)

    async def _give_back(self, counters: list[_Counter]) -> None:
        await asyncio.gather(*(self._take_back(counter) for counter in counters))

    async def _take_back(self, counter: _Counter) -> None:
        while entry := await self._tallies.get(counter.key):
            if await self._write(counter, entry, self._back_off[counter.scope].one_less(entry.value, new_id())):
                return

    async def _forget(self, counter: _Counter) -> None:
        while entry := await self._tallies.get(counter.key):
            if await self._write(counter, entry, Tally(failures=0, last_at=entry.value.last_at, nonce=new_id())):
                return

    async def _write(self, counter: _Counter, entry: Entry[Tally] | None, tally: Tally) -> bool:
        """Write what is counted; False if somebody else did since it was read."""
        try:
            if entry is None:
                await self._tallies.create(counter.key, tally, ttl_s=self._kept_s)
            else:
                await self._tallies.update(counter.key, tally, revision=entry.revision, ttl_s=self._kept_s)
        except Conflict:
            return False
        return True


def _key(*parts: str) -> str:
    """Make a key that says nothing to who reads it, of words that may be anything."""
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:40]
