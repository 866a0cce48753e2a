"""What outlives the containers: users, functions and secrets, in volumes and in backups."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from mayfly.domain.ids import new_id
from tests.compose.terminal import README, Terminal
from tests.e2e.conftest import Shell
from tests.support.compose import compose, containers, settled
from tests.support.page import commands
from tests.support.up import PASSWORD, Up


@pytest.mark.A4
@pytest.mark.D7
async def test_everything_is_wiped_and_restored(up: Up, image: str, terminal: Terminal) -> None:
    """A user logs in with the old password, by the old authority, and calls the function that was there."""
    name = f"u{new_id()}"
    async with await up.user(name) as client:
        function = await Shell(client, image).make("echo kept")
    save, bring_back = commands(README, "Back up and restore")
    await terminal.type(save)
    assert (terminal.directory / "backups" / "mayfly.tar").stat().st_mode & 0o777 == 0o600

    await asyncio.to_thread(compose, "down", "--volumes")
    await terminal.type(bring_back)
    await settled()

    async with await _logged_in(up, name) as client:
        assert (await Shell(client, image).call(function)).text == "kept\n"


@pytest.mark.A4
async def test_down_and_up_again_keeps_users_and_functions(up: Up, image: str) -> None:
    """What lasts is in volumes, and tokens are good beyond a stop of everything."""
    name = f"u{new_id()}"
    async with await up.user(name) as client:
        function = await Shell(client, image).make("echo kept")

        await asyncio.to_thread(compose, "down")
        assert containers() == []
        await asyncio.to_thread(compose, "up", "--detach")
        await settled()

        assert (await Shell(client, image).call(function)).text == "kept\n"
    async with await _logged_in(up, name) as client:
        assert (await Shell(client, image).call(function)).text == "kept\n"


async def _logged_in(up: Up, name: str) -> httpx.AsyncClient:
    """Return a client of a user who is registered already."""
    async with up.client() as client:
        form = {"grant_type": "password", "username": name, "password": PASSWORD}
        token = await client.post("/v1/tokens", data=form)
        token.raise_for_status()
    return up.client(token.json()["access_token"])
