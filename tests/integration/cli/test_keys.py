"""Keys from the command line, and with one in place of a login."""

from __future__ import annotations

from pathlib import Path

import jwt
import pytest

from mayfly.client import Client, FixedToken
from tests.integration.cli.command import Mayfly

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.F3]


async def test_a_key_is_made_used_listed_and_ended(with_echo: Mayfly, tmp_path: Path) -> None:
    """Its token alone is on stdout; with it in MAYFLY_TOKEN no login is needed, until it is deleted."""
    mayfly = with_echo
    made = await mayfly("keys", "create", "ci", "--expires", "30d")
    token = made.stdout.decode().strip()
    listed = await mayfly("keys", "list", "--json")
    machine = Mayfly(mayfly.url, mayfly.ca_file, tmp_path / "nothing", {"MAYFLY_TOKEN": token})
    called = await machine("invoke", "echo", "from a machine")
    refused = await machine("keys", "create", "another")
    deleted = await mayfly("keys", "delete", "ci")
    after = await machine("invoke", "echo", "from a machine")

    assert (made.status, made.stdout.decode()) == (0, f"{token}\n")
    assert "not shown again" in made.stderr
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 30 * 86_400
    assert [(key["name"], key["usable"]) for key in listed.json] == [("ci", True)]
    assert token.encode() not in listed.stdout
    assert (called.status, called.stdout) == (0, b"from a machine")
    assert (refused.status, "A key may not do this" in refused.stderr) == (4, True)
    assert (deleted.status, deleted.stderr) == (0, "The key ci has ended.\n")
    assert after.status == 4
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("expires", ["30", "soon", "-1d", f"{'9' * 400}d"])
async def test_a_length_of_time_that_is_none_is_told(mayfly: Mayfly, expires: str) -> None:
    """With status 2 and what one looks like; nothing is made."""
    ended = await mayfly("keys", "create", "ci", f"--expires={expires}")
    assert (ended.status, "30d" in ended.stderr) == (2, True)
    assert (await mayfly("keys", "list", "--json")).json == []


async def test_a_new_password_ends_keys_if_asked(mayfly: Mayfly) -> None:
    """`password --end-keys` says that it did, and the list is empty; without it they go on."""
    await mayfly("keys", "create", "ci")
    both = b"correct horse battery\nbattery staple correct\n"
    kept = await mayfly("password", "--password-stdin", stdin=both)
    names = [key["name"] for key in (await mayfly("keys", "list", "--json")).json]
    back = b"battery staple correct\ncorrect horse battery\n"
    ended = await mayfly("password", "--end-keys", "--password-stdin", stdin=back)

    assert (kept.status, "keys go on" in kept.stderr, names) == (0, True, ["ci"])
    assert (ended.status, "all keys have ended" in ended.stderr) == (0, True)
    assert (await mayfly("keys", "list", "--json")).json == []


async def test_the_client_makes_and_uses_a_key(with_echo: Mayfly) -> None:
    """From Python: a key of one client is the token of another."""
    mayfly = with_echo
    token = (await mayfly("keys", "create", "first")).stdout.decode().strip()
    async with Client(mayfly.url, ca_file=mayfly.ca_file, tokens=FixedToken(token)) as machine:
        assert (await machine.invoke("echo", "hello")).text == "hello"
        assert [key.name for key in await machine.keys()] == ["first"]
