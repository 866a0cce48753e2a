"""A lower limit for one user, set by the operator while the user is logged in; and who has an account."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from mayfly.bus.connection import connect
from mayfly.bus.stores import Stores
from mayfly.client import Client, MemoryTokens
from mayfly.domain.errors import NotFound
from mayfly.services.users import find_user, limit_user
from mayfly.settings import NatsSettings
from tests.integration.cli.command import PASSWORD, Mayfly
from tests.support.answering import AnsweringWorker
from tests.support.api import ApiServer

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.F13]


@pytest.fixture
def operator(anybody: Mayfly, nats_url: str) -> Mayfly:
    """The command line of the operator, who reaches NATS."""
    return anybody.with_(MAYFLY_NATS_URL=nats_url)


@pytest_asyncio.fixture(loop_scope="session")
async def stores(nats_url: str) -> AsyncIterator[Stores]:
    """The database."""
    async with connect(NatsSettings(nats_url=nats_url), role="admin") as bus:
        yield Stores.on(bus)


async def limits_of_logins(stores: Stores, name: str) -> list[int | None]:
    """The limit in each of a user's logins."""
    user = (await find_user(stores, name)).value
    entries = [await stores.sessions.get(key) for key in await stores.sessions.keys(user.id)]
    return [entry.value.max_activations for entry in entries if entry]


async def test_the_next_call_is_refused_until_the_limit_is_lifted(
    with_echo: Mayfly, operator: Mayfly, name: str, worker: AnsweringWorker
) -> None:
    """
    Who is logged in may have one in flight from the very next call on, with scope `user` and the new limit in the
    refusal; after `none` only the limit for all holds again.
    """
    worker.hold.clear()
    limited = await operator("users", "limit", name, "1")
    first = await with_echo("invoke", "--async", "echo")
    refused = await with_echo("invoke", "--async", "echo", "--json")
    lifted = await operator("users", "limit", name, "none")
    more = [await with_echo("invoke", "--async", "echo") for _ in range(3)]
    over_the_limit_for_all = await with_echo("invoke", "--async", "echo", "--json")
    worker.hold.set()

    assert limited.status == 0, limited.stderr
    assert b" at most 1 in flight\n" in limited.stdout
    assert (first.status, refused.status, refused.stdout) == (0, 3, b"")
    problem = json.loads(refused.stderr)
    assert (problem["code"], problem["scope"], problem["limit"]) == ("concurrency-limit", "user", 1)
    assert b" no limit of its own\n" in lifted.stdout
    assert [ended.status for ended in more] == [0, 0, 0]
    assert json.loads(over_the_limit_for_all.stderr)["limit"] == 4


async def test_all_logins_have_it_those_to_come_too(
    mayfly: Mayfly, api: ApiServer, operator: Mayfly, name: str, stores: Stores
) -> None:
    """A second login, made before, and a third, made after, have the limit; another user has none."""
    async with Client(api.url, ca_file=api.certificates.ca_file) as client:
        await client.log_in(name, PASSWORD)
        await client.register(f"{name[:20]}-b", PASSWORD)
        await client.log_in(f"{name[:20]}-b", PASSWORD)
        await operator("users", "limit", name, "2")
        await client.log_in(name, PASSWORD)

    assert await limits_of_logins(stores, name) == [2, 2, 2]
    assert await limits_of_logins(stores, f"{name[:20]}-b") == [None]


@pytest.mark.parametrize("unknown", ["nobody-here", "../x", "No Body", "a.b"])
@pytest.mark.parametrize("command", [("limit", "3"), ("show",)], ids=["limit", "show"])
async def test_an_unknown_user_is_told(operator: Mayfly, command: tuple[str, ...], unknown: str) -> None:
    """A name that is not there, or cannot be one, ends with status 5 and says where to look."""
    ended = await operator("users", command[0], unknown, *command[1:])

    assert (ended.status, ended.stdout) == (5, b"")
    assert ended.stderr == f"mayfly: There is no user {unknown!r}. `mayfly users list` shows whom there is.\n"


@pytest.mark.parametrize("limit", ["0", "257", "many", "1.5", "", "9" * 5000])
async def test_what_is_no_limit_is_told(mayfly: Mayfly, operator: Mayfly, name: str, limit: str) -> None:
    """A limit that cannot be ends with status 2 and what can, and nothing changes."""
    ended = await operator("users", "limit", name, limit)
    shown = await operator("users", "show", name, "--json")

    assert (ended.status, ended.stderr) == (2, "mayfly: A user's limit is a number from 1 to 256, or none.\n")
    assert shown.json["max_activations"] is None


async def test_accounts_are_shown_without_their_secrets(mayfly: Mayfly, operator: Mayfly, name: str) -> None:
    """`list` has a line for each account, `show` one: name, id, since when and the limit, no password's hash."""
    await operator("users", "limit", name, "3")
    listed = await operator("users", "list", "--json")
    line = (await operator("users", "show", name)).stdout.decode()

    found = [json.loads(each) for each in listed.stdout.splitlines()]
    (shown,) = [each for each in found if each["name"] == name]
    assert set(shown) == {"name", "id", "role", "created_at", "max_activations", "suspended"}
    assert (shown["role"], shown["max_activations"]) == ("user", 3)
    assert re.fullmatch(rf"{name} +{shown['id']} since \d{{4}}-\d\d-\d\d [\d:]{{8}}Z at most 3 in flight\n", line)


async def test_users_credentials_of_other_roles_are_refused(operator: Mayfly) -> None:
    """An API server's or a worker's access to NATS is not the operator's: status 2 says whose it takes."""
    ended = await operator.with_(MAYFLY_NATS_USER="api")("users", "list")

    assert (ended.status, ended.stdout) == (2, b"")
    assert "it takes the user `admin`" in ended.stderr


@pytest.mark.F3
async def test_logins_and_refreshes_go_on_while_limits_change(
    api: ApiServer, mayfly: Mayfly, name: str, stores: Stores
) -> None:
    """
    However often the limit changes meanwhile, nobody's login or refresh is refused for it, and in the end every login
    has the limit that the account has.
    """
    going = True

    async def change_limits() -> None:
        number = 0
        while going:
            number = number % 9 + 1
            await limit_user(stores, name, number)

    changing = [asyncio.create_task(change_limits()) for _ in range(2)]
    tokens = MemoryTokens()
    async with Client(api.url, ca_file=api.certificates.ca_file, tokens=tokens) as client:
        for _ in range(3):
            await client.log_in(name, PASSWORD)
        for _ in range(30):
            kept = await tokens.current()
            assert kept
            await tokens.renewed(
                kept,
                lambda refresh_token: client._grant({"grant_type": "refresh_token", "refresh_token": refresh_token}),
            )
        assert (await client.me()).username == name
    going = False
    await asyncio.gather(*changing)

    account = (await find_user(stores, name)).value
    assert set(await limits_of_logins(stores, name)) == {account.max_activations}
    assert len(await limits_of_logins(stores, name)) == 4


async def test_the_limit_of_an_account_ends_with_it(mayfly: Mayfly, api: ApiServer, name: str, stores: Stores) -> None:
    """Whoever has the name afterwards is somebody else; in between there is nobody to limit."""
    await limit_user(stores, name, 1)
    async with Client(api.url, ca_file=api.certificates.ca_file) as client:
        await client.log_in(name, PASSWORD)
        await client.delete_me()
        with pytest.raises(NotFound):
            await limit_user(stores, name, 1)
        await client.register(name, PASSWORD)

    assert (await find_user(stores, name)).value.max_activations is None
