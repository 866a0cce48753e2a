"""The audit trail through the real API: every change and login is in it, for its user, and no secret is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_asyncio

from mayfly.api.app import ROUTES
from mayfly.api.auth import ADMIN
from mayfly.api.state import ApiState
from mayfly.api.trail import UNRECORDED, Trail
from mayfly.bus import messages, subjects
from mayfly.bus.connection import Bus, connect
from mayfly.domain.audit import Action, Actor, AuditEntry
from mayfly.domain.ids import UserId, new_id
from mayfly.services.audit import NOT_WRITTEN, Audit
from mayfly.settings import NatsSettings
from tests.integration.api.conftest import FUNCTION, Someone
from tests.support.answering import AnsweringWorker, answering_worker
from tests.support.api import PASSWORD, ApiServer, bootstrapped
from tests.support.nats import NatsServer

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.F3]

NEW_PASSWORD = "another horse battery"
SECRET_VALUES = {
    "password": PASSWORD,
    "new password": NEW_PASSWORD,
    "env": "env-value-81c2",
    "parameter": "parameter-93d1",
    "secret": "secret-value-07e5",
}
WAIT_S = 20


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def operators(nats_url: str) -> AsyncIterator[Bus]:
    """A connection that reads everything."""
    async with connect(NatsSettings(nats_url=nats_url), role="admin") as bus:
        yield bus


async def trail_of(one: Someone, **query: Any) -> list[dict[str, Any]]:
    """What a user is shown of his trail, the newest first."""
    answer = await one.client.get("/v1/audit", params=query)
    assert answer.status_code == 200, answer.text
    entries: list[dict[str, Any]] = answer.json()["entries"]
    return entries


async def id_of(one: Someone) -> UserId:
    """A user's id."""
    return UserId((await one.client.get("/v1/users/me")).json()["id"])


async def log_in(api: ApiServer, username: str, password: str) -> dict[str, Any]:
    """POST /v1/tokens."""
    async with api.client() as client:
        form = {"grant_type": "password", "username": username, "password": password}
        answer = await client.post("/v1/tokens", data=form, headers={"X-Request-Id": "a-login"})
    return {**answer.json(), "status_code": answer.status_code}


class Walk:
    """A user who does everything once."""

    def __init__(self, api: ApiServer, worker: AnsweringWorker) -> None:
        """Nothing is done yet."""
        self.api, self.worker = api, worker
        self.name = f"u-{new_id()}"
        self.tokens: dict[str, Any] = {}

    async def send(self, method: str, path: str, **options: Any) -> Any:
        """Send with this user's token, if there is one; the answer's JSON, which must be a success."""
        async with self.api.client(self.tokens.get("access_token")) as client:
            answer = await client.request(method, path, **options)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def register(self) -> tuple[str, str]:
        """POST /v1/users"""
        await self.send("POST", "/v1/users", json={"username": self.name, "password": PASSWORD})
        return "user.register", self.name

    async def log_in(self) -> tuple[str, str]:
        """POST /v1/tokens"""
        self.tokens = await log_in(self.api, self.name, PASSWORD)
        return "session.begin", await self.session()

    async def change_password(self) -> tuple[str, str]:
        """PUT /v1/users/me/password"""
        body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
        await self.send("PUT", "/v1/users/me/password", json=body)
        return "password.change", self.name

    async def make_key(self) -> tuple[str, str]:
        """POST /v1/keys"""
        self.tokens["key"] = (await self.send("POST", "/v1/keys", json={"name": "ci"}))["token"]
        return "key.make", "ci"

    async def delete_key(self) -> tuple[str, str]:
        """DELETE /v1/keys/{key}"""
        await self.send("DELETE", "/v1/keys/ci")
        return "key.delete", "ci"

    async def register_function(self) -> tuple[str, str]:
        """POST /v1/functions"""
        env = {"TOKEN": SECRET_VALUES["env"]}
        await self.send("POST", "/v1/functions", json=FUNCTION | {"name": "walked", "env": env})
        return "function.register", "walked"

    async def replace_function(self) -> tuple[str, str]:
        """PUT /v1/functions/{name}"""
        body = {"image": FUNCTION["image"], "env": {"TOKEN": SECRET_VALUES["env"]}}
        await self.send("PUT", "/v1/functions/walked", json=body)
        return "function.replace", "walked"

    async def set_secret(self) -> tuple[str, str]:
        """PUT /v1/functions/{name}/secrets/{key}"""
        await self.send("PUT", "/v1/functions/walked/secrets/KEY", content=SECRET_VALUES["secret"])
        return "secret.set", "walked/KEY"

    async def delete_secret(self) -> tuple[str, str]:
        """DELETE /v1/functions/{name}/secrets/{key}"""
        await self.send("DELETE", "/v1/functions/walked/secrets/KEY")
        return "secret.delete", "walked/KEY"

    async def set_registry(self) -> tuple[str, str]:
        """PUT /v1/registries/{host}"""
        body = {"username": "walker", "password": SECRET_VALUES["secret"]}
        await self.send("PUT", "/v1/registries/ghcr.io", json=body)
        return "registry.set", "ghcr.io"

    async def delete_registry(self) -> tuple[str, str]:
        """DELETE /v1/registries/{host}"""
        await self.send("DELETE", "/v1/registries/ghcr.io")
        return "registry.delete", "ghcr.io"

    async def cancel(self) -> tuple[str, str]:
        """DELETE /v1/activations/{activation_id}"""
        self.worker.hold.clear()
        options = {"headers": {"Prefer": "respond-async"}, "content": SECRET_VALUES["parameter"]}
        called = await self.send("POST", "/v1/functions/walked/activations", **options)
        await self.send("DELETE", f"/v1/activations/{called['id']}")
        self.worker.hold.set()
        return "activation.cancel", called["id"]

    async def deregister_function(self) -> tuple[str, str]:
        """DELETE /v1/functions/{name}"""
        await self.send("DELETE", "/v1/functions/walked")
        return "function.deregister", "walked"

    async def log_out(self) -> tuple[str, str]:
        """DELETE /v1/tokens/current"""
        session = await self.session()
        await self.send("DELETE", "/v1/tokens/current")
        self.tokens = await log_in(self.api, self.name, NEW_PASSWORD)
        return "session.end", session

    async def delete_me(self) -> tuple[str, str]:
        """DELETE /v1/users/me"""
        await self.send("DELETE", "/v1/users/me")
        return "user.delete", self.name

    async def session(self) -> str:
        """The login that is used."""
        entries = (await self.send("GET", "/v1/audit"))["entries"]
        return str(next(entry["subject"] for entry in entries if entry["action"] == "session.begin"))

    @property
    def ways(self) -> list[Callable[[], Awaitable[tuple[str, str]]]]:
        """Every route that changes something, in an order in which it can be walked."""
        return [
            self.register,
            self.log_in,
            self.change_password,
            self.make_key,
            self.delete_key,
            self.register_function,
            self.replace_function,
            self.set_secret,
            self.delete_secret,
            self.set_registry,
            self.delete_registry,
            self.cancel,
            self.deregister_function,
            self.log_out,
            self.delete_me,
        ]


def changing_routes() -> set[tuple[str, str]]:
    """All that changes something and has to be in the trail."""
    return {(method, each.path) for each in ROUTES for method in (each.methods or set()) - {"GET"}} - UNRECORDED


def walked_by(ways: Iterable[Callable[[], Awaitable[Any]]]) -> set[tuple[str, str]]:
    """The routes that are walked, as each way's docstring names its own."""
    return {(method, path) for way in ways for method, _, path in [(way.__doc__ or "").partition(" ")]}


async def everything_in(bus: Bus) -> bytes:
    """All that the stream holds, with subjects and headers, as NATS keeps it."""
    state = (await bus.js.stream_info(subjects.AUDIT)).state
    found = messages.read_through(bus, subjects.AUDIT, subject=">", first_seq=state.first_seq, last_seq=state.last_seq)
    return b"\n".join([each.subject.encode() + each.hdrs + each.data async for each in found])


async def test_each_change_and_login_is_in_the_trail_and_no_secret_is(
    api: ApiServer, worker: AnsweringWorker, operators: Bus
) -> None:
    """
    Walked from the routes, operators' aside (test_admin_audit.py): each one that changes something leaves one entry
    that says who did what, when, from where and in which login, and that it was done; a call leaves none. Nothing that
    the user sent or got as a secret is anywhere in the stream, nor are the tokens.
    """
    walk = Walk(api, worker)
    assert walked_by(walk.ways) == {each for each in changing_routes() if not each[1].startswith(ADMIN)}

    done = []
    secrets = dict(SECRET_VALUES)
    user_id = UserId("")
    for way in walk.ways:
        done.append(await way())
        secrets |= {
            f"{way.__name__}, {name}": walk.tokens[name]
            for name in ("access_token", "refresh_token", "key")
            if name in walk.tokens
        }
        if walk.tokens and not user_id:
            user_id = UserId((await walk.send("GET", "/v1/users/me"))["id"])

    entries, more = await Audit(operators).list(user_id, limit=50)
    assert more is None
    relogin = next(entry for entry in entries if entry.action == "session.begin")
    told = [(each.action, each.subject) for each in reversed(entries) if each is not relogin]
    assert told == done
    assert {entry.outcome for entry in entries} == {"done"}
    for entry in entries:
        assert (entry.actor.by, entry.actor.user_id, entry.actor.user_name) == ("user", user_id, walk.name)
        assert entry.actor.address == "127.0.0.1"
        assert entry.actor.request_id
        assert bool(entry.actor.session_id) == (entry.action != "user.register")
        assert abs(entry.at - operators.clock.now()) < 600
    kept = await everything_in(operators)
    assert walk.name.encode() in kept
    for what, value in secrets.items():
        assert value.encode() not in kept, what


async def test_what_a_user_is_shown(ann: Someone, worker: AnsweringWorker) -> None:
    """An entry has these members and no other; the caller's own request id is among them."""
    answer = await ann.client.post("/v1/functions", json=FUNCTION, headers={"X-Request-Id": "r-4711"})
    assert answer.status_code == 201

    entry = (await trail_of(ann))[0]

    assert {name: entry[name] for name in entry if name not in ("id", "at", "session")} == {
        "action": "function.register",
        "subject": "echo",
        "outcome": "done",
        "code": None,
        "times": 1,
        "by": "user",
        "address": "127.0.0.1",
        "request_id": "r-4711",
    }


async def test_what_was_mistaken_is_not_in_the_trail_and_what_was_not_allowed_is(ann: Someone) -> None:
    """A wrong current password is; a function that is there already, is not there, or is ill described, is not."""
    wrong = {"current_password": "not the password", "new_password": NEW_PASSWORD}
    assert (await ann.client.put("/v1/users/me/password", json=wrong)).status_code == 403
    assert (await ann.client.post("/v1/functions", json={"name": "x"})).status_code == 400
    assert (await ann.client.delete("/v1/functions/nothing")).status_code == 404
    assert (await ann.client.delete(f"/v1/activations/{'a' * 24}-{'0' * 26}")).status_code == 404

    entries = await trail_of(ann)

    assert [each["action"] for each in entries] == ["password.change", "session.begin", "user.register"]
    assert (entries[0]["outcome"], entries[0]["code"]) == ("refused", "not-allowed")


async def test_a_cancellation_that_comes_too_late_is_no_change(ann: Someone, worker: AnsweringWorker) -> None:
    """An activation that had ended stays as it is, and nothing is written down."""
    await ann.has()
    called = await ann.client.post("/v1/functions/echo/activations", content="x")
    before = await trail_of(ann)

    answer = await ann.client.delete(called.headers["location"])

    assert (answer.status_code, answer.json()["state"]) == (200, "succeeded")
    assert await trail_of(ann) == before


async def test_nobody_sees_anothers_trail(ann: Someone, bob: Someone) -> None:
    """Each user's list is his own, also when he gives the `next` of another's page."""
    page = (await ann.client.get("/v1/audit", params={"limit": 1})).json()
    assert page["next"]

    entries = await trail_of(bob)
    stolen = await bob.client.get("/v1/audit", params={"after": page["next"]})

    assert [each["action"] for each in entries] == ["session.begin", "user.register"]
    assert entries[1]["subject"] == bob.username
    assert stolen.json() == {"entries": [], "next": None}
    assert (await bob.client.get("/v1/audit", params={"after": "x"})).json()["field"] == "after"


async def test_pages_of_the_trail(ann: Someone) -> None:
    """Page after page comes everything, once, the newest first."""
    for n in range(4):
        await ann.has(name=f"f{n}")
    found, after = [], None
    while True:
        page = (await ann.client.get("/v1/audit", params={"limit": 2} | ({"after": after} if after else {}))).json()
        found += page["entries"]
        if (after := page["next"]) is None:
            break

    assert found == await trail_of(ann)
    assert [each["subject"] for each in found[:4]] == ["f3", "f2", "f1", "f0"]


async def test_what_a_key_or_a_role_does_not_allow_is_in_the_trail(ann: Someone, api: ApiServer) -> None:
    """Whose key was copied sees that it was tried out, and from where; what was asked for is named by its route."""
    key = (await ann.client.post("/v1/keys", json={"name": "ci"})).json()
    async with api.client(key["token"]) as client:
        refused = [await client.delete("/v1/users/me"), await client.delete("/v1/keys/not-to-be-seen")]
    refused.append(await ann.client.get("/v1/admin/users/not-to-be-seen"))
    entries = await trail_of(ann)

    assert [answer.status_code for answer in refused] == [403, 403, 403]
    assert [(each["action"], each["subject"], each["outcome"], each["code"]) for each in entries[:3]] == [
        ("right.exceed", "GET /v1/admin/users/{name}", "refused", "not-allowed"),
        ("right.exceed", "DELETE /v1/keys/{key}", "refused", "not-allowed"),
        ("right.exceed", "DELETE /v1/users/me", "refused", "not-allowed"),
    ]
    assert [each["session"] for each in entries[1:4]] == [key["id"], key["id"], entries[0]["session"]]
    assert {each["address"] for each in entries[:3]} == {"127.0.0.1"}


async def test_a_refresh_token_shown_twice_is_in_the_trail(api: ApiServer, ann: Someone) -> None:
    """The end of a login by a copied refresh token is there, for the user to see from another login."""
    async with api.client() as client:
        form = {"grant_type": "refresh_token", "refresh_token": ann.tokens["refresh_token"]}
        assert (await client.post("/v1/tokens", data=form)).status_code == 200
        assert (await client.post("/v1/tokens", data=form)).status_code == 401
    again = await log_in(api, ann.username, PASSWORD)
    async with api.client(again["access_token"]) as client:
        entries = (await client.get("/v1/audit")).json()["entries"]

    assert [each["action"] for each in entries] == ["session.begin", "session.reuse", "session.begin", "user.register"]
    reuse = entries[1]
    assert (reuse["outcome"], reuse["session"]) == ("refused", entries[2]["session"])
    assert reuse["address"] == "127.0.0.1"


async def test_refused_logins_are_in_the_trail_of_whose_name_was_tried(
    nats_url: str, operators: Bus, tmp_path: Path
) -> None:
    """
    Wrong passwords are counted in the user's trail, those for a name that is none in nobody's; a server that stops
    writes what it has counted. The password that was tried and the name that is none are nowhere.
    """
    mistyped = f"my-password-{new_id()[:12]}"
    async with ApiServer(nats_url, tmp_path) as server:
        tokens = await server.registered()
        answers = [await log_in(server, tokens["username"], f"wrong {mistyped}") for _ in range(4)]
        answers += [await log_in(server, mistyped, "wrong password") for _ in range(3)]
        async with server.client(tokens["access_token"]) as client:
            user_id = UserId((await client.get("/v1/users/me")).json()["id"])
    assert {answer["status_code"] for answer in answers} == {401}

    entries = [entry for entry in (await Audit(operators).list(user_id, limit=50))[0] if entry.outcome == "refused"]
    assert sum(entry.times for entry in entries) == 4
    assert len(entries) < 4
    for entry in entries:
        assert (entry.action, entry.code, entry.actor.by) == ("session.begin", "not-authenticated", "nobody")
        assert (entry.actor.address, entry.actor.request_id) == ("127.0.0.1", "a-login")
    nobodys: list[AuditEntry] = (await Audit(operators).list(UserId(subjects.NOBODY), limit=50))[0]
    assert sum(entry.times for entry in nobodys) >= 3
    assert mistyped.encode() not in await everything_in(operators)


async def test_an_address_that_anybody_claims_is_not_believed(api: ApiServer, operators: Bus) -> None:
    """Without a gateway X-Forwarded-For changes nothing."""
    async with api.client() as client:
        body = {"username": f"u-{new_id()}", "password": PASSWORD}
        user = (await client.post("/v1/users", json=body, headers={"X-Forwarded-For": "203.0.113.9"})).json()

    (entry,), _ = await Audit(operators).list(UserId(user["id"]), limit=50)
    assert entry.actor.address == "127.0.0.1"


async def test_what_cannot_be_written_down_is_not_answered_with_success(tmp_path: Path) -> None:
    """
    Without the stream, each change and login is 503; where it was done the answer says so; no token is given out. With
    the stream back, everything works again. Calls go on all the time. And where nobody knows whether something was
    done, the trail says that.
    """
    async with NatsServer() as nats:
        await bootstrapped(nats.url, max_activations=8, max_activations_per_user=4)
        async with (
            ApiServer(nats.url, tmp_path) as server,
            answering_worker(nats.url),
            connect(NatsSettings(nats_url=nats.url), role="admin") as bus,
        ):
            tokens = await server.registered()
            async with server.client(tokens["access_token"]) as client:
                assert (await client.post("/v1/functions", json=FUNCTION)).status_code == 201
                config = (await bus.js.stream_info(subjects.AUDIT)).config
                await bus.js.delete_stream(subjects.AUDIT)

                changed = await client.post("/v1/functions", json=FUNCTION | {"name": "other"})
                login = await log_in(server, tokens["username"], PASSWORD)
                wrong = await log_in(server, tokens["username"], "wrong password")
                listed = await client.get("/v1/audit")
                call = await client.post("/v1/functions/echo/activations", content="still here")

                await bus.js.add_stream(config)
                removed = await client.delete("/v1/functions/other")
                await bus.js.delete_stream(subjects.kv_stream(subjects.FUNCTIONS))
                doubtful = await client.delete("/v1/functions/echo")
                entries = (await client.get("/v1/audit")).json()["entries"]

    assert (changed.status_code, changed.json()["code"]) == (503, "queue-unavailable")
    assert changed.json()["detail"] == NOT_WRITTEN
    assert login["status_code"] == 503
    assert "access_token" not in login
    assert wrong["status_code"] == 401
    assert listed.status_code == 503
    assert (call.status_code, call.text) == (200, "still here")
    assert removed.status_code == 204
    assert [each["action"] for each in entries if each["outcome"] == "done"] == ["function.deregister"]
    assert (doubtful.status_code, doubtful.json()["code"]) == (503, "queue-unavailable")
    (unknown,) = [each for each in entries if each["outcome"] == "unknown"]
    assert (unknown["action"], unknown["subject"], unknown["code"]) == (
        "function.deregister",
        "echo",
        doubtful.json()["code"],
    )


async def test_changes_at_once_are_all_in_the_trail(ann: Someone, worker: AnsweringWorker) -> None:
    """Twenty registrations at once leave twenty entries."""
    names = [f"f{n}" for n in range(20)]
    await asyncio.gather(*(ann.has(name=name) for name in names))

    entries = await trail_of(ann)

    assert sorted(each["subject"] for each in entries if each["action"] == "function.register") == sorted(names)


async def test_what_an_operator_does_to_a_user_is_in_both_trails(operators: Bus) -> None:
    """The operator's own has him, his login and address; the user's says that it was an operator, and no more."""
    operator, user_id = UserId(new_id()), UserId(new_id())
    actor = Actor(by="user", user_id=operator, address="192.0.2.1", request_id="r-1")
    trail = Trail(cast("ApiState", SimpleNamespace(audit=Audit(operators))), actor)

    async with trail(Action.LIMIT_SET, "ann", about=user_id):
        pass

    (own,), _ = await Audit(operators).list(operator, limit=5)
    (told,), _ = await Audit(operators).list(user_id, limit=5)
    assert (own.action, own.subject, own.actor) == ("limit.set", "ann", actor)
    assert (told.action, told.subject, told.actor) == ("limit.set", "ann", Actor(by="operator"))
