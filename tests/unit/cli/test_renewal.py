"""A renewal that is interrupted: the refresh token is spent by then, so the next one must not be lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mayfly.cli.logins import KeptTokens, Login, LoginFile
from mayfly.client import MemoryTokens, TokenKeeper, Tokens

URL = "https://mayfly.example"
STALE = Tokens(access_token="a", refresh_token="a-refresh", fresh_until=0.0)
NEXT = Tokens(access_token="b", refresh_token="b-refresh", fresh_until=9e9)


@pytest.fixture(params=["file", "memory"])
async def keeper(request: pytest.FixtureRequest, tmp_path: Path) -> TokenKeeper:
    """Each of the keepers, with a token that is stale."""
    if request.param == "memory":
        return MemoryTokens(STALE)
    file = LoginFile(tmp_path / "config")
    async with file.locked() as nothing:
        file.write(nothing.having(URL, Login(username="ann", tokens=STALE)))
    return KeptTokens(file, URL)


async def test_a_renewal_that_is_cancelled_keeps_what_it_got(keeper: TokenKeeper) -> None:
    """Ctrl-C or a time-out while the API exchanges a refresh token does not end the login."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def exchange(refresh_token: str) -> Tokens:
        asked.set()
        await answer.wait()
        return NEXT

    renewing = asyncio.create_task(keeper.renewed(STALE, exchange))
    await asked.wait()
    renewing.cancel()
    await asyncio.sleep(0)
    answer.set()

    with pytest.raises(asyncio.CancelledError):
        await renewing
    assert await keeper.current() == NEXT


async def test_a_renewal_that_fails_after_it_was_cancelled_is_only_cancelled(keeper: TokenKeeper) -> None:
    """Nobody waits for the error any more, the old token stays, and the next renewal is not kept waiting."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def exchange(refresh_token: str) -> Tokens:
        asked.set()
        await answer.wait()
        raise ConnectionError

    renewing = asyncio.create_task(keeper.renewed(STALE, exchange))
    await asked.wait()
    renewing.cancel()
    await asyncio.sleep(0)
    answer.set()

    with pytest.raises(asyncio.CancelledError):
        await renewing
    assert await keeper.current() == STALE


async def test_a_wait_for_the_lock_can_be_cancelled(keeper: TokenKeeper) -> None:
    """Who only waits for somebody else's renewal ends at once, and leaves nothing undone."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def exchange(refresh_token: str) -> Tokens:
        asked.set()
        await answer.wait()
        return NEXT

    first = asyncio.create_task(keeper.renewed(STALE, exchange))
    await asked.wait()
    second = asyncio.create_task(keeper.renewed(STALE, exchange))
    await asyncio.sleep(0)
    second.cancel()

    with pytest.raises(asyncio.CancelledError):
        await second
    answer.set()
    assert await first == NEXT
