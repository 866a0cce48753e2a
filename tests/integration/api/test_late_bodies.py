"""What arrives after the login, or the account, has ended changes nothing, however early its request began."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from mayfly.api import bodies
from mayfly.api.app import ROUTES
from mayfly.api.auth import ADMIN, PUBLIC
from mayfly.api.state import ApiState
from mayfly.bus.requests import ask_for_image
from mayfly.bus.responses import purge_responses
from mayfly.domain.function import FunctionSpec
from mayfly.domain.ids import FunctionName, UserName, new_id
from mayfly.domain.image import ImageAnswer
from mayfly.domain.secret import Delivery
from mayfly.domain.user import Session
from mayfly.services.tokens import Claims
from mayfly.services.users import change_user
from tests.integration.api.conftest import FUNCTION
from tests.integration.api.test_identity import bearer
from tests.support.answering import AnsweringWorker
from tests.support.api import PASSWORD, in_process
from tests.support.sealing import SealingKeys

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.F3]

BODIES = {
    ("POST", "/v1/functions"): b'{"name": "another", "image": "registry.example/echo:1"}',
    ("PUT", "/v1/functions/{name}"): b'{"image": "registry.example/other:1"}',
    ("PUT", "/v1/functions/{name}/secrets/{key}"): b"a value",
    ("PUT", "/v1/registries/{host}"): b'{"username": "me", "password": "mine"}',
    (
        "PUT",
        "/v1/users/me/password",
    ): b'{"current_password": "correct horse battery", "new_password": "another one"}',
    ("POST", "/v1/keys"): b'{"name": "ci"}',
    ("POST", "/v1/functions/{name}/activations"): b"a parameter",
}
"""All that takes a body of somebody who is logged in; operators' routes are in `test_admin`."""


@dataclass
class Caller:
    """Who is logged in at an API server in this process, and has the function `echo`."""

    state: ApiState
    client: httpx.AsyncClient
    session: Session

    async def ends(self, how: str) -> None:
        """End what lets him in."""
        if how == "login":
            await self.state.sessions.end(Claims(self.session.user_id, self.session.id))
        elif how == "suspended":
            await change_user(self.state.stores, self.session.user_name, suspended=True)
        else:
            await self.state.users.delete(self.session)

    async def kept(self) -> list[Any]:
        """All that is kept of him."""
        stores, owner = self.state.stores, self.session.user_id
        account = await stores.users.get(self.session.user_name)
        found: list[Any] = [account and account.value.password_hash]
        for store in (stores.functions, stores.secrets, stores.registries, stores.activations):
            for key in await store.keys(owner):
                entry = await store.get(key)
                found += [entry.value] if entry else []
        return [*found, [key.session.key_name for key in await self.state.keys.of(owner)]]


@pytest_asyncio.fixture(loop_scope="session")
async def caller(nats_url: str, tmp_path: Path, worker: AnsweringWorker) -> AsyncIterator[Caller]:
    """He."""
    sealing = SealingKeys(tmp_path / "sealing")
    async with in_process(nats_url, tmp_path, sealing_keys_dir=sealing.public) as (state, client):
        name = UserName(f"u-{new_id()}")
        await state.users.register(name, PASSWORD)
        tokens = await state.sessions.log_in(name, PASSWORD)
        client.headers.update(bearer(tokens.access_token) | {"Content-Type": "application/json"})
        assert (await client.post("/v1/functions", json=FUNCTION)).status_code == 201
        yield Caller(state, client, tokens.session)


async def test_each_route_that_takes_a_body_is_tried() -> None:
    """A route that is added has to be added here."""
    taking = {
        (method, route.path)
        for route in ROUTES
        for method in route.methods or ()
        if "requestBody" in (route.openapi_extra or {}) and not route.path.startswith(ADMIN)
    }
    assert taking - PUBLIC == BODIES.keys()


@pytest.mark.parametrize("ends", ["login", "suspended", "account"])
@pytest.mark.parametrize("route", BODIES, ids=" ".join)
async def test_a_body_that_comes_after_the_end_changes_nothing(
    route: tuple[str, str], ends: str, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a logout, a suspension and a deletion alike: 401 or 403, and all is as it was left."""
    monkeypatch.setattr(bodies, "PARAMETER_AT_ONCE_S", -1)
    left: list[Any] = []

    async def late() -> AsyncIterator[bytes]:
        """It is asked for when the caller was let in."""
        await caller.ends(ends)
        left.extend(await caller.kept())
        yield BODIES[route]

    path = route[1].format(name="echo", key="TOKEN", host="registry.example")
    answer = await caller.client.request(route[0], path, content=late())
    assert answer.status_code == (403 if ends == "suspended" else 401), answer.text
    assert await caller.kept() == left


async def let_in() -> None:
    """Find that the caller may do it."""


@pytest.mark.parametrize("ends", ["login", "suspended", "account"])
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_function_whose_image_comes_after_the_end_is_not_written(
    method: str, ends: str, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may pull for two minutes before a function is written."""
    left: list[Any] = []

    async def pulled(*args: Any, **more: Any) -> ImageAnswer:
        answer = await ask_for_image(*args, **more)
        await caller.ends(ends)
        left.extend(await caller.kept())
        return answer

    monkeypatch.setattr("mayfly.services.functions.ask_for_image", pulled)
    body = {"image": "registry.example/other:1"}
    if method == "POST":
        answer = await caller.client.post("/v1/functions", json={**body, "name": "another"})
    else:
        answer = await caller.client.put("/v1/functions/echo", json=body)
    assert answer.status_code == (403 if ends == "suspended" else 401), answer.text
    assert await caller.kept() == left


async def test_what_is_being_written_while_the_account_goes_goes_too(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked for before the end, and is written after its kind was removed, is not left for nobody."""

    async def written_meanwhile(*args: Any) -> None:
        owner, registered = caller.session.user_id, caller.state.functions
        spec = FunctionSpec(image="registry.example/echo:1")
        await registered.register(owner, FunctionName("late"), spec, ask_again=let_in)
        await caller.state.secrets.put(owner, FunctionName("late"), "TOKEN", b"x", Delivery.FILE)
        await caller.state.registries.put(owner, "registry.example", username="me", password="mine")
        await purge_responses(*args)

    monkeypatch.setattr("mayfly.services.users.purge_responses", written_meanwhile)
    await caller.ends("account")
    assert await caller.kept() == [None, []]
    assert not await caller.state.stores.secrets.keys(caller.session.user_id)
