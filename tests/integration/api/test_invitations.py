"""Registration by invitation, over HTTPS: one code, one account, and no word to whoever has none."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from msgspec.structs import replace

from mayfly.bus.stores import Stores
from mayfly.domain.ids import new_id
from tests.integration.api.conftest import Someone
from tests.integration.api.test_identity import log_in
from tests.support.api import PASSWORD, ApiServer

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.F2]

INVITATIONS = "/v1/admin/invitations"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def by_invitation(nats_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """Another API server of the same installation, where registration is by invitation."""
    directory = tmp_path_factory.mktemp("by-invitation")
    async with ApiServer(nats_url, directory, registration="invitation") as server, server.client() as client:
        yield client


def a_name() -> str:
    """A user name that is free."""
    return f"u-{new_id()}"


async def invited(operator: Someone, **given: Any) -> dict[str, Any]:
    """Make an invitation."""
    answer = await operator.client.post(INVITATIONS, json=given)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def register(client: httpx.AsyncClient, code: object, name: str | None = None) -> httpx.Response:
    """Register with a code."""
    body = {"username": name or a_name(), "password": PASSWORD, "invitation": code}
    return await client.post("/v1/users", json=body)


async def test_a_code_makes_one_account(by_invitation: httpx.AsyncClient, operator: Someone) -> None:
    """With it an account is made that can log in; the second time it is refused, and is in no list any more."""
    invitation = await invited(operator)
    first = await register(by_invitation, invitation["code"])
    second = await register(by_invitation, invitation["code"])

    assert first.status_code == 201
    assert (await log_in(by_invitation, first.json()["username"], PASSWORD)).status_code == 200
    assert (second.status_code, second.json()["code"], second.json()["field"]) == (403, "not-allowed", "invitation")
    listed = (await operator.client.get(INVITATIONS)).json()["invitations"]
    assert invitation["id"] not in [each["id"] for each in listed]
    shown = (await operator.client.get(f"/v1/admin/users/{first.json()['username']}")).json()
    assert shown["invitation"] == invitation["id"]


async def test_the_code_is_shown_once_and_kept_nowhere(operator: Someone, api: ApiServer, database: Stores) -> None:
    """It has 160 random bits; the list, the database and the log have nothing of them, and codes differ."""
    one, other = await invited(operator, note="for ann", expires_in_s=3600), await invited(operator)
    assert re.fullmatch(rf"{one['id']}-[a-z2-7]{{32}}", one["code"])
    secret = one["code"].rpartition("-")[2]
    assert secret != other["code"].rpartition("-")[2]

    listed = await operator.client.get(INVITATIONS)
    (shown,) = [each for each in listed.json()["invitations"] if each["id"] == one["id"]]
    assert shown == {name: value for name, value in one.items() if name != "code"}
    assert shown["note"] == "for ann"
    assert shown["created_by"] == operator.username
    entry = await database.invitations.get(one["id"])
    assert entry is not None
    assert secret not in repr(entry.value)
    assert secret not in listed.text + repr(api.log)


async def test_what_is_not_good_is_refused_in_the_same_words(
    by_invitation: httpx.AsyncClient, operator: Someone, database: Stores, ann: Someone
) -> None:
    """Unknown, misspelt, used, revoked and expired codes get one answer, with a free name and with a taken one."""
    good, used, revoked, expired = [await invited(operator) for _ in range(4)]
    await register(by_invitation, used["code"])
    await operator.client.delete(f"{INVITATIONS}/{revoked['id']}")
    entry = await database.invitations.get(expired["id"])
    assert entry is not None
    await database.invitations.update(entry.key, replace(entry.value, expires_at=1.0), revision=entry.revision)
    bad = [
        used["code"],
        revoked["code"],
        expired["code"],
        good["code"][:-1] + ("a" if good["code"][-1] != "a" else "b"),
        f"{good['id']}-{'a' * 32}",
        f"{'0' * 26}-{'a' * 32}",
        good["id"],
        good["code"].upper(),
        "",
        "*.>",
    ]
    answers = [await register(by_invitation, code, name) for code in bad for name in (a_name(), ann.username)]

    assert {answer.status_code for answer in answers} == {403}
    said = {repr({**answer.json(), "request_id": None}) for answer in answers}
    assert len(said) == 1
    assert (await register(by_invitation, good["code"])).status_code == 201


async def test_only_a_good_code_tells_that_a_name_is_taken(
    by_invitation: httpx.AsyncClient, operator: Someone, ann: Someone
) -> None:
    """With it a taken name is 409, and the code stays good; without any, a taken name looks like a free one."""
    code = (await invited(operator))["code"]
    taken = await register(by_invitation, code, ann.username)
    without = [await register(by_invitation, None, name) for name in (ann.username, a_name())]

    assert (taken.status_code, taken.json()["code"]) == (409, "already-exists")
    assert {answer.status_code for answer in without} == {403}
    assert {answer.json()["detail"] for answer in without} == {without[0].json()["detail"]}
    assert "by invitation" in without[0].json()["detail"]
    assert (await register(by_invitation, code)).status_code == 201


async def test_of_twenty_racing_registrations_one_makes_an_account(
    by_invitation: httpx.AsyncClient, operator: Someone, database: Stores
) -> None:
    """Of twenty who come at once with one code one has an account, and nobody else."""
    code = (await invited(operator))["code"]
    names = [a_name() for _ in range(20)]
    answers = await asyncio.gather(*(register(by_invitation, code, each) for each in names))

    statuses = [answer.status_code for answer in answers]
    assert statuses.count(201) == 1, statuses
    assert set(statuses) <= {201, 403, 429}
    made = [each for each in names if await database.users.get(each)]
    assert made == [answers[statuses.index(201)].json()["username"]]
    assert (await register(by_invitation, code)).status_code == 403


async def test_where_registration_is_open_a_code_is_not_looked_at(
    anybody: httpx.AsyncClient, by_invitation: httpx.AsyncClient, operator: Someone
) -> None:
    """A good one is not used up there, and a bad one does no harm."""
    code = (await invited(operator))["code"]

    assert (await register(anybody, code)).status_code == 201
    assert (await register(anybody, "no code at all")).status_code == 201
    assert (await register(by_invitation, code)).status_code == 201


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"expires_in_s": 59}, "at least 60"),
        ({"expires_in_s": 30 * 86_400 + 1}, "at most 2592000"),
        ({"note": "n" * 201}, "at most 200 characters"),
        ({"note": "two\nlines"}, "one line"),
    ],
)
async def test_an_invitation_that_cannot_be_is_told(operator: Someone, given: dict[str, Any], words: str) -> None:
    """It is 400 with the rule."""
    answer = await operator.client.post(INVITATIONS, json=given)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-request")
    assert words in answer.json()["detail"]


async def test_what_is_not_there_is_not_revoked(operator: Someone) -> None:
    """An id that nobody has, or cannot have, is 404, and so is one that was revoked before."""
    invitation = await invited(operator)
    statuses = [
        (await operator.client.delete(f"{INVITATIONS}/{each}")).status_code
        for each in (invitation["id"], invitation["id"], "x", ">", invitation["code"])
    ]
    assert statuses == [204, 404, 404, 404, 404]


async def test_invitations_are_listed_page_by_page(operator: Someone) -> None:
    """Walked two at a time, each that can be used comes once, the newest first."""
    made = [(await invited(operator))["id"] for _ in range(5)]
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = (await operator.client.get(INVITATIONS, params={"limit": 2, **after})).json()
        found += [each["id"] for each in page["invitations"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}

    assert found == sorted(set(found), reverse=True)
    assert [each for each in found if each in made] == made[::-1]
