"""The file that keeps logins, and the lock beside it."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from pathlib import Path

import pytest

from mayfly.cli import logins
from mayfly.cli.exits import Refused
from mayfly.cli.logins import KeptTokens, Login, LoginFile, Logins
from mayfly.client import NotLoggedIn, Tokens

URL = "https://mayfly.example"
STALE = Tokens(access_token="a", refresh_token="a-refresh", fresh_until=0.0)
NEXT = Tokens(access_token="b", refresh_token="b-refresh", fresh_until=9e9)


@pytest.fixture
async def file(tmp_path: Path) -> LoginFile:
    """A file with one login, whose token is stale."""
    kept = LoginFile(tmp_path / "config")
    async with kept.locked() as nothing:
        kept.write(nothing.having(URL, Login(username="ann", tokens=STALE)).used(URL))
    return kept


async def never(refresh_token: str) -> Tokens:
    """Exchange nothing."""
    raise AssertionError(f"{refresh_token} was exchanged")


async def test_a_crash_while_writing_leaves_the_old_file(file: LoginFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is replaced as a whole: when the disk fails, what was there is still there, and no rubbish beside it."""

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Refused, match="No space left on device"):
        file.write(Logins())

    assert file.read().logins[URL].tokens == STALE
    assert sorted(path.name for path in file.path.parent.iterdir()) == ["logins.json", "logins.lock"]


async def test_the_second_to_renew_takes_what_the_first_got(file: LoginFile) -> None:
    """Two that found the same stale token: one exchanges it, the other waits and uses the result."""
    asked: list[str] = []

    async def exchange(refresh_token: str) -> Tokens:
        asked.append(refresh_token)
        await asyncio.sleep(0)
        return NEXT

    both = [KeptTokens(file, URL).renewed(STALE, exchange) for _ in range(2)]

    assert await asyncio.gather(*both) == [NEXT, NEXT]
    assert asked == ["a-refresh"]


async def test_an_exchange_that_fails_changes_nothing(file: LoginFile) -> None:
    """When the API cannot be reached the old tokens stay, and the lock is free again."""

    async def exchange(refresh_token: str) -> Tokens:
        raise NotLoggedIn("no")

    with pytest.raises(NotLoggedIn):
        await KeptTokens(file, URL).renewed(STALE, exchange)

    async with file.locked() as kept:
        assert kept.logins[URL].tokens == STALE


async def test_a_logout_meanwhile_is_respected(file: LoginFile) -> None:
    """Who wants to renew after another command has logged out does not bring the login back."""
    tokens = KeptTokens(file, URL)
    await tokens.keep(None)

    with pytest.raises(NotLoggedIn):
        await tokens.renewed(STALE, never)
    await tokens.keep(NEXT)

    assert await tokens.current() is None
    assert file.read() == Logins()


async def test_a_lock_that_is_never_freed_is_told(file: LoginFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command does not wait for another one for ever."""
    monkeypatch.setattr(logins, "LOCK_WAIT_S", 0.05)
    with (file.path.parent / "logins.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Refused, match="does not let go"):
            await KeptTokens(file, URL).renewed(STALE, never)


async def test_logins_of_several_installations_are_kept_apart(file: LoginFile) -> None:
    """Another installation's login neither replaces the first nor goes with it."""
    other = "https://other.example"
    async with file.locked() as kept:
        file.write(kept.having(other, Login(username="bob", tokens=NEXT)).used(other))

    await KeptTokens(file, other).keep(None)

    assert file.read() == Logins(latest=None, logins={URL: Login(username="ann", tokens=STALE)})


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """Where logins cannot be kept, one is told where and why."""
    (tmp_path / "file").touch()

    async def lock() -> None:
        async with LoginFile(tmp_path / "file" / "config").locked():
            pass

    with pytest.raises(Refused, match="Not a directory"):
        asyncio.run(lock())


def test_fields_of_a_newer_version_are_ignored(tmp_path: Path) -> None:
    """A file that a newer mayfly wrote can be read."""
    login = {"username": "ann", "tokens": {"access_token": "a", "kind": "new"}, "since": 1}
    file = LoginFile(tmp_path)
    file.path.write_text(json.dumps({"v": 1, "logins": {URL: login}, "theme": "dark"}))

    assert file.read().logins[URL].username == "ann"
