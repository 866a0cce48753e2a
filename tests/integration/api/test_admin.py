"""/v1/admin over HTTPS: for operators only, from the moment that they are, and blind to what others call with."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from mayfly.api.app import ROUTES
from mayfly.api.auth import ADMIN
from mayfly.bus.connection import connect
from mayfly.bus.stores import Stores
from mayfly.bus.subjects import SESSIONS, kv_subject
from mayfly.domain.activation import State
from mayfly.domain.ids import UserName, new_id
from mayfly.services.tokens import Claims
from mayfly.services.users import find_user, give_role
from mayfly.settings import NatsSettings
from tests.integration.api.conftest import Someone
from tests.integration.api.test_identity import bearer, log_in, refresh
from tests.integration.api.test_status import a_beat
from tests.support.answering import AnsweringWorker, Ending
from tests.support.api import PASSWORD, ApiServer, in_process

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.F3]

ADMIN_ROUTES = [
    (method, route.path) for route in ROUTES if route.path.startswith(ADMIN) for method in sorted(route.methods or ())
]
SECRETS = ("the-parameter", "the-result", "the-log", "the-value", PASSWORD)


def url_of(path: str, **names: str) -> str:
    """Fill a route's path."""
    given = {"name": "nobody-here", "worker_id": new_id(), "invitation_id": new_id(), **names}
    return path.format(activation_id=given.pop("activation_id", f"{'a' * 24}-{'0' * 26}"), **given)


async def until(client: httpx.AsyncClient, path: str, state: str) -> dict[str, Any]:
    """Wait until a record is in a state."""
    async with asyncio.timeout(20):
        while (record := (await client.get(path)).json())["state"] != state:
            await asyncio.sleep(0.02)
    return dict(record)


def ends_last(route: tuple[str, str]) -> tuple[bool, int]:
    """Sort routes so that what is there is shown first, then ended, and its user deleted last."""
    return route[0] == "DELETE", -len(route[1])


async def submitted(someone: Someone, parameter: bytes = b"x") -> str:
    """Call `echo` asynchronously; return where its record is."""
    answer = await someone.client.post(
        "/v1/functions/echo/activations", content=parameter, headers={"Prefer": "respond-async"}
    )
    assert answer.status_code == 202, answer.text
    return str(answer.headers["Location"])


async def test_every_admin_route_is_for_operators_only(ann: Someone, anybody: httpx.AsyncClient) -> None:
    """Each of them is 401 without a token and 403 for a user without the role, whatever it names."""
    assert len(ADMIN_ROUTES) == 13
    for method, path in ADMIN_ROUTES:
        for client, status, code in ((anybody, 401, "not-authenticated"), (ann.client, 403, "not-allowed")):
            answer = await client.request(method, url_of(path, name=ann.username), json={})
            assert (answer.status_code, answer.json()["code"]) == (status, code), (method, path)


async def test_a_key_of_an_operators_is_none(operator: Someone, anybody: httpx.AsyncClient) -> None:
    """Each admin route is 403 for it and tells why, whatever it names; the login with which it was made is let in."""
    made = await operator.client.post("/v1/keys", json={"name": f"k-{new_id()}"})
    headers = bearer(made.json()["token"])
    assert (await anybody.get("/v1/users/me", headers=headers)).status_code == 200
    for method, path in ADMIN_ROUTES:
        answer = await anybody.request(method, url_of(path), json={}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "not-allowed"), (method, path)
        assert "A key may not do this" in answer.json()["detail"]
    assert (await operator.client.get("/v1/admin/users")).status_code == 200


async def test_a_role_counts_at_once_and_is_lost_at_once(ann: Someone, database: Stores) -> None:
    """A login that was there before may do it from the next call on, and no longer after the next one."""
    seen = []
    for role in ("operator", "user", "operator", "user"):
        await give_role(database, ann.username, role)
        answer = await ann.client.get("/v1/admin/users?limit=1")
        status = (await ann.client.get("/v1/status")).json()["operator"]
        seen.append((answer.status_code, status is not None))

    assert seen == [(200, True), (403, False), (200, True), (403, False)]


async def test_the_account_decides_and_not_the_login(ann: Someone, database: Stores) -> None:
    """A role that was taken from the account, by somebody who came no further, is gone in every login."""
    await give_role(database, ann.username, "operator")
    entry = await find_user(database, ann.username)
    session_key = (await database.sessions.keys(entry.value.id))[0]
    session = await database.sessions.get(session_key)
    await give_role(database, ann.username, "user")
    now = await database.sessions.get(session_key)
    assert session is not None
    assert now is not None
    await database.sessions.update(session_key, session.value, revision=now.revision, ttl_s=600)

    assert session.value.role == "operator"
    assert (await ann.client.get("/v1/admin/users")).status_code == 403


async def test_operators_make_operators_but_not_of_themselves(operator: Someone, ann: Someone) -> None:
    """The role is given and taken through the API; one's own is neither taken, nor suspended, nor deleted there."""
    path = f"/v1/admin/users/{ann.username}"
    given = await operator.client.patch(path, json={"role": "operator"})
    as_operator = await ann.client.get(path)
    taken = await operator.client.patch(path, json={"role": "user"})
    as_user = await ann.client.get(path)
    assert (given.json()["role"], taken.json()["role"]) == ("operator", "user")
    assert (as_operator.status_code, as_user.status_code) == (200, 403)

    own = f"/v1/admin/users/{operator.username}"
    for refused in (
        await operator.client.patch(own, json={"role": "user"}),
        await operator.client.patch(own, json={"suspended": True}),
        await operator.client.delete(own),
    ):
        assert (refused.status_code, refused.json()["code"]) == (403, "not-allowed")
    assert (await operator.client.get(own)).json()["role"] == "operator"


async def test_accounts_are_listed_page_by_page(operator: Someone, ann: Someone, bob: Someone) -> None:
    """Walked two at a time every account comes once, by name, without its password's hash."""
    names: list[str] = []
    after: dict[str, Any] = {}
    while True:
        page = (await operator.client.get("/v1/admin/users", params={"limit": 2, **after})).json()
        assert len(page["users"]) <= 2
        names += [user["username"] for user in page["users"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}

    assert names == sorted(set(names))
    assert {operator.username, ann.username, bob.username} <= set(names)
    shown = (await operator.client.get(f"/v1/admin/users/{ann.username}")).json()
    assert shown.keys() == {
        "id", "username", "role", "created_at", "max_activations", "suspended", "invitation", "in_flight",
    }  # fmt: skip
    assert (await operator.client.get("/v1/admin/users/nobody-here")).status_code == 404


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "at least one of role"),
        ({"role": None}, "cannot be null"),
        ({"suspended": None}, "cannot be null"),
        ({"role": "king"}, "operator"),
        ({"max_activations": 0}, "at least 1"),
        ({"max_activations": 257}, "at most 256"),
        ({"max_activation": 3}, "did you mean `max_activations`"),
    ],
)
async def test_a_change_that_cannot_be_is_told(
    operator: Someone, ann: Someone, change: dict[str, Any], words: str
) -> None:
    """It is 400 with the rule, and nothing changes."""
    path = f"/v1/admin/users/{ann.username}"
    before = (await operator.client.get(path)).json()
    answer = await operator.client.patch(path, json=change)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-request")
    assert words in answer.json()["detail"]
    assert (await operator.client.get(path)).json() == before


@pytest.mark.F13
async def test_a_limit_holds_from_the_next_call_on(operator: Someone, ann: Someone, worker: AnsweringWorker) -> None:
    """With one allowed the second is refused; null lifts it; what is left out of a change stays."""
    await ann.has()
    worker.hold.clear()
    path = f"/v1/admin/users/{ann.username}"
    limited = (await operator.client.patch(path, json={"max_activations": 1})).json()
    await submitted(ann)
    refused = await ann.client.post("/v1/functions/echo/activations", content=b"x")
    in_flight = (await operator.client.get(path)).json()["in_flight"]
    unchanged = (await operator.client.patch(path, json={"suspended": False})).json()
    lifted = (await operator.client.patch(path, json={"max_activations": None})).json()
    again = await submitted(ann)
    worker.hold.set()
    await until(ann.client, again, "succeeded")

    assert (limited["max_activations"], unchanged["max_activations"], lifted["max_activations"]) == (1, 1, None)
    assert (refused.status_code, refused.json()["scope"], refused.json()["limit"]) == (429, "user", 1)
    assert in_flight == 1


async def test_a_suspended_user_is_refused_at_once_and_everywhere(
    operator: Someone, ann: Someone, anybody: httpx.AsyncClient
) -> None:
    """Neither a call nor a login nor a refresh is taken until the end of it; a wrong password tells nothing of it."""
    path = f"/v1/admin/users/{ann.username}"
    await operator.client.patch(path, json={"suspended": True})
    refused = [
        await ann.client.get("/v1/users/me"),
        await ann.client.post("/v1/functions/echo/activations", content=b"x"),
        await log_in(anybody, ann.username, PASSWORD),
        await refresh(anybody, ann.tokens["refresh_token"]),
    ]
    wrong = await log_in(anybody, ann.username, "a wrong password")
    await operator.client.patch(path, json={"suspended": False})

    for answer in refused:
        assert (answer.status_code, answer.json()["code"]) == (403, "not-allowed")
        assert "suspended" in answer.json()["detail"]
    assert (wrong.status_code, wrong.json()["detail"]) == (401, "User name or password is wrong.")
    assert (await ann.client.get("/v1/users/me")).status_code == 200
    assert (await refresh(anybody, ann.tokens["refresh_token"])).status_code == 200


async def test_a_suspended_operator_is_none(operator: Someone, ann: Someone, database: Stores) -> None:
    """The role does not help whoever is suspended."""
    await give_role(database, ann.username, "operator")
    await operator.client.patch(f"/v1/admin/users/{ann.username}", json={"suspended": True})

    assert (await ann.client.get("/v1/admin/users")).status_code == 403
    assert (await operator.client.patch(f"/v1/admin/users/{ann.username}", json={"role": "user"})).status_code == 200


async def test_a_suspended_operator_is_none_before_his_logins_are_told(ann: Someone, database: Stores) -> None:
    """The account decides, also where whoever suspended it came no further than that one write."""
    await give_role(database, ann.username, "operator")
    entry = await find_user(database, ann.username)
    await database.users.update(entry.key, replace(entry.value, suspended=True), revision=entry.revision)

    assert (await ann.client.get("/v1/users/me")).status_code == 200, "the login has not been told"
    assert (await ann.client.get("/v1/admin/users")).status_code == 403


@pytest.mark.parametrize("ends", ["role", "login"])
async def test_an_operator_is_asked_for_again_when_the_body_is_there(ends: str, nats_url: str, tmp_path: Path) -> None:
    """A body that is sent after the role, or the login, has gone changes nothing, however early its call began."""
    async with in_process(nats_url, tmp_path) as (state, client):
        name, friend = UserName(f"u-{new_id()}"), UserName(f"u-{new_id()}")
        for each in (name, friend):
            await state.users.register(each, PASSWORD)
        await give_role(state.stores, name, "operator")
        tokens = await state.sessions.log_in(name, PASSWORD)

        async def late(body: bytes) -> AsyncIterator[bytes]:
            """It is asked for when the caller was let in."""
            if ends == "role":
                await give_role(state.stores, name, "user")
            else:
                await state.sessions.end(Claims(tokens.session.user_id, tokens.session.id))
            yield body

        client.headers.update(bearer(tokens.access_token) | {"Content-Type": "application/json"})
        answer = await client.patch(f"/v1/admin/users/{friend}", content=late(b'{"role": "operator"}'))
        assert answer.status_code == (403 if ends == "role" else 401), answer.text
        assert (await find_user(state.stores, friend)).value.role == "user"

        await give_role(state.stores, name, "operator")
        tokens = await state.sessions.log_in(name, PASSWORD)
        client.headers.update(bearer(tokens.access_token))
        answer = await client.post("/v1/admin/invitations", content=late(b"{}"))
        assert answer.status_code == (403 if ends == "role" else 401), answer.text


async def test_logins_that_race_with_a_suspension_are_suspended(
    operator: Someone, ann: Someone, anybody: httpx.AsyncClient
) -> None:
    """Of logins that come while an account is suspended none is left that may call."""
    logins = [asyncio.create_task(log_in(anybody, ann.username, PASSWORD)) for _ in range(6)]
    await operator.client.patch(f"/v1/admin/users/{ann.username}", json={"suspended": True})
    answers = await asyncio.gather(*logins)

    for answer in answers:
        assert answer.status_code in {200, 403}
        if answer.status_code == 200:
            called = await anybody.get("/v1/users/me", headers=bearer(answer.json()["access_token"]))
            assert called.status_code in {401, 403}


@pytest.mark.F11
async def test_an_operator_ends_a_call_and_its_owner_is_told(
    operator: Someone, ann: Someone, worker: AnsweringWorker
) -> None:
    """A running call of somebody else ends as cancelled; nobody else's name or id leads to it."""
    await ann.has()
    worker.hold.clear()
    record = await submitted(ann)
    await until(ann.client, record, "running")
    activation = record.rpartition("/")[2]
    elsewhere = await operator.client.delete(f"/v1/admin/users/{operator.username}/activations/{activation}")
    ended = await operator.client.delete(f"/v1/admin/users/{ann.username}/activations/{activation}")
    again = await operator.client.delete(f"/v1/admin/users/{ann.username}/activations/{activation}")

    assert elsewhere.status_code == 404
    assert (ended.status_code, ended.json()["state"]) == (200, "cancelled")
    assert again.json() == ended.json()
    assert (await ann.client.get(f"{record}/result")).status_code == 499


async def test_all_that_a_user_has_in_flight_is_ended(
    operator: Someone, ann: Someone, bob: Someone, worker: AnsweringWorker
) -> None:
    """Three calls of one user end, and another user's goes on."""
    worker.hold.clear()
    for one in (ann, bob):
        await one.has()
    records = [await submitted(ann) for _ in range(3)]
    other = await submitted(bob)
    for record in records:
        await until(ann.client, record, "running")
    ended = await operator.client.delete(f"/v1/admin/users/{ann.username}/activations")
    worker.hold.set()

    assert ended.json() == {"ended": 3, "going_on": 0}
    for record in records:
        assert (await ann.client.get(record)).json()["state"] == "cancelled"
    await until(bob.client, other, "succeeded")


async def test_a_deleted_user_is_gone_with_all(
    operator: Someone, api: ApiServer, anybody: httpx.AsyncClient, worker: AnsweringWorker, database: Stores
) -> None:
    """What it has in flight ends, its logins, functions and records go, and the name is free."""
    tokens = await api.registered()
    async with api.client(tokens["access_token"]) as client:
        victim = Someone(tokens["username"], tokens, client)
        await victim.has()
        worker.hold.clear()
        record = await submitted(victim)
        await until(client, record, "running")
        user_id = (await client.get("/v1/users/me")).json()["id"]
        deleted = await operator.client.delete(f"/v1/admin/users/{victim.username}")
        worker.hold.set()

        assert deleted.status_code == 204
        assert (await client.get("/v1/users/me")).status_code == 401
        assert (await log_in(anybody, victim.username, PASSWORD)).status_code == 401
        assert not [key for key in await database.functions.keys(user_id) if await database.functions.get(key)]
        assert not [key for key in await database.activations.keys(user_id) if await database.activations.get(key)]
    assert (await operator.client.delete(f"/v1/admin/users/{victim.username}")).status_code == 404
    await api.registered(victim.username)


@pytest.mark.F4
@pytest.mark.parametrize("how", ["suspended", "deleted", "by himself"])
async def test_a_login_that_cannot_be_read_keeps_nobody(
    how: str, operator: Someone, ann: Someone, anybody: httpx.AsyncClient, nats_url: str, database: Stores
) -> None:
    """Garbage among a user's logins is ended with them, and he is suspended and deleted as anybody is."""
    user = (await find_user(database, ann.username)).value
    other = (await log_in(anybody, ann.username, PASSWORD)).json()
    spoilt = f"{user.id}.{new_id()}"
    async with connect(NatsSettings(nats_url=nats_url), role="admin") as bus:
        await bus.js.publish(kv_subject(SESSIONS, spoilt), b"garbage")

    path = f"/v1/admin/users/{ann.username}"
    if how == "suspended":
        assert (await operator.client.patch(path, json={"suspended": True})).status_code == 200
    elif how == "deleted":
        assert (await operator.client.delete(path)).status_code == 204
    else:
        assert (await ann.client.delete("/v1/users/me")).status_code == 204
    assert await database.sessions.get(spoilt) is None
    answer = await anybody.get("/v1/users/me", headers=bearer(other["access_token"]))
    assert answer.status_code == (403 if how == "suspended" else 401)


async def test_operators_see_nobodys_parameters_or_results(
    operator: Someone, ann: Someone, worker: AnsweringWorker
) -> None:
    """
    After calls that ended well and ill, one that runs and one that was killed, no answer below /v1/admin has the
    parameter, its hash, the result, the log, a value of the environment or the password in it.
    """
    worker.answer = lambda work: Ending(result=b"the-result", stderr=b"the-log")
    await ann.has(env={"KEY": "the-value"})
    done = await ann.client.post("/v1/functions/echo/activations", content=b"the-parameter")
    assert done.text == "the-result"
    worker.answer = lambda work: Ending(
        state=State.FAILED, stderr=b"the-log", changes={"code": "function-failed", "detail": "the-log", "exit_code": 1}
    )
    await ann.client.post("/v1/functions/echo/activations", content=b"the-parameter")
    worker.hold.clear()
    record = await submitted(ann, b"the-parameter")
    await until(ann.client, record, "running")
    activation = record.rpartition("/")[2]
    await operator.client.patch(f"/v1/admin/users/{ann.username}", json={"max_activations": 3})
    answers = []
    for method, path in sorted(ADMIN_ROUTES, key=ends_last):
        url = url_of(path, name=ann.username, worker_id=worker.id, activation_id=activation)
        answers.append(await operator.client.request(method, url, json={} if method in {"POST", "PATCH"} else None))
    worker.hold.set()

    everything = "\n".join(answer.text for answer in answers)
    assert activation in everything
    assert sum(answer.is_success for answer in answers) >= 9
    hidden = (*SECRETS, hashlib.sha256(b"the-parameter").hexdigest(), "argon2", 'sha256"')
    assert [word for word in hidden if word in everything] == []


async def test_what_operators_do_is_in_both_trails(operator: Someone, ann: Someone) -> None:
    """The user's says that an operator did it, not which; the operator's says to whom, with the invitations he made."""
    path = f"/v1/admin/users/{ann.username}"
    await operator.client.patch(path, json={"suspended": True, "max_activations": 2})
    await operator.client.patch(path, json={"suspended": False})
    invitation = (await operator.client.post("/v1/admin/invitations", json={})).json()
    of_ann = (await ann.client.get("/v1/audit?limit=3")).json()["entries"]
    of_operator = (await operator.client.get("/v1/audit?limit=4")).json()["entries"]

    assert [(entry["action"], entry["by"], entry["subject"]) for entry in of_ann[:1]] == [
        ("user.resume", "operator", ann.username)
    ]
    assert {entry["action"] for entry in of_ann} == {"user.resume", "user.suspend", "limit.set"}
    assert operator.username not in str(of_ann)
    assert (of_operator[0]["action"], of_operator[0]["subject"]) == ("invitation.create", invitation["id"])
    assert invitation["code"].rpartition("-")[2] not in str(of_operator)
    assert [entry["subject"] for entry in of_operator[1:]] == [ann.username] * 3


async def test_a_worker_that_is_not_there_is_not_drained(operator: Someone, database: Stores) -> None:
    """An id that nobody has, or cannot have, or of one that has left, is 404; one that does not answer 503."""
    gone, silent = a_beat(gone=True), a_beat()
    for beat in (gone, silent):
        await database.workers.put(beat.id, beat, ttl_s=5)
    for worker_id, status in ((new_id(), 404), ("x.y", 404), (gone.id, 404), (silent.id, 503)):
        for method in ("POST", "DELETE"):
            answer = await operator.client.request(method, f"/v1/admin/workers/{worker_id}/drain")
            assert answer.status_code == status, answer.text
    for beat in (gone, silent):
        entry = await database.workers.get(beat.id)
        if entry:
            await database.workers.delete(entry.key, revision=entry.revision)
