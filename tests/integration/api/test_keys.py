"""Keys for machines: what one opens, what it never opens, and what ends it."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from msgspec.structs import replace

from mayfly.bus.connection import connect
from mayfly.bus.stores import Stores
from mayfly.bus.subjects import SESSIONS, kv_subject
from mayfly.domain.errors import NotAuthenticated
from mayfly.domain.ids import KEY_ID, UserName, new_id
from mayfly.domain.user import KEYS_MAX
from mayfly.services.sessions import RefreshTokenReused
from mayfly.services.tokens import Claims, write_new_key
from mayfly.services.users import give_role, limit_user
from mayfly.settings import NatsSettings
from tests.integration.api.conftest import FUNCTION, Someone
from tests.integration.api.test_identity import bearer, log_in, refresh
from tests.support.answering import AnsweringWorker
from tests.support.api import PASSWORD, in_process

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.F3]

ME, KEYS = "/v1/users/me", "/v1/keys"
DAY_S = 86_400


async def make(one: Someone, name: str = "ci", **more: Any) -> dict[str, Any]:
    """Make a key."""
    answer = await one.client.post(KEYS, json={"name": name, **more})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def key_of(token: str) -> str:
    """Where the session of a token lies."""
    claims = jwt.decode(token, options={"verify_signature": False})
    return f"{claims['sub']}.{claims['sid']}"


async def names(one: Someone) -> list[str]:
    """The names of one's keys."""
    return [key["name"] for key in (await one.client.get(KEYS)).json()["keys"]]


def lives_s(key: dict[str, Any]) -> float:
    """How long it is good for."""
    began, ends = (datetime.fromisoformat(key[field]) for field in ("created_at", "expires_at"))
    return (ends - began).total_seconds()


async def test_a_key_calls_functions_and_is_shown_once(
    ann: Someone, anybody: httpx.AsyncClient, worker: AnsweringWorker
) -> None:
    """It opens what its user's login does, with the claims that the gateway needs; its token is in no list."""
    answer = await ann.client.post(KEYS, json={"name": "ci"})
    key = answer.json()
    assert answer.headers["Location"] == f"{KEYS}/{key['id']}"
    assert key.keys() == {"id", "name", "created_at", "expires_at", "usable", "token"}
    listed = (await ann.client.get(KEYS)).json()["keys"]
    assert listed == [{field: value for field, value in key.items() if field != "token"}]

    headers = bearer(key["token"])
    assert (await anybody.post("/v1/functions", json=FUNCTION, headers=headers)).status_code == 201
    called = await anybody.post("/v1/functions/echo/activations", content=b"from a machine", headers=headers)
    assert (called.status_code, called.text) == (200, "from a machine")
    assert (await anybody.get(KEYS, headers=headers)).json()["keys"] == listed
    assert (await anybody.delete("/v1/functions/echo", headers=headers)).status_code == 204

    claims = jwt.decode(key["token"], options={"verify_signature": False})
    assert claims.keys() == {"iss", "aud", "sub", "sid", "iat", "exp", "jti", "kid"}
    assert (claims["sid"], bool(KEY_ID.fullmatch(claims["sid"]))) == (key["id"], True)
    assert claims["exp"] - claims["iat"] == 90 * DAY_S


async def test_a_key_takes_no_account_over(ann: Someone, anybody: httpx.AsyncClient) -> None:
    """It makes and ends no keys, logs nobody out, and neither changes nor deletes the account: 403, and says so."""
    key = await make(ann)
    change = {"current_password": PASSWORD, "new_password": "a whole new password", "end_keys": True}
    for method, path, body in (
        ("POST", KEYS, {"name": "another"}),
        ("DELETE", f"{KEYS}/ci", None),
        ("DELETE", "/v1/tokens/current", None),
        ("PUT", "/v1/users/me/password", change),
        ("DELETE", ME, None),
    ):
        answer = await anybody.request(method, path, json=body, headers=bearer(key["token"]))
        assert (answer.status_code, answer.json()["code"]) == (403, "not-allowed"), path
        assert "A key may not do this" in answer.json()["detail"]
    assert (await refresh(anybody, key["token"])).status_code == 401
    assert await names(ann) == ["ci"]
    assert (await log_in(anybody, ann.username, PASSWORD)).status_code == 200


async def test_an_operators_key_is_shown_no_more_than_a_users(
    ann: Someone, anybody: httpx.AsyncClient, database: Stores
) -> None:
    """Neither one that was there before the role, nor one made after: no hosts, no streams, nothing below /v1/admin."""
    before = await make(ann, "before")
    await give_role(database, ann.username, "operator")
    after = await make(ann, "after")

    assert (await ann.client.get("/v1/status")).json()["operator"] is not None
    for key in (before, after):
        status = await anybody.get("/v1/status", headers=bearer(key["token"]))
        assert (status.status_code, status.json()["operator"]) == (200, None)
        assert (await anybody.get("/v1/admin/users", headers=bearer(key["token"]))).status_code == 403


@pytest.mark.parametrize("by", ["name", "id"])
async def test_a_deleted_key_opens_nothing_at_once(ann: Someone, anybody: httpx.AsyncClient, by: str) -> None:
    """By its name or its id; its successor of the same name is another key."""
    key, other = await make(ann), await make(ann, "other")
    assert (await ann.client.delete(f"{KEYS}/{key[by]}")).status_code == 204
    assert (await anybody.get(ME, headers=bearer(key["token"]))).status_code == 401
    assert (await anybody.get(ME, headers=bearer(other["token"]))).status_code == 200
    again = await make(ann)
    assert (await anybody.get(ME, headers=bearer(key["token"]))).status_code == 401
    assert (await anybody.get(ME, headers=bearer(again["token"]))).status_code == 200
    gone = await ann.client.delete(f"{KEYS}/{key['id']}")
    assert (gone.status_code, gone.json()["code"]) == (404, "not-found")


async def test_keys_are_ones_own(ann: Someone, bob: Someone) -> None:
    """Another user neither sees nor ends them, and may use the same name."""
    key = await make(ann)
    await make(bob)
    assert (await bob.client.delete(f"{KEYS}/{key['id']}")).status_code == 404
    assert (await bob.client.delete(f"{KEYS}/ci")).status_code == 204
    assert await names(ann) == ["ci"]
    assert await names(bob) == []


async def test_a_logout_leaves_keys_and_a_new_password_too_unless_asked(
    ann: Someone, anybody: httpx.AsyncClient
) -> None:
    """A machine goes on; with `end_keys` it does not."""
    key = await make(ann)
    change = {"current_password": PASSWORD, "new_password": "a whole new password"}
    assert (await ann.client.put("/v1/users/me/password", json=change)).status_code == 204
    assert (await ann.client.delete("/v1/tokens/current")).status_code == 204
    assert (await anybody.get(ME, headers=bearer(key["token"]))).status_code == 200

    login = (await log_in(anybody, ann.username, "a whole new password")).json()
    change = {"current_password": "a whole new password", "new_password": PASSWORD}
    headers = bearer(login["access_token"])
    answer = await anybody.put("/v1/users/me/password", json={**change, "end_keys": True}, headers=headers)
    assert answer.status_code == 204
    assert (await anybody.get(ME, headers=bearer(key["token"]))).status_code == 401
    assert (await anybody.get(ME, headers=headers)).status_code == 200


async def test_a_stolen_logins_keys_end_with_it(ann: Someone, anybody: httpx.AsyncClient, database: Stores) -> None:
    """
    When a refresh token is shown again, the keys that this login has made are refused from then on. Those of another
    login go on, and so do those of a version that did not write down which login made them.
    """
    stolen = await make(ann, "stolen")
    other = (await log_in(anybody, ann.username, PASSWORD)).json()
    headers = bearer(other["access_token"])
    kept = (await anybody.post(KEYS, json={"name": "kept"}, headers=headers)).json()
    old = await make(ann, "old")
    entry = await database.sessions.get(key_of(old["token"]))
    assert entry
    unknown = replace(entry.value, made_by=None)
    await database.sessions.update(entry.key, unknown, revision=entry.revision, ttl_s=3600)

    assert (await refresh(anybody, ann.tokens["refresh_token"])).status_code == 200
    assert (await refresh(anybody, ann.tokens["refresh_token"])).status_code == 401
    assert (await anybody.get(ME, headers=bearer(stolen["token"]))).status_code == 401
    assert [(await anybody.get(ME, headers=bearer(key["token"]))).status_code for key in (kept, old)] == [200, 200]
    assert [key["name"] for key in (await anybody.get(KEYS, headers=headers)).json()["keys"]] == ["kept", "old"]


async def test_a_key_that_is_made_while_its_login_turns_out_to_be_stolen_ends(nats_url: str, tmp_path: Path) -> None:
    """Also one that is there only after the first look at the keys."""
    async with in_process(nats_url, tmp_path) as (state, _):
        name = UserName(f"u-{new_id()}")
        user = await state.users.register(name, PASSWORD)
        tokens = await state.sessions.log_in(name, PASSWORD)
        await state.sessions.refresh(tokens.refresh_token)
        end = state.sessions.end

        async def end_after_a_key(claims: Claims) -> None:
            if claims.session_id == tokens.session.id:
                await state.keys.create(tokens.session, "racing", lives_s=DAY_S)
            await end(claims)

        state.sessions.end = end_after_a_key  # type: ignore[method-assign]
        with pytest.raises(RefreshTokenReused):
            await state.sessions.refresh(tokens.refresh_token)
        assert await state.keys.of(user.id) == []


async def test_a_key_that_cannot_be_read_hides_no_other(ann: Someone, nats_url: str) -> None:
    """It opens nothing; the others are listed, made and deleted as before."""
    spoilt, _ = await make(ann, "spoilt"), await make(ann, "good")
    async with connect(NatsSettings(nats_url=nats_url), role="admin") as bus:
        await bus.js.publish(kv_subject(SESSIONS, key_of(spoilt["token"])), b"garbage")
    assert await names(ann) == ["good"]
    assert (await ann.client.delete(f"{KEYS}/good")).status_code == 204
    await make(ann, "again")


async def test_a_deleted_account_has_no_keys(ann: Someone, anybody: httpx.AsyncClient) -> None:
    """They are dead at once, also when somebody else gets the name."""
    key = await make(ann)
    assert (await ann.client.delete(ME)).status_code == 204
    assert (await anybody.get("/v1/functions", headers=bearer(key["token"]))).status_code == 401
    await anybody.post("/v1/users", json={"username": ann.username, "password": PASSWORD})
    assert (await anybody.get("/v1/functions", headers=bearer(key["token"]))).status_code == 401


async def test_of_keys_that_are_made_at_once_one_has_the_name(ann: Someone) -> None:
    """Five of one name: one is made, four are 409 and leave nothing behind."""
    answers = await asyncio.gather(*(ann.client.post(KEYS, json={"name": "ci"}) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]
    assert await names(ann) == ["ci"]


async def test_keys_are_bounded_also_when_made_at_once(ann: Someone) -> None:
    """The 51st is refused with the limit, and of those that race for the last place exactly one gets it."""
    for start in range(0, KEYS_MAX - 1, 7):
        await asyncio.gather(*(make(ann, f"k{number}") for number in range(start, start + 7)))
    racing = await asyncio.gather(*(ann.client.post(KEYS, json={"name": f"r{number}"}) for number in range(4)))
    assert sorted(answer.status_code for answer in racing) == [201, 403, 403, 403]
    assert len(await names(ann)) == KEYS_MAX
    answer = await ann.client.post(KEYS, json={"name": "more"})
    assert (answer.status_code, answer.json()["limit"]) == (403, KEYS_MAX)


async def test_what_deleted_keys_leave_is_bounded(
    nats_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who makes keys and deletes them is stopped in the end, with the remedy; another one is not."""
    monkeypatch.setattr("mayfly.services.keys.KEY_IDS_MAX", 5)
    async with in_process(nats_url, tmp_path) as (_, client):
        one, other = await registered(client), await registered(client)
        for number in range(5):
            assert (await client.post(KEYS, json={"name": f"k{number}"}, headers=one)).status_code == 201
            assert (await client.delete(f"{KEYS}/k{number}", headers=one)).status_code == 204
        refused = await client.post(KEYS, json={"name": "more"}, headers=one)
        assert (await client.post(KEYS, json={"name": "k"}, headers=other)).status_code == 201

    assert (refused.status_code, refused.json()["code"], refused.json()["limit"]) == (403, "not-allowed", 5)
    assert "until it would have expired" in refused.json()["detail"]


async def registered(client: httpx.AsyncClient) -> dict[str, str]:
    """Somebody new who has logged in: the header of a request of his."""
    name = f"u{new_id()}"
    made = await client.post("/v1/users", json={"username": name, "password": PASSWORD})
    assert made.status_code == 201, made.text
    return bearer((await log_in(client, name, PASSWORD)).json()["access_token"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": "CI"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "ci", "expires_in_s": 59}, "expires_in_s"),
        ({"name": "ci", "expires_in_s": 366 * DAY_S + 1}, "expires_in_s"),
        ({"name": "ci", "expires_in_s": "90d"}, "expires_in_s"),
        ({"name": "ci", "expires": 60}, "expires"),
    ],
)
async def test_what_cannot_be_a_key_is_refused(resident: Someone, body: dict[str, Any], field: str) -> None:
    """400, naming the field; nothing is made."""
    answer = await resident.client.post(KEYS, json=body)
    assert answer.status_code == 400
    assert field in answer.text
    assert await names(resident) == []


async def test_a_key_lives_as_long_as_asked(ann: Someone) -> None:
    """Its token and its session end together."""
    key = await make(ann, expires_in_s=366 * DAY_S)
    claims = jwt.decode(key["token"], options={"verify_signature": False})
    assert (claims["exp"] - claims["iat"], lives_s(key)) == (366 * DAY_S, 366 * DAY_S)


async def test_a_limit_of_the_operators_holds_for_keys_as_well(ann: Someone, nats_url: str) -> None:
    """For those that there are, and those to come."""
    await make(ann, "before")
    async with connect(NatsSettings(nats_url=nats_url), role="admin") as bus:
        stores = Stores.on(bus)
        user = await limit_user(stores, ann.username, 2)
        await make(ann, "after")
        limits = [(await stores.sessions.get(key)) for key in await stores.sessions.keys(user.id)]
    assert [entry.value.max_activations for entry in limits if entry] == [2, 2, 2]


async def test_a_key_that_is_made_while_its_login_ends_is_not_left_over(nats_url: str, tmp_path: Path) -> None:
    """Whoever is logged out between two steps of making a key, or whose account goes, has none afterwards."""
    async with in_process(nats_url, tmp_path) as (state, _):
        name = UserName(f"u-{new_id()}")
        user = await state.users.register(name, PASSWORD)
        claims = state.sessions.verify((await state.sessions.log_in(name, PASSWORD)).access_token)
        login = await state.sessions.alive(claims)
        await state.sessions.end_all(user.id)
        with pytest.raises(NotAuthenticated):
            await state.keys.create(login, "ci", lives_s=DAY_S)
        assert await state.keys.of(user.id) == []
        await state.users.delete(login)
        with pytest.raises(NotAuthenticated):
            await state.keys.create(login, "ci", lives_s=DAY_S)
        assert await state.keys.of(user.id) == []


async def test_token_keys_rotate_without_logging_anyone_out(nats_url: str, tmp_path: Path) -> None:
    """
    Logins go on through all steps, by their access tokens and refreshed. A key made before is good until its token key
    is removed, and its owner sees then that it is not any more; one that was made in between goes on.
    """
    name, keys = f"u-{new_id()}", {}
    tokens: dict[str, Any] = {}

    async def step(told: str) -> dict[str, bool]:
        async with in_process(nats_url, tmp_path) as (_, client):
            if not tokens:
                await client.post("/v1/users", json={"username": name, "password": PASSWORD})
                tokens.update((await log_in(client, name, PASSWORD)).json())
            assert (await client.get(ME, headers=bearer(tokens["access_token"]))).status_code == 200, told
            tokens.update((await refresh(client, tokens["refresh_token"])).raise_for_status().json())
            client.headers.update(bearer(tokens["access_token"]))
            keys[told] = (await make(Someone(name, tokens, client), told))["token"]
            listed = {key["name"]: bool(key["usable"]) for key in (await client.get(KEYS)).json()["keys"]}
            opens = [key for key, token in keys.items() if (await client.get(ME, headers=bearer(token))).is_success]
        assert sorted(opens) == sorted(key for key, usable in listed.items() if usable)
        return listed

    assert await step("begin") == {"begin": True}
    [old] = (tmp_path / "token-keys").glob("*.pem")
    write_new_key(tmp_path / "token-keys")  # the newest signs from the next start on
    assert await step("between") == {"begin": True, "between": True}
    old.unlink()
    assert await step("after") == {"begin": False, "between": True, "after": True}
