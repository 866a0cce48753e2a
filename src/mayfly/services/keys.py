"""
Keys: long-lived tokens for machines. Each is an access token with a session of its own, which lasts as long as the
token and can be ended like a login; it has no refresh token, and a name, by which its owner knows it.

A key may call whatever its user may, but not make or end keys, nor change or delete the account (`api.auth`): whoever
copies one has no more than that one. A new password ends logins only, unless asked for more; a login that turns out to
be stolen takes the keys along that it has made (`sessions`). Rows: F3.

Guarantees:
- a user has at most `KEYS_MAX` keys, and two never have one name: a key is written first, then all are read, and of
  several that came at once the first to be written stays;
- what deleted keys leave is bounded too: beyond `KEY_IDS_MAX` none is made (those that come at once may still be);
- a key that is made while the login that makes it, or the account, ends, is not left over: both are read again after
  it was written, and whoever ends logins ends keys after them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import structlog

from mayfly.bus.store import Entry
from mayfly.bus.stores import Stores
from mayfly.domain.errors import AlreadyExists, NotAllowed, NotAuthenticated, NotFound
from mayfly.domain.ids import SessionId, UserId, new_key_id
from mayfly.domain.user import KEY_IDS_MAX, KEYS_MAX, Session, User
from mayfly.services.sessions import Sessions, as_the_account, key_entries, key_places
from mayfly.services.tokens import Claims, TokenKeys

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Key:
    """A key as its owner sees it; `usable` is false once the token key that signed it was removed."""

    session: Session
    usable: bool


class Keys:
    """The keys of all users; each method sees one owner's only."""

    def __init__(self, stores: Stores, sessions: Sessions, token_keys: TokenKeys) -> None:
        """Keys are signed as logins are."""
        self._users = stores.users
        self._store = stores.sessions
        self._sessions = sessions
        self._token_keys = token_keys

    async def create(self, login: Session, name: str, *, lives_s: int) -> tuple[str, Key]:
        """
        Make a key for the user who is logged in; return its token, which nobody can read again, and what is kept.

        Raises: AlreadyExists; NotAllowed beyond `KEYS_MAX` or `KEY_IDS_MAX`; NotAuthenticated when login or account
        have ended meanwhile; QueueUnavailable.
        """
        if len(await key_places(self._store, login.user_id)) >= KEY_IDS_MAX:
            raise NotAllowed(
                f"You have made {KEY_IDS_MAX} keys, those included that you have deleted: the most that can be kept "
                "count of. One counts until it would have expired: use those that you have, or wait.",
                limit=KEY_IDS_MAX,
            )
        _refuse_beside(await key_entries(self._store, login.user_id), name)
        while True:
            user = await self._user(login)
            session = self._new(user.value, name, lives_s, made_by=login.id)
            revision = await self._store.create(_at(session), session, ttl_s=lives_s)
            try:
                await self._sessions.alive(Claims(login.user_id, login.id))
                now = await self._user(login)
                _refuse_beside(
                    [each for each in await key_entries(self._store, login.user_id) if each.revision < revision], name
                )
            except (NotAuthenticated, AlreadyExists, NotAllowed):
                await self._end(session)
                raise
            if now.revision == user.revision:
                break
            await self._end(session)  # an operator has changed the account meanwhile: the key is to be as it is
        log.info("key.made", user_id=session.user_id, key_id=session.id, lives_s=lives_s)
        token = self._token_keys.sign(Claims(session.user_id, session.id), "access", lives_s=lives_s)
        return token, Key(session, usable=True)

    async def of(self, owner: UserId) -> list[Key]:
        """
        List the keys of a user by name.

        Raises: QueueUnavailable.
        """
        sessions = sorted(
            (entry.value for entry in await key_entries(self._store, owner)), key=lambda each: each.key_name or ""
        )
        return [Key(session, usable=self._token_keys.has(session.signed_by)) for session in sessions]

    async def delete(self, owner: UserId, id_or_name: str) -> None:
        """
        End a key: it is refused from now on.

        Raises: NotFound; QueueUnavailable.
        """
        present = [entry.value for entry in await key_entries(self._store, owner)]
        found = [each for each in present if each.id == id_or_name] or [
            each for each in present if each.key_name == id_or_name
        ]
        if not found:
            raise NotFound("You have no key of this name or id. `GET /v1/keys` lists yours.")
        for session in found:
            await self._end(session)

    def _new(self, user: User, name: str, lives_s: int, *, made_by: SessionId) -> Session:
        now = time.time()
        key = Session(
            id=new_key_id(),
            user_id=user.id,
            user_name=user.name,
            refresh_digest=b"",
            created_at=now,
            expires_at=now + lives_s,
            kind="key",
            key_name=name,
            signed_by=self._token_keys.signing_kid,
            made_by=made_by,
        )
        return as_the_account(key, user)

    async def _user(self, login: Session) -> Entry[User]:
        entry = await self._users.get(login.user_name)
        if entry is None or entry.value.id != login.user_id:
            raise NotAuthenticated("This account no longer exists.", error="invalid_token")
        return entry

    async def _end(self, session: Session) -> None:
        await self._sessions.end(Claims(session.user_id, session.id))


def _at(session: Session) -> str:
    return f"{session.user_id}.{session.id}"


def _refuse_beside(present: list[Entry[Session]], name: str) -> None:
    """
    Refuse one key more beside these.

    Raises: AlreadyExists; NotAllowed.
    """
    if any(entry.value.key_name == name for entry in present):
        raise AlreadyExists(f"You have a key {name!r} already. Choose another name, or delete it first.")
    if len(present) >= KEYS_MAX:
        raise NotAllowed(f"You have {len(present)} keys, and may have {KEYS_MAX}. Delete one first.", limit=KEYS_MAX)
