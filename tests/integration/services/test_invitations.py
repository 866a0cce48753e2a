"""What a crash between any two steps of a registration by invitation leaves: never two accounts, never a lost code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable

import pytest
from msgspec.structs import replace

from mayfly.bus.connection import Bus
from mayfly.bus.store import Conflict, Entry
from mayfly.bus.stores import Stores
from mayfly.domain.errors import AlreadyExists, NotAllowed, QueueUnavailable
from mayfly.domain.ids import UserName
from mayfly.domain.invitation import Claim, Invitation
from mayfly.domain.user import User
from mayfly.services.invitations import BUSY_S, Claimed
from mayfly.services.passwords import Passwords
from mayfly.services.sessions import Sessions
from mayfly.services.tokens import TokenKeys, write_new_key
from mayfly.services.users import Users
from tests.support.bus import Installation

pytestmark = pytest.mark.F2

PASSWORD = "correct horse battery"
ANN, BOB = UserName("ann"), UserName("bob")


class Crash(Exception):
    """The process dies here."""


@pytest.fixture
async def api(nats: Installation) -> AsyncIterator[Bus]:
    """An API server's connection, with what it may do."""
    async with nats.connect("api") as bus:
        yield bus


@pytest.fixture
async def users(api: Bus, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Users]:
    """All accounts, where registration is by invitation."""
    keys = tmp_path_factory.mktemp("keys")
    write_new_key(keys)
    passwords, stores = Passwords(1), Stores.on(api)
    tokens = TokenKeys.load(keys, issuer="mayfly", audience="mayfly-api")
    sessions = Sessions(stores, tokens, passwords, access_s=60, refresh_s=600)
    yield Users(api, stores, sessions, passwords, registration="invitation")
    passwords.close()


@pytest.fixture
async def code(users: Users) -> str:
    """A code that is good."""
    return (await users._invitations.issue(UserName("root"), expires_in_s=3600, note="")).code


async def die_at(monkeypatch: pytest.MonkeyPatch, owner: object, step: str, request: Awaitable[object]) -> None:
    """Have the process die in a request before it takes that step."""

    async def crash(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(owner, step, crash)
        with pytest.raises(Crash):
            await request


async def accounts(users: Users) -> list[str]:
    """The names that are taken."""
    return [name for name in await users._store.keys() if await users._store.get(name)]


async def the_invitation(users: Users) -> Entry[Invitation]:
    """The only one."""
    (key,) = await users._invitations._store.keys()
    entry = await users._invitations._store.get(key)
    assert entry is not None
    return entry


async def let_time_pass(users: Users, seconds: float) -> None:
    """Make the claim older."""
    entry = await the_invitation(users)
    claim = entry.value.claim
    assert claim is not None
    older = replace(entry.value, claim=replace(claim, at=claim.at - seconds))
    await users._invitations._store.update(entry.key, older, revision=entry.revision)


@pytest.mark.parametrize("same_name", [False, True], ids=["other-names", "one-name"])
async def test_of_those_who_claim_at_the_same_moment_one_makes_an_account(
    users: Users, code: str, monkeypatch: pytest.MonkeyPatch, same_name: bool
) -> None:
    """Twenty who were all let in, and found their names free, before the first one claims: one has an account."""
    together = asyncio.Barrier(20)

    async def hash_together(_: str) -> str:
        await together.wait()
        return "a hash"

    monkeypatch.setattr(users._passwords, "hash", hash_together)
    names = [ANN if same_name else UserName(f"user-{number}") for number in range(20)]
    outcomes = await asyncio.gather(
        *(users.register(name, PASSWORD, invitation=code) for name in names), return_exceptions=True
    )

    made = [each.name for each in outcomes if isinstance(each, User)]
    assert len(made) == 1
    assert {type(each) for each in outcomes} == {User, NotAllowed}
    assert await accounts(users) == made


async def test_a_crash_after_the_claim_leaves_the_code_to_the_same_request(
    users: Users, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same name with the same code makes the account at once, and then the code is used."""
    await die_at(monkeypatch, users._store, "update", users.register(ANN, PASSWORD, invitation=code))
    claim = (await the_invitation(users)).value.claim
    assert claim is not None
    assert await accounts(users) == []

    made = await users.register(ANN, PASSWORD, invitation=code)

    assert made.id == claim.user_id
    for name in (ANN, BOB):
        with pytest.raises(NotAllowed):
            await users.register(name, PASSWORD, invitation=code)
    assert await accounts(users) == [ANN]


async def test_a_crash_after_the_claim_leaves_the_code_to_another_name_after_a_while(
    users: Users, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be just being used at first; later it makes an account of another name."""
    await die_at(monkeypatch, users._store, "update", users.register(ANN, PASSWORD, invitation=code))

    with pytest.raises(NotAllowed):
        await users.register(BOB, PASSWORD, invitation=code)
    await let_time_pass(users, BUSY_S)
    await users.register(BOB, PASSWORD, invitation=code)

    assert await accounts(users) == [BOB]


async def test_whoever_comes_as_the_account_is_made_makes_no_second_one(
    users: Users, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One who saw a claim without an account, and then the name taken, does not take it for somebody else's."""
    await die_at(monkeypatch, users._store, "update", users.register(ANN, PASSWORD, invitation=code))
    clear, crossed = users._invitations._clear, False

    async def cross(former: Claim) -> None:
        nonlocal crossed
        if not crossed:
            crossed = True
            await die_at(monkeypatch, users._invitations, "use_up", users.register(ANN, PASSWORD, invitation=code))
        await clear(former)

    with monkeypatch.context() as patched:
        patched.setattr(users._invitations, "_clear", cross)
        with pytest.raises(NotAllowed):
            await users.register(BOB, PASSWORD, invitation=code)

    assert crossed
    assert await accounts(users) == [ANN]


async def test_whoever_was_only_slow_makes_no_second_account(
    users: Users, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that stood still between claim and account, until another took the code over, is too late."""
    update = users._store.update
    taken_over = False

    async def slow(key: str, value: User, **options: object) -> int:
        nonlocal taken_over
        if key == ANN and not taken_over:
            taken_over = True
            await let_time_pass(users, BUSY_S)
            await users.register(BOB, PASSWORD, invitation=code)
        return await update(key, value, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(users._store, "update", slow)
    with pytest.raises(AlreadyExists):
        await users.register(ANN, PASSWORD, invitation=code)

    assert taken_over
    assert await accounts(users) == [BOB]
    with pytest.raises(NotAllowed):
        await users.register(UserName("third"), PASSWORD, invitation=code)


async def test_a_crash_after_the_account_leaves_the_code_used(
    users: Users, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account is there, so the code is good for nothing; its invitation, which was left, the next look removes."""
    await die_at(monkeypatch, users._invitations, "use_up", users.register(ANN, PASSWORD, invitation=code))
    assert (await the_invitation(users)).value.claim
    assert await accounts(users) == [ANN]

    for name in (BOB, ANN):
        with pytest.raises(NotAllowed):
            await users.register(name, PASSWORD, invitation=code)
    assert await users._invitations.list(limit=10) == ([], None)


async def test_an_outage_after_the_account_is_no_error(
    users: Users, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account is made, so its user is told so, and the code is used all the same."""

    async def unavailable(*_: object) -> bool:
        raise QueueUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(users._invitations, "remove", unavailable)
        made = await users.register(ANN, PASSWORD, invitation=code)

    assert made.name == ANN
    with pytest.raises(NotAllowed):
        await users.register(BOB, PASSWORD, invitation=code)


async def test_an_account_whose_answer_was_lost_is_there_once(
    users: Users, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NATS goes away between storing the account and saying so: whoever asks again is told that the code is used."""
    update = users._store.update

    async def unanswered(key: str, value: User, **options: int) -> int:
        await update(key, value, **options)
        raise QueueUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(users._store, "update", unanswered)
        with pytest.raises(QueueUnavailable):
            await users.register(ANN, PASSWORD, invitation=code)

    for name in (ANN, BOB):
        with pytest.raises(NotAllowed):
            await users.register(name, PASSWORD, invitation=code)
    assert await accounts(users) == [ANN]


async def test_an_account_that_came_and_went_does_not_give_its_code_back(
    users: Users, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose invitation was left by a crash takes it along: neither the old name nor a new one can be had by it."""
    await die_at(monkeypatch, users._invitations, "use_up", users.register(ANN, PASSWORD, invitation=code))
    await let_time_pass(users, BUSY_S)
    account = await users._store.get(ANN)
    assert account is not None

    await users.remove(account.value)

    for name in (ANN, BOB):
        with pytest.raises(NotAllowed):
            await users.register(name, PASSWORD, invitation=code)
    assert await accounts(users) == []


async def test_a_name_that_somebody_else_took_meanwhile_releases_the_code(
    users: Users, api: Bus, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes too late for the name is told that it is taken, and has the code for another name at once."""
    second = (await users._invitations.issue(UserName("root"), expires_in_s=3600, note="")).code
    claim = users._invitations.claim

    async def overtaken(*given: object, **named: object) -> Claimed:
        monkeypatch.undo()
        await users.register(ANN, PASSWORD, invitation=second)
        return await claim(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(users._invitations, "claim", overtaken)
    with pytest.raises(AlreadyExists):
        await users.register(ANN, PASSWORD, invitation=code)
    await users.register(BOB, PASSWORD, invitation=code)

    assert await accounts(users) == [ANN, BOB]


async def test_a_name_taken_after_a_crash_releases_the_code(
    users: Users, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim that was left for a name that somebody else has by now binds nobody."""
    second = (await users._invitations.issue(UserName("root"), expires_in_s=3600, note="")).code
    await die_at(monkeypatch, users._store, "update", users.register(ANN, PASSWORD, invitation=code))
    await users.register(ANN, PASSWORD, invitation=second)

    with pytest.raises(AlreadyExists):
        await users.register(ANN, PASSWORD, invitation=code)
    await users.register(BOB, PASSWORD, invitation=code)

    assert await accounts(users) == [ANN, BOB]


async def test_a_place_that_was_buried_is_free_for_others_and_not_for_whoever_found_it_before(bus: Bus) -> None:
    """`vacancy` and `bury`: absent or deleted is free at a revision, and burying moves that on once."""
    store = Stores.on(bus).users
    user = User(id="a" * 24, name=ANN, password_hash="", created_at=0)  # type: ignore[arg-type]
    assert await store.vacancy(ANN) == 0

    await store.bury(ANN, revision=0)
    moved = await store.vacancy(ANN)
    assert moved
    with pytest.raises(Conflict):
        await store.update(ANN, user, revision=0)

    taken = await store.update(ANN, user, revision=moved)
    assert await store.vacancy(ANN) is None
    with pytest.raises(Conflict):
        await store.bury(ANN, revision=moved)
    await store.delete(ANN, revision=taken)
    assert (await store.vacancy(ANN) or 0) > taken
