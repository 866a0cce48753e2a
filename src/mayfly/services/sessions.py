"""
Sessions: login, refresh, logout, and the question behind every call: is this token's session still there?

The answer is read from the database each time, at the leader, uncached, so that a logout, a new password or a deleted
account counts at once. Rows: F3.

Guarantees:
- a refresh token is good once; showing an older one that we did issue ends the session and the keys that it has made,
  for somebody copied it;
- whoever logs in while the password or what an operator sets changes or the account goes is not left with a session:
  the user is read again after the session was written, and whoever changes the user sweeps the sessions after that;
- one user's logins do not fill the store: the more there are, the shorter the next one lives (`domain.lifetime`). An
  ended one counts until it would have expired, as its tombstone is kept as long. So ending the oldest ones would free
  nothing; and nobody is locked out, by whoever logs in with his password.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
from msgspec.structs import replace

from mayfly.bus.codec import Undecodable
from mayfly.bus.store import Conflict, Entry, Store
from mayfly.bus.stores import Stores
from mayfly.domain.errors import NotAllowed, NotAuthenticated
from mayfly.domain.ids import KEY_ID, USER_NAME, SessionId, UserId, new_id
from mayfly.domain.lifetime import Lifetime
from mayfly.domain.user import Session, User
from mayfly.services.counts import Counts
from mayfly.services.passwords import Passwords
from mayfly.services.tokens import Claims, TokenKeys

log = structlog.get_logger()

LOGINS_MAX = 10_000  # of one user, ended ones and keys included: some 4 MB
LOGIN_SHORTEST_S = 3600.0  # from the last refresh on
ENDED_AT_ONCE = 16
TOLD_AT_ONCE = 64  # a suspension waits for them
NOBODY = "0"  # a key that no user has: a text that cannot be a name costs a read like any other


@dataclass(frozen=True, slots=True)
class TokenPair:
    """What a login or a refresh gives."""

    access_token: str
    refresh_token: str
    expires_in: int
    session: Session


class WrongPassword(NotAuthenticated):
    """User name or password is wrong."""

    def __init__(self, user: User | None) -> None:
        """Of *user*, who is not told of; None: there is no such user."""
        super().__init__(error="invalid_grant")
        self.user = user


class RefreshTokenReused(NotAuthenticated):
    """
    This refresh token was used before, so somebody may have copied it: the login has been ended. Log in again.
    """

    def __init__(self, session: Session) -> None:
        """Of this *session*, which has been ended."""
        super().__init__(error="invalid_grant")
        self.session = session


class Sessions:
    """The logins of all users."""

    def __init__(self, stores: Stores, keys: TokenKeys, passwords: Passwords, *, access_s: int, refresh_s: int) -> None:
        """*access_s* and *refresh_s* are how long the two kinds of token are good, the latter at the longest."""
        self._users = stores.users
        self._store = stores.sessions
        self._keys = keys
        self._passwords = passwords
        self._access_s = access_s
        lifetime = Lifetime(longest_s=refresh_s, shortest_s=max(LOGIN_SHORTEST_S, access_s), most=LOGINS_MAX)
        self._counts = Counts(lifetime, {"logins": stores.sessions})

    def verify(self, access_token: str) -> Claims:
        """
        Read an access token that we issued and that is not over. `alive` must follow.

        Raises: NotAuthenticated.
        """
        return self._keys.verify(access_token, "access")

    async def alive(self, claims: Claims) -> Session:
        """
        Read the session behind a token.

        Raises: NotAuthenticated when it has ended; NotAllowed when the account is suspended; QueueUnavailable.
        """
        entry = await self._store.get(_key(claims.user_id, claims.session_id))
        if entry is None or entry.value.expires_at <= time.time():
            raise NotAuthenticated(
                "This login or key has ended. POST /v1/tokens begins a new login.", error="invalid_token"
            )
        _refuse_suspended(entry.value)
        return entry.value

    async def log_in(self, username: str, password: str) -> TokenPair:
        """
        Begin a session.

        Raises: NotAuthenticated, alike and after the same time for an unknown user and a wrong password;
        NotAllowed when the account is suspended, to whom knows its password; TooManyAttempts; QueueUnavailable.
        """
        user = await self._users.get(username if USER_NAME.fullmatch(username) else NOBODY)
        if not await self._passwords.matches(password, user.value.password_hash if user else None) or user is None:
            raise WrongPassword(user.value if user else None)
        while True:
            _refuse_suspended(user.value, error="invalid_grant")
            tokens, entry = await self._begin(user.value)
            again = await self._users.get(username)
            if again is not None and again.revision == user.revision:
                log.info("session.begun", user_id=entry.value.user_id, session_id=entry.value.id)
                return tokens
            await self.end(Claims(entry.value.user_id, entry.value.id))  # as it is now: the limit may be in it already
            if again is None or again.value.password_hash != user.value.password_hash:
                raise WrongPassword(user.value)
            user = again  # an operator has changed the account meanwhile

    async def refresh(self, refresh_token: str) -> TokenPair:
        """
        Exchange a refresh token for the next pair; each use makes the session last anew.

        Raises: NotAuthenticated when the token is not the newest, or the session has ended; NotAllowed when the account
        is suspended; QueueUnavailable.
        """
        try:
            claims = self._keys.verify(refresh_token, "refresh")
        except NotAuthenticated as error:
            raise NotAuthenticated(error.detail, error="invalid_grant") from None
        entry = await self._store.get(_key(*_pair(claims)))
        if entry is None or entry.value.expires_at <= time.time():
            raise _ended()
        if not hmac.compare_digest(entry.value.refresh_digest, _digest(refresh_token)):
            log.warning("session.refresh-token-reused", user_id=claims.user_id, session_id=claims.session_id)
            await self._end_stolen(claims)
            raise RefreshTokenReused(entry.value)
        _refuse_suspended(entry.value, error="invalid_grant")
        return await self._reissue(entry)

    async def end(self, claims: Claims) -> None:
        """
        End a session, also one that cannot be read: its tokens are refused from now on. Nothing happens if it has ended
        already.

        Raises: QueueUnavailable.
        """
        if await self._store.remove(_key(*_pair(claims))):
            log.info("session.ended", user_id=claims.user_id, session_id=claims.session_id)

    async def end_all(self, user_id: UserId, *, but: SessionId | None = None, keys: bool = True) -> None:
        """
        End all logins of a user, or all *but* one, and then all *keys*: a login may make one until it has ended.

        Raises: QueueUnavailable.
        """
        await self._end_each(user_id, but=but, keys=False)
        if keys:
            await self._end_each(user_id, but=but, keys=True)

    async def _end_stolen(self, claims: Claims) -> None:
        """
        End a login that somebody has copied, with the keys that it has made: they may be his. Keys are ended first, so
        that one who is interrupted here finds the login again; and once more, for it makes them until it has ended.
        """
        await self._end_keys_of(claims)
        await self.end(claims)
        await self._end_keys_of(claims)

    async def _end_keys_of(self, login: Claims) -> None:
        entries = await key_entries(self._store, login.user_id)
        made = [entry.value.id for entry in entries if entry.value.made_by == login.session_id]
        await asyncio.gather(*(self.end(Claims(login.user_id, each)) for each in made))

    async def _end_each(self, user_id: UserId, *, but: SessionId | None, keys: bool) -> None:
        """End the logins that there are, or the keys."""
        found = [SessionId(key.partition(".")[2]) for key in await self._store.keys(user_id)]
        ids = [each for each in found if each != but and bool(KEY_ID.fullmatch(each)) == keys]
        for start in range(0, len(ids), ENDED_AT_ONCE):
            await asyncio.gather(*(self.end(Claims(user_id, each)) for each in ids[start : start + ENDED_AT_ONCE]))

    async def _begin(self, user: User) -> tuple[TokenPair, Entry[Session]]:
        """Write a session for a user whose password was right."""
        lives_s = await self._lives_s(user.id)
        tokens, session = self._issue(_new_session(user, SessionId(new_id())), lives_s)
        key = _key(session.user_id, session.id)
        return tokens, Entry(key, session, await self._store.create(key, session, ttl_s=lives_s))

    async def _reissue(self, entry: Entry[Session]) -> TokenPair:
        """Give the next pair for a session whose newest refresh token was shown."""
        lives_s = await self._lives_s(entry.value.user_id)
        while True:
            tokens, session = self._issue(entry.value, lives_s)
            try:
                await self._store.update(entry.key, session, revision=entry.revision, ttl_s=lives_s)
            except Conflict:
                now = await self._store.get(entry.key)
                if now is None or now.value.refresh_digest != entry.value.refresh_digest:
                    raise NotAuthenticated(
                        "Another refresh with this token came first; use the tokens that it got.",
                        error="invalid_grant",
                    ) from None
                entry = now  # an operator has changed the account meanwhile
            else:
                return tokens

    async def _lives_s(self, user_id: UserId) -> float:
        """Say how long one more login of a user lives, or one that is refreshed: until it is seen, it counts as one."""
        await self._counts.settle(user_id)
        return self._counts.add(user_id)

    def _issue(self, session: Session, lives_s: float) -> tuple[TokenPair, Session]:
        """Sign a new pair; the session then knows its refresh token and lasts anew."""
        claims = Claims(session.user_id, session.id)
        refresh_token = self._keys.sign(claims, "refresh", lives_s=lives_s)
        session = replace(session, refresh_digest=_digest(refresh_token), expires_at=time.time() + lives_s)
        tokens = TokenPair(
            access_token=self._keys.sign(claims, "access", lives_s=self._access_s),
            refresh_token=refresh_token,
            expires_in=self._access_s,
            session=session,
        )
        return tokens, session


async def key_entries(sessions: Store[Session], owner: UserId) -> list[Entry[Session]]:
    """
    Read all keys of a user that are not over, and can be read. He may have thousands of logins: only keys are read.

    Raises: QueueUnavailable.
    """
    entries = await asyncio.gather(*(_if_readable(sessions, key) for key in await key_places(sessions, owner)))
    return [entry for entry in entries if entry and entry.value.expires_at > time.time()]


async def key_places(sessions: Store[Session], owner: UserId) -> list[str]:
    """
    List where all keys of a user are, and those that were ended.

    Raises: QueueUnavailable.
    """
    return [key for key in await sessions.keys(owner) if KEY_ID.fullmatch(key.partition(".")[2])]


async def _if_readable(sessions: Store[Session], key: str) -> Entry[Session] | None:
    """Read one that opens nothing if it cannot be read, and is no reason to show, make or end no other."""
    try:
        return await sessions.get(key)
    except Undecodable as error:
        log.error("session.undecodable", session=key, error=str(error))
        return None


async def tell_sessions(sessions: Store[Session], user: User) -> None:
    """
    Write what an operator has set about a user into all the logins that he has, of which there may be thousands. One
    that cannot be read cannot be told, and opens nothing: it is ended.

    Raises: QueueUnavailable.
    """
    keys = await sessions.keys(user.id)
    for start in range(0, len(keys), TOLD_AT_ONCE):
        await asyncio.gather(*(_tell(sessions, key, user) for key in keys[start : start + TOLD_AT_ONCE]))


async def _tell(sessions: Store[Session], key: str, user: User) -> None:
    try:
        await _tell_readable(sessions, key, user)
    except Undecodable as error:
        log.error("session.undecodable", session=key, error=str(error))
        await sessions.remove(key)


async def _tell_readable(sessions: Store[Session], key: str, user: User) -> None:
    while (entry := await sessions.get(key)) and (changed := as_the_account(entry.value, user)) != entry.value:
        left_s = max(1.0, changed.expires_at - time.time())
        with suppress(Conflict):  # refreshed meanwhile, or ended
            await sessions.update(key, changed, revision=entry.revision, ttl_s=left_s)


def _new_session(user: User, session_id: SessionId) -> Session:
    session = Session(
        id=session_id,
        user_id=user.id,
        user_name=user.name,
        refresh_digest=b"",
        created_at=time.time(),
        expires_at=0.0,
    )
    return as_the_account(session, user)


def as_the_account(session: Session, user: User) -> Session:
    """Copy into a login or key what a call is to find there instead of reading the account. No key is an operator."""
    role = user.role if session.kind == "login" else "user"
    return replace(session, role=role, max_activations=user.max_activations, suspended=user.suspended)


def _refuse_suspended(who: User | Session, **members: Any) -> None:
    if who.suspended:
        raise NotAllowed("This account is suspended: no login and no call of it is taken. Ask the operator.", **members)


def _pair(claims: Claims) -> tuple[UserId, SessionId]:
    return claims.user_id, claims.session_id


def _key(user_id: UserId, session_id: SessionId) -> str:
    return f"{user_id}.{session_id}"


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _ended() -> NotAuthenticated:
    return NotAuthenticated("This login has ended. Log in again.", error="invalid_grant")
