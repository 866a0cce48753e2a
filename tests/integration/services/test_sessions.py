"""Logins in the database, as whoever changes an account finds them."""

from __future__ import annotations

import asyncio
import time

import pytest
from msgspec.structs import replace

from mayfly.bus import subjects
from mayfly.bus.store import Entry, Store
from mayfly.domain.ids import SessionId, UserId, UserName, new_id
from mayfly.domain.user import Session, User
from mayfly.services.sessions import tell_sessions
from tests.support.bus import Installation

pytestmark = pytest.mark.F3

LOGINS = 100


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
