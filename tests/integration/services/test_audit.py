"""The audit trail of a real nats-server: listed page by page, and refused logins counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from mayfly.bus import subjects
from mayfly.bus.audit import AuditStream
from mayfly.bus.connection import Bus
from mayfly.domain.audit import Action, Actor, AuditEntry
from mayfly.domain.errors import InvalidRequest, QueueUnavailable
from mayfly.domain.ids import UserId, UserName, new_id
from mayfly.domain.user import User
from mayfly.services.audit import ADDRESSES_PER_USER, NOT_WRITTEN, WINDOW_S, WINDOWS_AT_MOST, Audit, Refusals
from tests.support.bus import Installation

pytestmark = pytest.mark.F3

NOBODY = UserId(subjects.NOBODY)


def a_user(name: str = "ann") -> User:
    """A user."""
    return User(id=UserId(new_id()), name=UserName(name), password_hash="-", created_at=0.0)


def acting(user: User) -> Actor:
    """A user who does something."""
    return Actor(by="user", user_id=user.id, user_name=user.name, address="192.0.2.1")


@dataclass
class Clock:
    """A clock that goes when it is told to."""

    now: float = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
async def trail(nats: Installation) -> AsyncIterator[Audit]:
    """The trail, with an API server's permissions."""
    async with nats.connect("api") as bus:
        yield Audit(bus)


@pytest.fixture
def clock() -> Clock:
    """By which windows end."""
    return Clock()


@pytest.fixture
def refusals(trail: Audit, clock: Clock) -> Refusals:
    """What counts."""
    return Refusals(trail, clock=clock)


async def all_of(trail: Audit, owner: UserId, *, limit: int = 200) -> list[AuditEntry]:
    """A whole trail, page by page, the newest first."""
    entries, after = await trail.list(owner, limit=limit)
    while after:
        page, after = await trail.list(owner, limit=limit, after=after)
        entries += page
    return entries


def tried(refusals: Refusals, user: User | None, address: str = "192.0.2.9") -> None:
    """A login is refused."""
    refusals.note(user, address=address, request_id="r-1")


async def test_pages_have_everything_once_the_newest_first(trail: Audit, refusals: Refusals) -> None:
    """All kinds of entries are listed in the order in which they were written, however large a page is."""
    ann, bob = a_user(), a_user("bob")
    for n in range(6):
        await trail.record(acting(ann), Action.FUNCTION_REGISTER, f"f{n}")
        await trail.record(acting(bob), Action.FUNCTION_REGISTER, "his")
        if n % 2:
            tried(refusals, ann, f"192.0.2.{n}")
            await refusals.write(all_now=True)

            await trail.record(acting(ann), Action.SESSION_END, "login")
    meant = ["login", "refused", "f5", "f4", "login", "refused", "f3", "f2", "login", "refused", "f1", "f0"]

    for limit in (1, 2, 3, 7, 200):
        assert [each.subject or each.outcome for each in await all_of(trail, ann.id, limit=limit)] == meant


async def test_a_trail_of_nothing_is_empty(trail: Audit) -> None:
    """A user of whom nothing is written has no entries, and no next page."""
    assert await trail.list(UserId(new_id()), limit=50) == ([], None)


async def test_anothers_cursor_leads_nowhere(trail: Audit) -> None:
    """The `next` of somebody else's page, or any number, shows nothing of anybody else's."""
    ann, bob = a_user(), a_user("bob")
    for n in range(3):
        await trail.record(acting(ann), Action.FUNCTION_REGISTER, f"f{n}")
    _, hers = await trail.list(ann.id, limit=1)
    assert hers

    for cursor in (hers, *(f"{n}.{n}.{n}" for n in range(5))):
        assert await trail.list(bob.id, limit=50, after=cursor) == ([], None)


async def test_what_is_no_cursor_is_told(trail: Audit) -> None:
    """`after` takes what a page gave; anything else names the field and what it takes."""
    large = "9" * 19
    for cursor in (
        "",
        "x",
        "1",
        "1.2",
        "1.2.3.4",
        "-1.2.3",
        "1.2.x",
        "1.2.3 ",
        f"1.1.{large}",
        f"1.1.{large}{large}",
        "1.1.١",
    ):
        with pytest.raises(InvalidRequest, match="`next` of the page before") as caught:
            await trail.list(UserId(new_id()), limit=1, after=cursor)
        assert caught.value.members["field"] == "after", cursor


async def test_a_flood_of_refused_logins_is_one_entry_a_minute(trail: Audit, refusals: Refusals, clock: Clock) -> None:
    """The first is written soon, the others of its minute with their number, and nothing is left out of the count."""
    ann = a_user()
    tried(refusals, ann)
    await refusals.write()
    for _ in range(500):
        tried(refusals, ann)
        await refusals.write()
    assert [entry.times for entry in await all_of(trail, ann.id)] == [1]

    clock.now += WINDOW_S
    await refusals.write()
    await refusals.write()
    entries = await all_of(trail, ann.id)

    assert [entry.times for entry in entries] == [500, 1]
    assert {(e.action, e.outcome, e.code) for e in entries} == {("session.begin", "refused", "not-authenticated")}
    assert {(e.actor.by, e.actor.user_name, e.actor.address) for e in entries} == {("nobody", "ann", "192.0.2.9")}


async def test_many_addresses_do_not_make_many_entries(trail: Audit, refusals: Refusals, clock: Clock) -> None:
    """From more addresses than are told apart, the rest is one entry without an address; another user's is his own."""
    ann, bob = a_user(), a_user("bob")
    for n in range(100):
        tried(refusals, ann, f"192.0.2.{n}")
    tried(refusals, bob)
    await refusals.write()

    entries = await all_of(trail, ann.id)
    assert len(entries) == ADDRESSES_PER_USER + 1
    assert sum(entry.times for entry in entries) == 100
    assert [entry.times for entry in entries if entry.actor.address is None] == [100 - ADDRESSES_PER_USER]
    assert [entry.actor.address for entry in await all_of(trail, bob.id)] == ["192.0.2.9"]

    clock.now += WINDOW_S
    await refusals.write()
    tried(refusals, ann, "198.51.100.1")
    await refusals.write()
    assert (await all_of(trail, ann.id))[0].actor.address == "198.51.100.1"


async def test_what_is_done_with_a_stolen_token_hides_no_login(trail: Audit, bus: Bus) -> None:
    """
    However many changes somebody makes with a token, and however often he tries a password, the login by which he came
    stays in the trail, until there are as many more logins.
    """
    config = (await bus.js.stream_info(subjects.AUDIT)).config
    await bus.js.update_stream(config.evolve(max_msgs_per_subject=3))
    ann = a_user()
    await trail.record(acting(ann), Action.SESSION_BEGIN, "the thief's")
    for n in range(8):
        await trail.record(acting(ann), Action.FUNCTION_REGISTER, f"f{n}")
        await trail.record(acting(ann), Action.PASSWORD_CHANGE, outcome="refused")

    entries = await all_of(trail, ann.id)

    assert len(entries) == 7
    assert (entries[-1].action, entries[-1].subject) == ("session.begin", "the thief's")


async def test_who_does_not_exist_is_nobody(trail: Audit, refusals: Refusals, bus: Bus) -> None:
    """Of a name that is none nothing is kept, as it may be a password: only from where, and how often."""
    tried(refusals, None)
    tried(refusals, None)
    await refusals.write()

    (entry,) = await all_of(trail, NOBODY)
    assert (entry.times, entry.actor.user_id, entry.actor.user_name) == (2, None, None)
    assert entry.actor.address == "192.0.2.9"
    assert (await bus.js.stream_info(subjects.AUDIT, subjects_filter=">")).state.subjects == {"audit.nobody.tried": 1}


async def test_memory_for_refused_logins_is_bounded(trail: Audit, refusals: Refusals) -> None:
    """However many users are tried at once, so many windows are open and no more; the rest is counted as nobody's."""
    for _ in range(WINDOWS_AT_MOST + 500):
        tried(refusals, a_user())

    assert len(refusals._windows) == WINDOWS_AT_MOST + 1
    assert refusals._windows[None, None].times == 500


async def test_who_is_tried_no_more_is_forgotten(trail: Audit, refusals: Refusals, clock: Clock) -> None:
    """Nothing is left in memory of a window in which nothing came."""
    user = a_user()
    tried(refusals, user)
    tried(refusals, user, "192.0.2.10")
    await refusals.write()
    clock.now += WINDOW_S
    await refusals.write()

    assert (refusals._windows, refusals._of_user) == ({}, {})


async def test_refused_logins_wait_for_the_stream(trail: Audit, refusals: Refusals, bus: Bus, clock: Clock) -> None:
    """While the trail takes nothing they are counted on, and written when it does, one entry a minute."""
    config = (await bus.js.stream_info(subjects.AUDIT)).config
    ann = a_user()
    tried(refusals, ann)
    await bus.js.delete_stream(subjects.AUDIT)
    await refusals.write()
    tried(refusals, ann)
    await refusals.write()
    tried(refusals, ann)
    await bus.js.add_stream(config)
    await refusals.write()
    assert [entry.times for entry in await all_of(trail, ann.id)] == [1]
    clock.now += WINDOW_S
    await refusals.write()
    assert [entry.times for entry in await all_of(trail, ann.id)] == [2, 1]


@pytest.mark.parametrize("how", ["no answer", "stopped"])
async def test_refused_logins_whose_entry_got_no_answer_count_once(
    how: str, trail: Audit, refusals: Refusals, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server whose entry was written unheard, or that was stopped meanwhile, does not count the same ones again."""
    ann, written, append = a_user(), asyncio.Event(), AuditStream.append

    async def unheard(*args: Any) -> None:
        await append(*args)
        written.set()
        if how == "no answer":
            raise QueueUnavailable
        await asyncio.Event().wait()

    tried(refusals, ann)
    with monkeypatch.context() as silent:
        silent.setattr(AuditStream, "append", unheard)
        writing = asyncio.create_task(refusals.write())
        await written.wait()
        tried(refusals, ann)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    await refusals.close()

    assert [entry.times for entry in await all_of(trail, ann.id)] == [1, 1]


async def test_what_was_done_and_cannot_be_written_is_told(trail: Audit, bus: Bus) -> None:
    """The error says that it was done; of what was refused it says nothing of the kind."""
    await bus.js.delete_stream(subjects.AUDIT)

    with pytest.raises(QueueUnavailable) as done:
        await trail.record(acting(a_user()), Action.FUNCTION_REGISTER, "f")
    with pytest.raises(QueueUnavailable) as refused:
        await trail.record(acting(a_user()), Action.PASSWORD_CHANGE, outcome="refused")

    assert done.value.detail == NOT_WRITTEN
    assert "was done" not in refused.value.detail
