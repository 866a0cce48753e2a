"""`mayfly audit`, and the operator's side of it, from the command line."""

from __future__ import annotations

import pytest

from mayfly.cli.app import names
from mayfly.ops.users_commands import users
from tests.integration.cli.command import Mayfly

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.F3]


async def test_a_user_sees_who_did_what(with_echo: Mayfly, nats_url: str, name: str) -> None:
    """
    The newest first: what the user did, with his login and address, and what an operator did to him, who is not named;
    `--limit` cuts it, `--json` is the API's words.
    """
    limited = await with_echo.with_(MAYFLY_NATS_URL=nats_url)("users", "limit", name, "3")
    await with_echo("functions", "delete", "echo")
    shown = await with_echo("audit")
    newest = await with_echo("audit", "--limit", "2", "--json")

    assert (limited.status, shown.status, newest.status) == (0, 0, 0)
    lines = shown.stdout.decode().splitlines()
    assert lines[0].split() == ["AT", "ACTION", "SUBJECT", "OUTCOME", "TIMES", "BY", "FROM", "LOGIN"]
    told = [line.split()[2:8] for line in lines[1:]]
    login = lines[1].split()[-1]
    assert told == [
        ["function.deregister", "echo", "done", "1", "user", "127.0.0.1"],
        ["limit.set", "3", "done", "1", "operator", "-"],
        ["function.register", "echo", "done", "1", "user", "127.0.0.1"],
        ["session.begin", login, "done", "1", "user", "127.0.0.1"],
        ["user.register", name, "done", "1", "user", "127.0.0.1"],
    ]
    entries = newest.json
    assert [entry["action"] for entry in entries] == ["function.deregister", "limit.set"]
    assert entries[1]["address"] is None
    assert entries[1]["session"] is None


async def test_no_command_of_the_operators_is_left_out() -> None:
    """Those that change something are in the trail, as `limit` is above; a new one is added here, with its test."""
    recorded, only_looking = {"limit", "role", "invite"}, {"list", "show"}

    assert names(users) == recorded | only_looking


async def test_without_a_login_there_is_no_trail(anybody: Mayfly) -> None:
    """Who is not logged in is told so."""
    ended = await anybody("audit")

    assert (ended.status, ended.stdout) == (4, b"")
    assert "not logged in" in ended.stderr
