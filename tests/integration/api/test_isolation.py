"""Functions are their owner's alone. Rows F4 and F5 of the mission, through the API."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.api.conftest import FUNCTION, Someone
from tests.support.answering import AnsweringWorker

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.F4]


def forged(victim: Someone, user_id: str) -> dict[str, str]:
    """Headers by which a gateway would say who somebody is."""
    return {
        "X-Consumer-Username": victim.username,
        "X-Consumer-Custom-ID": user_id,
        "X-Credential-Identifier": user_id,
        "X-Mayfly-User": user_id,
        "X-User-Id": user_id,
        "X-Forwarded-User": victim.username,
        "X-Userinfo": user_id,
    }


@pytest.mark.F5
@pytest.mark.parametrize("with_forged_headers", [False, True], ids=["plain", "forged-identity-headers"])
async def test_another_users_things_are_not_found_by_any_verb(
    ann: Someone, bob: Someone, worker: AnsweringWorker, with_forged_headers: bool
) -> None:
    """Bob gets 404 for every verb on Ann's function and activation, by name and by id, and changes nothing."""
    created = await ann.has(name="private", env={"SECRET": "ann's"})
    call = await ann.client.post("/v1/functions/private/activations", content=b"ann's parameter")
    record = call.headers["Location"]
    user_id = (await ann.client.get("/v1/users/me")).json()["id"]
    headers = forged(ann, user_id) if with_forged_headers else {}
    claimed, asked = len(worker.claimed), len(worker.asked)
    attempts = [
        ("GET", "/v1/functions/private", None),
        ("PUT", "/v1/functions/private", {"image": "evil"}),
        ("DELETE", "/v1/functions/private", None),
        ("POST", "/v1/functions/private/activations", None),
        ("GET", f"/v1/functions/{created.json()['id']}", None),
        ("GET", f"/v1/functions/{user_id}.private", None),
        ("DELETE", f"/v1/functions/{user_id}.private", None),
        ("POST", f"/v1/functions/{user_id}.private/activations", None),
        ("GET", record, None),
        ("GET", f"{record}/result", None),
        ("GET", f"{record}/result?wait=1", None),
        ("GET", f"{record}/logs", None),
    ]
    for method, path, body in attempts:
        answer = await bob.client.request(method, path, json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found"), f"{method} {path}: {answer.text}"
        assert "ann's" not in answer.text
    for path in ("/v1/functions", "/v1/activations"):
        listed = (await bob.client.get(path, headers=headers)).json()
        assert next(iter(listed.values())) == []
    assert (len(worker.claimed), len(worker.asked)) == (claimed, asked)
    assert (await ann.client.get("/v1/functions/private")).json() == created.json()


async def test_not_found_reads_the_same_whether_another_has_it_or_nobody(ann: Someone, bob: Someone) -> None:
    """The answer does not tell that somebody else has a function of this name."""
    await ann.has(name="hidden")
    theirs = (await bob.client.get("/v1/functions/hidden")).json()
    nobodys = (await bob.client.get("/v1/functions/absent")).json()
    assert theirs["detail"].replace("hidden", "absent") == nobodys["detail"]


async def test_two_users_hold_one_name_and_image_independently(
    ann: Someone, bob: Someone, worker: AnsweringWorker
) -> None:
    """The same name and image are two functions: each is called, changed and removed alone."""
    first, second = await ann.has(), await bob.has()
    assert first.json()["id"] != second.json()["id"]
    changed = await ann.client.put("/v1/functions/echo", json={"image": "registry.example/echo:2"})
    assert changed.status_code == 200
    assert (await bob.client.get("/v1/functions/echo")).json()["image"] == FUNCTION["image"]
    assert (await ann.client.delete("/v1/functions/echo")).status_code == 204
    answer = await bob.client.post("/v1/functions/echo/activations", content=b"still here")
    assert answer.content == b"still here"
    assert worker.claimed[-1].function.id == second.json()["id"]


@pytest.mark.F5
async def test_deregistered_function_is_refused_at_once(ann: Someone, worker: AnsweringWorker) -> None:
    """After DELETE the next call is 404, and a running one finishes."""
    await ann.has()
    worker.hold.clear()
    before = len(worker.claimed)
    running = asyncio.create_task(ann.client.post("/v1/functions/echo/activations", content=b"finishes"))
    async with asyncio.timeout(10):
        while len(worker.claimed) == before:
            await asyncio.sleep(0.005)
    assert (await ann.client.delete("/v1/functions/echo")).status_code == 204
    assert (await ann.client.post("/v1/functions/echo/activations")).status_code == 404
    assert (await ann.client.delete("/v1/functions/echo")).status_code == 404
    worker.hold.set()
    assert (await running).content == b"finishes"
