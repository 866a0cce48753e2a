"""GET /v1/status over HTTPS: a tenant sees sums and his own usage, the operator each worker and each stream."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from msgspec.structs import replace

from mayfly.bus.connection import connect
from mayfly.bus.health import STREAMS
from mayfly.bus.stores import Stores
from mayfly.domain.ids import WorkerId, new_id
from mayfly.domain.worker import WorkerBeat
from mayfly.services.status import read_workers
from mayfly.services.users import limit_user
from mayfly.settings import NatsSettings
from tests.integration.api.conftest import Someone
from tests.support.api import PASSWORD, ApiServer

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.A2, pytest.mark.F13]

HOST = "a-host-that-is-nobodys-business"


def a_beat(**given: Any) -> WorkerBeat:
    """A worker's sign of life."""
    values = {"version": "0.1.0", "runtime": "crun", "slots": 6, "running": 2, "held": 3, "images": 1}
    times = {"started_at": time.time(), "beat_at": time.time()}
    return WorkerBeat(**{"id": WorkerId(new_id()), "host": HOST, **values, **times, **given})


@pytest_asyncio.fixture(loop_scope="session")
async def stores(nats_url: str) -> AsyncIterator[Stores]:
    """The database."""
    async with connect(NatsSettings(nats_url=nats_url), role="test") as bus:
        yield Stores.on(bus)


@pytest_asyncio.fixture(loop_scope="session")
async def operator(api: ApiServer, ann: Someone, stores: Stores) -> AsyncIterator[httpx.AsyncClient]:
    """A client of somebody whose role is `operator`, as an operator would give it; a login has the role of its time."""
    entry = await stores.users.get(ann.username)
    assert entry is not None
    await stores.users.update(entry.key, replace(entry.value, role="operator"), revision=entry.revision)
    form = {"grant_type": "password", "username": ann.username, "password": PASSWORD}
    tokens = (await ann.client.post("/v1/tokens", data=form)).json()
    async with api.client(tokens["access_token"]) as client:
        yield client


async def shown(client: httpx.AsyncClient) -> tuple[dict[str, Any], str]:
    """What a client is shown, as JSON and as it came."""
    answer = await client.get("/v1/status")
    assert answer.status_code == 200, answer.text
    return answer.json(), answer.text


async def test_a_worker_that_is_gone_is_neither_listed_nor_counted(
    operator: httpx.AsyncClient, bob: Someone, stores: Stores
) -> None:
    """
    One that works and one that drains are shown one by one to the operator, and as sums to a user, who learns neither
    host nor server; the third has said its last words.
    """
    ready, draining, gone = a_beat(), a_beat(draining=True, running=1), a_beat(gone=True)
    for beat in (ready, draining, gone):
        await stores.workers.put(beat.id, beat, ttl_s=5)
    status, _ = await shown(operator)
    of_bob, text = await shown(bob.client)

    listed = {worker["id"]: worker for worker in status["operator"]["workers"]}
    assert set(listed) == {ready.id, draining.id}
    assert listed[ready.id] | {"since": None} == {
        "id": ready.id,
        "host": HOST,
        "version": "0.1.0",
        "runtime": "crun",
        "slots": 6,
        "running": 2,
        "held": 3,
        "images": 1,
        "since": None,
        "draining": False,
    }
    assert listed[draining.id]["draining"] is True
    assert (status["workers"], status["slots"], status["running"]) == (2, 12, 3)
    assert "4 of 12 slots can never be used" in status["remark"]

    assert (of_bob["workers"], of_bob["slots"], of_bob["running"]) == (2, 12, 3)
    assert (of_bob["operator"], of_bob["remark"]) == (None, None)
    assert not [word for word in (HOST, ready.id, "crun", "KV_", "MAYFLY_") if word in text]
    for beat in (ready, draining, gone):
        entry = await stores.workers.get(beat.id)
        if entry:
            await stores.workers.delete(entry.key, revision=entry.revision)


async def test_a_worker_whose_successor_says_its_last_words_has_not_left(stores: Stores) -> None:
    """Its own goodbye is one of a worker that drains: a killed one counts as lost, however soon another takes over."""
    goodbye, killed = a_beat(gone=True, draining=True), a_beat(gone=True)
    for beat in (goodbye, killed):
        await stores.workers.put(beat.id, beat, ttl_s=5)
    workers = await read_workers(stores)

    assert goodbye.id in workers.left
    assert killed.id not in workers.left
    assert not {goodbye.id, killed.id} & {beat.id for beat in workers.alive}


async def test_a_user_with_a_limit_of_his_own_is_shown_that(bob: Someone, stores: Stores) -> None:
    """His own limit refuses him, so it stands beside his usage; one above that for every user changes nothing."""
    for own, effective in ((2, 2), (100, 4), (None, 4)):
        await limit_user(stores, bob.username, own)
        status, _ = await shown(bob.client)
        assert status["user"]["limit"] == effective


async def test_an_operator_sees_how_the_streams_stand(operator: httpx.AsyncClient) -> None:
    """Every stream is there, led, with its only copy current; nobody else's name is."""
    status, text = await shown(operator)

    streams = {stream["name"]: stream for stream in status["operator"]["streams"]}
    assert set(streams) == set(STREAMS)
    assert all(stream["leader"] and (stream["replicas"], stream["current"]) == (1, 1) for stream in streams.values())
    assert not [stream["behind"] for stream in streams.values() if stream["behind"]]
    assert streams["KV_users"]["messages"] >= 1
    assert "u-" not in text.replace("cpu-", "")
