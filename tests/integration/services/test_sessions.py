"""Logins in the database, as whoever changes an account finds them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import jwt
import pytest
from argon2 import PasswordHasher
from msgspec.structs import replace

from mayfly.bus import subjects
from mayfly.bus.connection import Bus
from mayfly.bus.store import Entry, Store
from mayfly.bus.stores import Stores
from mayfly.domain.ids import SessionId, UserId, UserName, new_id
from mayfly.domain.user import Session, User
from mayfly.services.passwords import Passwords
from mayfly.services.sessions import Sessions, tell_sessions
from mayfly.services.tokens import Claims, TokenKeys, write_new_key
from tests.support.bus import Installation

pytestmark = pytest.mark.F3

LOGINS = 100
MOST = 32
ANN, PASSWORD = UserName("ann"), "correct horse battery"
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class Halting(Store[Session]):
    """Logins, of which the first is read only when half of the others have been."""

    def __init__(self, *given: object) -> None:
        """None was read."""
        super().__init__(*given)  # type: ignore[arg-type]
        self.read: set[str] = set()
        self.enough = asyncio.Event()

    async def get(self, key: str) -> Entry[Session] | None:
        """Read one."""
        self.read.add(key)
        if len(self.read) > LOGINS // 2:
            self.enough.set()
        if len(self.read) == 1:
            await self.enough.wait()
        return await super().get(key)


async def test_a_suspension_is_told_to_many_logins_at_once(nats: Installation) -> None:
    """Logins do not wait for each other: whoever has made thousands is not much longer in than others."""
    user = User(id=UserId(new_id()), name=UserName("ann"), password_hash="", created_at=time.time())
    async with nats.connect("api") as bus:
        sessions = Halting(bus, subjects.SESSIONS, Session)
        for _ in range(LOGINS):
            login = Session(
                id=SessionId(new_id()),
                user_id=user.id,
                user_name=user.name,
                refresh_digest=b"",
                created_at=time.time(),
                expires_at=time.time() + 600,
            )
            await sessions.create(f"{user.id}.{login.id}", login, ttl_s=600)
        async with asyncio.timeout(20):
            await tell_sessions(sessions, replace(user, suspended=True))
        found = await asyncio.gather(*map(sessions.get, await sessions.keys(user.id)))

    assert [entry.value.suspended for entry in found if entry] == [True] * LOGINS


@asynccontextmanager
async def an_account(bus: Bus, keys: Path) -> AsyncIterator[tuple[Sessions, UserId]]:
    """An account whose password costs little to look at, and the logins of all users: for an hour at the longest."""
    write_new_key(keys)
    user = User(id=UserId(new_id()), name=ANN, password_hash=CHEAP.hash(PASSWORD), created_at=time.time())
    stores, passwords = Stores.on(bus), Passwords(1)
    await stores.users.create(user.name, user)
    tokens = TokenKeys.load(keys, issuer="mayfly", audience="mayfly-api")
    yield Sessions(stores, tokens, passwords, access_s=1, refresh_s=3600), user.id
    passwords.close()


async def test_one_account_cannot_fill_the_store_with_logins(
    nats: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Who logs in again and again, and logs out now and then, has no more than the most: what he ended counts as well. No
    login of his is refused, and the one that he had before goes on. (The shortest time is one second here.)
    """
    monkeypatch.setattr("mayfly.services.sessions.LOGINS_MAX", MOST)
    monkeypatch.setattr("mayfly.services.sessions.LOGIN_SHORTEST_S", 1.0)
    async with nats.connect("api") as bus, an_account(bus, tmp_path) as (sessions, user_id):
        first = await sessions.log_in(ANN, PASSWORD)
        for number in range(3 * MOST):
            pair = await sessions.log_in(ANN, PASSWORD)
            if number % 2:
                await sessions.end(Claims(user_id, pair.session.id))
        async with asyncio.timeout(20):
            while await sessions._store.count_below(user_id) > MOST:
                await asyncio.sleep(0.05)
        assert (await sessions.alive(Claims(user_id, first.session.id))).expires_at == first.session.expires_at


async def test_a_refresh_lengthens_no_login_beyond_its_users_share(
    nats: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or who has many short ones would refresh each of them. Token and entry both say when it is over."""
    monkeypatch.setattr("mayfly.services.sessions.LOGINS_MAX", MOST)
    monkeypatch.setattr("mayfly.services.sessions.LOGIN_SHORTEST_S", 60.0)
    async with nats.connect("api") as bus, an_account(bus, tmp_path) as (sessions, user_id):
        pair = await sessions.log_in(ANN, PASSWORD)
        assert 3590 < pair.session.expires_at - time.time() <= 3600
        for _ in range(MOST):
            await sessions.log_in(ANN, PASSWORD)
        pair = await sessions.refresh(pair.refresh_token)
        message = await bus.js.get_last_msg("KV_sessions", f"$KV.sessions.{user_id}.{pair.session.id}")

    assert 50 < pair.session.expires_at - time.time() <= 60
    assert (message.headers or {})["Nats-TTL"].removesuffix("s") == "60"
    assert jwt.decode(pair.refresh_token, options={"verify_signature": False})["exp"] <= time.time() + 60


async def test_who_refreshes_again_and_again_does_not_have_nats_count_each_time(
    nats: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    While nats-server counts, everybody's reads and writes of logins wait: so many logins and refreshes of one user, at
    once or one after the other, have it count once.
    """
    asked: list[str] = []
    counting = Store.count_below

    async def counted(self: Store[Session], prefix: str) -> int:
        asked.append(prefix)
        return await counting(self, prefix)

    monkeypatch.setattr(Store, "count_below", counted)
    async with nats.connect("api") as bus, an_account(bus, tmp_path) as (sessions, user_id):
        first, *_ = await asyncio.gather(*(sessions.log_in(ANN, PASSWORD) for _ in range(8)))
        for _ in range(LOGINS):
            first = await sessions.refresh(first.refresh_token)

    assert asked == [user_id]
