"""The audit trail of what operators do: in their own, and in that of whom they do it to, without their name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from mayfly.api.auth import ADMIN
from mayfly.bus.connection import Bus
from mayfly.bus.stores import Stores
from mayfly.domain.audit import Action, Actor, AuditEntry
from mayfly.domain.ids import UserId, new_id
from mayfly.services.audit import Audit
from mayfly.services.users import find_user, give_role
from tests.integration.api.conftest import FUNCTION
from tests.integration.api.test_audit import changing_routes, everything_in, log_in, operators, walked_by
from tests.integration.api.test_status import a_beat
from tests.support.answering import AnsweringWorker
from tests.support.api import PASSWORD, ApiServer

__all__ = ["operators"]

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.F3]

Done = list[tuple[str, str]]
"""Actions and their subjects."""

TO_A_USER = {"role.set", "limit.set", "user.suspend", "user.resume", "activation.cancel", "user.delete"}


class OperatorsWalk:
    """An operator who does everything once, most of it to a user who was invited."""

    def __init__(self, client: httpx.AsyncClient, anybody: httpx.AsyncClient, worker: AnsweringWorker) -> None:
        """*client* is the operator's; nothing is done yet."""
        self.client, self.anybody, self.worker = client, anybody, worker
        self.user = f"u-{new_id()}"
        self.tokens: dict[str, str] = {}
        self.codes: list[str] = []

    @property
    def path(self) -> str:
        """Where the user is."""
        return f"/v1/admin/users/{self.user}"

    async def send(self, method: str, path: str, **options: Any) -> Any:
        """Send as the operator; the answer's JSON, which must be a success."""
        answer = await self.client.request(method, path, **options)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def call(self) -> str:
        """Have the user call his function, which goes on running; the id of the activation."""
        self.worker.hold.clear()
        headers = {"Authorization": f"Bearer {self.tokens['access_token']}", "Prefer": "respond-async"}
        path = "/v1/functions/echo/activations"
        answer = await self.anybody.post(path, content="x", headers=headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    async def invite(self) -> Done:
        """POST /v1/admin/invitations"""
        made = [await self.send("POST", "/v1/admin/invitations", json={}) for _ in range(2)]
        self.codes += [each["code"] for each in made]
        body = {"username": self.user, "password": PASSWORD, "invitation": self.codes[0]}
        assert (await self.anybody.post("/v1/users", json=body)).status_code == 201
        form = {"grant_type": "password", "username": self.user, "password": PASSWORD}
        self.tokens = (await self.anybody.post("/v1/tokens", data=form)).json()
        bearer = {"Authorization": f"Bearer {self.tokens['access_token']}"}
        assert (await self.anybody.post("/v1/functions", json=FUNCTION, headers=bearer)).status_code == 201
        return [("invitation.create", each["id"]) for each in made]

    async def revoke(self) -> Done:
        """DELETE /v1/admin/invitations/{invitation_id}"""
        by_mistake = await self.client.delete(f"/v1/admin/invitations/{self.codes[1]}")
        assert by_mistake.status_code == 404
        invitation = self.codes[1].partition("-")[0]
        await self.send("DELETE", f"/v1/admin/invitations/{invitation}")
        return [("invitation.revoke", invitation)]

    async def drain(self) -> Done:
        """POST /v1/admin/workers/{worker_id}/drain"""
        await self.send("POST", f"/v1/admin/workers/{self.worker.id}/drain")
        return [("worker.drain", self.worker.id)]

    async def undrain(self) -> Done:
        """DELETE /v1/admin/workers/{worker_id}/drain"""
        await self.send("DELETE", f"/v1/admin/workers/{self.worker.id}/drain")
        return [("worker.undrain", self.worker.id)]

    async def end_one(self) -> Done:
        """DELETE /v1/admin/users/{name}/activations/{activation_id}"""
        activation = await self.call()
        await self.send("DELETE", f"{self.path}/activations/{activation}")
        self.worker.hold.set()
        return [("activation.cancel", activation)]

    async def end_all(self) -> Done:
        """DELETE /v1/admin/users/{name}/activations"""
        await self.call()
        await self.send("DELETE", f"{self.path}/activations")
        self.worker.hold.set()
        return [("activation.cancel", self.user)]

    async def change(self) -> Done:
        """PATCH /v1/admin/users/{name}"""
        await self.send("PATCH", self.path, json={"role": "operator", "max_activations": 2, "suspended": True})
        await self.send("PATCH", self.path, json={"suspended": False})
        return [(action, self.user) for action in ("role.set", "limit.set", "user.suspend", "user.resume")]

    async def delete(self) -> Done:
        """DELETE /v1/admin/users/{name}"""
        await self.send("DELETE", self.path)
        return [("user.delete", self.user)]

    @property
    def ways(self) -> list[Callable[[], Awaitable[Done]]]:
        """Every operator's route that changes something, in an order in which it can be walked."""
        return [
            self.invite,
            self.revoke,
            self.drain,
            self.undrain,
            self.end_one,
            self.end_all,
            self.change,
            self.delete,
        ]


async def entries_of(bus: Bus, user_id: UserId) -> list[AuditEntry]:
    """A user's trail without what he did to get in and to have a function, the oldest first."""
    entries, more = await Audit(bus).list(user_id, limit=50)
    assert more is None
    own = {Action.USER_REGISTER, Action.SESSION_BEGIN, Action.FUNCTION_REGISTER}
    return [entry for entry in reversed(entries) if entry.action not in own]


async def test_each_change_of_an_operators_is_in_the_trail_and_no_code_is(
    nats_url: str, api: ApiServer, worker: AnsweringWorker, database: Stores, operators: Bus, tmp_path: Path
) -> None:
    """
    Walked from the routes: each that changes something is in the operator's trail, with who, when, from where and in
    which login; what is about another user is in that user's as well, as done by an operator, without the name.
    No code of an invitation is anywhere in the stream, neither one that was used nor one that was given in a path.
    """
    name = (await api.registered())["username"]
    await give_role(database, name, "operator")
    operator_id = (await find_user(database, name)).value.id
    beat = a_beat(id=worker.id)
    revision = await database.workers.put(beat.id, beat, ttl_s=60)
    async with ApiServer(nats_url, tmp_path, registration="invitation") as server:
        tokens = await log_in(server, name, PASSWORD)
        async with server.client(tokens["access_token"]) as client, server.client() as anybody:
            walk = OperatorsWalk(client, anybody, worker)
            assert walked_by(walk.ways) == {each for each in changing_routes() if each[1].startswith(ADMIN)}
            done, user_id = await walk_through(walk, database)
    await database.workers.delete(beat.id, revision=revision)

    own, told = await entries_of(operators, operator_id), await entries_of(operators, user_id)
    assert sorted((each.action, str(each.subject)) for each in own) == sorted(done)
    assert sorted((each.action, str(each.subject)) for each in told) == sorted(
        each for each in done if each[0] in TO_A_USER
    )
    assert {entry.outcome for entry in (*own, *told)} == {"done"}
    for entry in own:
        assert (entry.actor.by, entry.actor.user_id, entry.actor.user_name) == ("user", operator_id, name)
        assert (entry.actor.address, bool(entry.actor.session_id), bool(entry.actor.request_id)) == (
            "127.0.0.1",
            True,
            True,
        )
        assert abs(entry.at - operators.clock.now()) < 600
    for entry in told:
        assert entry.actor == Actor(by="operator")
        assert entry.subject != name
    kept = await everything_in(operators)
    assert walk.user.encode() in kept
    for code in walk.codes:
        assert code.encode() not in kept
        assert code.rpartition("-")[2].encode() not in kept
    for issued in (tokens, walk.tokens):
        for token in (issued["access_token"], issued["refresh_token"]):
            assert token.encode() not in kept


async def walk_through(walk: OperatorsWalk, database: Stores) -> tuple[Done, UserId]:
    """Go all ways; what was done, and the id of the user to whom."""
    done: Done = []
    user_id = UserId("")
    for way in walk.ways:
        done += await way()
        user_id = user_id or (await find_user(database, walk.user)).value.id
    return done, user_id
