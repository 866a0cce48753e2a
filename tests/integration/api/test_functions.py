"""Registering, listing, replacing and deregistering functions over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from mayfly.domain.ids import Digest
from mayfly.domain.image import ImageAnswer, PrepareImage, ProcessConfig
from tests.integration.api.conftest import FUNCTION, Someone
from tests.integration.api.test_keys import registered
from tests.support.answering import DIGEST, AnsweringWorker
from tests.support.api import in_process

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.F6]


async def test_a_name_and_an_image_are_enough(ann: Someone, worker: AnsweringWorker) -> None:
    """Registration answers 201 with the defaults, the pinned digest, Location and ETag."""
    answer = await ann.client.post("/v1/functions", json=FUNCTION)
    assert (answer.status_code, answer.headers["Location"]) == (201, "/v1/functions/echo")
    shown = answer.json()
    assert (shown["state"], shown["digest"]) == ("ready", DIGEST)
    assert shown["limits"] == {"memory_mib": 128, "cpus": 1.0, "pids": 64, "timeout_s": 30.0, "max_concurrency": None}
    assert (shown["parameter"], shown["command"], shown["args"], shown["env"]) == ("stdin", None, None, {})
    again = await ann.client.get("/v1/functions/echo")
    assert again.json() == shown
    assert again.headers["ETag"] == answer.headers["ETag"]


async def test_everything_said_is_kept(ann: Someone, worker: AnsweringWorker) -> None:
    """What a registration says is what is shown, and what the worker gets."""
    said = {
        "command": ["sh", "-c"],
        "args": ["echo ☃", ""],
        "env": {"B": "2", "A": "one two"},
        "parameter": "environment",
        "limits": {"memory_mib": 64, "cpus": 0.5, "pids": 8, "timeout_s": 2.0, "max_concurrency": 3},
        "result_type": "application/json",
    }
    answer = await ann.has(**said)
    assert said.items() <= answer.json().items()
    await ann.client.post("/v1/functions/echo/activations", content=b"p")
    function = worker.claimed[-1].function
    assert (function.command, function.args) == (("sh", "-c"), ("echo ☃", ""))
    assert dict(function.env) == {"B": "2", "A": "one two"}
    assert function.limits.memory_mib == 64


async def test_image_that_cannot_be_had_is_not_registered(ann: Someone, worker: AnsweringWorker) -> None:
    """422 with the registry's own words, and nothing under the name."""
    worker.image = lambda _: ImageAnswer(code="image-unavailable", problem="the registry says: manifest unknown")
    answer = await ann.client.post("/v1/functions", json=FUNCTION)
    assert (answer.status_code, answer.json()["code"]) == (422, "image-unavailable")
    assert "manifest unknown" in answer.json()["detail"]
    assert (await ann.client.get("/v1/functions/echo")).status_code == 404


async def test_every_worker_is_told_what_was_resolved(ann: Someone, worker: AnsweringWorker) -> None:
    """
    One worker is asked what the reference is now; then all are told to fetch just that, so that it is nothing to do for
    whoever has it, and nobody fetches what the registry calls so a moment later.
    """
    told = asyncio.Event()

    def answer(request: PrepareImage) -> ImageAnswer:
        if request.digest is not None:
            told.set()
        return ImageAnswer(digest=DIGEST, process=ProcessConfig(cmd=("cat",)))

    worker.image = answer
    worker.asked.clear()
    await ann.has()

    async with asyncio.timeout(5):
        await told.wait()
    assert [request.digest for request in worker.asked] == [None, DIGEST]


async def test_taken_name_is_409(ann: Someone, worker: AnsweringWorker) -> None:
    """Registering a name twice is refused, and says what to do."""
    await ann.has()
    answer = await ann.client.post("/v1/functions", json=FUNCTION)
    assert (answer.status_code, answer.json()["code"]) == (409, "already-exists")
    assert "`mayfly functions update" in answer.json()["detail"]


async def test_replace_puts_back_defaults_and_obeys_if_match(ann: Someone, worker: AnsweringWorker) -> None:
    """PUT replaces everything; with If-Match only what was read; the id stays and the ETag is new."""
    first = await ann.has(env={"A": "1"}, limits={"memory_mib": 64})
    etag = first.headers["ETag"]
    second = await ann.client.put(
        "/v1/functions/echo", json={"image": "registry.example/echo:2"}, headers={"If-Match": etag}
    )
    assert second.status_code == 200, second.text
    assert (second.json()["env"], second.json()["limits"]["memory_mib"]) == ({}, 128)
    assert second.json()["id"] == first.json()["id"]
    assert second.headers["ETag"] != etag
    stale = await ann.client.put("/v1/functions/echo", json={"image": "b"}, headers={"If-Match": etag})
    assert (stale.status_code, stale.json()["code"]) == (412, "precondition-failed")
    gone = await ann.client.delete("/v1/functions/echo", headers={"If-Match": etag})
    assert gone.status_code == 412
    anyway = await ann.client.delete("/v1/functions/echo", headers={"If-Match": second.headers["ETag"]})
    assert anyway.status_code == 204


@pytest.mark.parametrize(
    ("query", "anew"), [("", False), ("?pull=false", False), ("?pull", True), ("?pull=true", True)]
)
async def test_pull_resolves_the_tag_anew(ann: Someone, worker: AnsweringWorker, query: str, anew: bool) -> None:
    """An unchanged reference keeps its digest; with `?pull` it is what the tag means now."""
    await ann.has()
    moved = Digest(f"sha256:{'b' * 64}")
    worker.image = lambda _: ImageAnswer(digest=moved, process=ProcessConfig(cmd=("cat",)))
    answer = await ann.client.put(f"/v1/functions/echo{query}", json={"image": FUNCTION["image"]})
    assert answer.status_code == 200
    assert answer.json()["digest"] == (moved if anew else DIGEST)


async def test_replacing_what_is_not_there_is_404(ann: Someone) -> None:
    """PUT does not register."""
    answer = await ann.client.put("/v1/functions/absent", json={"image": "b"})
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


async def test_functions_are_listed_by_name_in_pages(ann: Someone, worker: AnsweringWorker) -> None:
    """`next` leads through all functions once each, in order."""
    for name in ("delta", "alpha", "charlie", "bravo"):
        await ann.has(name=name)
    seen: list[str] = []
    after: str | None = None
    while True:
        params = {"limit": "3"} | ({"after": after} if after else {})
        page = (await ann.client.get("/v1/functions", params=params)).json()
        seen += [function["name"] for function in page["functions"]]
        after = page["next"]
        if after is None:
            break
    assert seen == ["alpha", "bravo", "charlie", "delta"]


async def register(client: httpx.AsyncClient, one: dict[str, str], name: str) -> httpx.Response:
    """Register a function as somebody."""
    return await client.post("/v1/functions", json=FUNCTION | {"name": name}, headers=one)


@pytest.mark.F4
async def test_one_users_functions_are_bounded_also_when_made_at_once(
    nats_url: str, tmp_path: Path, worker: AnsweringWorker
) -> None:
    """One beyond the limit is refused with the remedy, and some of those that come at once; another user's is not."""
    async with in_process(nats_url, tmp_path, functions_max_per_user=3) as (_, client):
        one, other = await registered(client), await registered(client)
        assert (await register(client, one, "first")).status_code == 201
        racing = await asyncio.gather(*(register(client, one, f"f{number}") for number in range(8)))
        listed = (await client.get("/v1/functions", headers=one)).json()["functions"]
        made = [answer.json()["name"] for answer in racing if answer.status_code == 201]
        assert sorted(each["name"] for each in listed) == sorted([*made, "first"])
        assert len(listed) <= 3
        for number in range(8, 8 + 3 - len(listed)):
            assert (await register(client, one, f"f{number}")).status_code == 201
        refused = await register(client, one, "more")
        assert (refused.status_code, refused.json()["code"], refused.json()["limit"]) == (403, "not-allowed", 3)
        assert "MAYFLY_FUNCTIONS_MAX_PER_USER" in refused.json()["detail"]
        assert (await register(client, other, "first")).status_code == 201
        assert (await client.put("/v1/functions/first", json={"image": FUNCTION["image"]}, headers=one)).is_success
        assert (await client.delete("/v1/functions/first", headers=one)).status_code == 204
        assert (await register(client, one, "instead")).status_code == 201


@pytest.mark.F4
async def test_what_deregistered_functions_leave_is_bounded(
    nats_url: str, tmp_path: Path, worker: AnsweringWorker
) -> None:
    """Who registers and deregisters under ever new names is stopped in the end; a name that he has used is as good."""
    async with in_process(nats_url, tmp_path, functions_max_per_user=1) as (_, client):
        one = await registered(client)
        for number in range(10):
            assert (await register(client, one, f"f{number}")).status_code == 201
            assert (await client.delete(f"/v1/functions/f{number}", headers=one)).status_code == 204
        refused = await register(client, one, "more")
        assert (refused.status_code, refused.json()["limit"], refused.json()["field"]) == (403, 10, "name")
        assert (await register(client, one, "f3")).status_code == 201
