"""`network` of a function over HTTP: kept, shown, and refused where no worker offers it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from mayfly.bus.connection import connect
from mayfly.bus.stores import Stores
from mayfly.domain.function import Network
from mayfly.domain.ids import WorkerId, new_id
from mayfly.domain.worker import WorkerBeat
from mayfly.settings import NatsSettings
from tests.integration.api.conftest import FUNCTION, Someone
from tests.support.answering import AnsweringWorker

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.D6]

WITH_NETWORK = FUNCTION | {"network": "egress"}


@pytest_asyncio.fixture(loop_scope="session")
async def stores(nats_url: str) -> AsyncIterator[Stores]:
    """The database."""
    async with connect(NatsSettings(nats_url=nats_url), role="test") as bus:
        yield Stores.on(bus)


@asynccontextmanager
async def beating(stores: Stores, *, egress: bool, gone: bool = False) -> AsyncIterator[None]:
    """A worker that has given a sign of life."""
    beat = WorkerBeat(
        id=WorkerId(new_id()),
        host="h",
        version="0",
        runtime="crun",
        slots=1,
        running=0,
        images=0,
        started_at=time.time(),
        beat_at=time.time(),
        egress=egress,
        gone=gone,
    )
    await stores.workers.put(beat.id, beat, ttl_s=60)
    try:
        yield
    finally:
        entry = await stores.workers.get(beat.id)
        assert entry
        await stores.workers.delete(entry.key, revision=entry.revision)


async def test_a_function_has_no_network_unless_it_is_asked_for(ann: Someone, worker: AnsweringWorker) -> None:
    """`none` is the default and is shown."""
    assert (await ann.has()).json()["network"] == "none"


async def test_a_network_reaches_the_worker(ann: Someone, worker: AnsweringWorker, stores: Stores) -> None:
    """Asked for where one worker of several offers it, it is kept, shown, and part of what a worker is given."""
    async with beating(stores, egress=False), beating(stores, egress=True):
        made = await ann.client.post("/v1/functions", json=WITH_NETWORK)
        assert made.status_code == 201, made.text
        assert (await ann.client.get("/v1/functions/echo")).json()["network"] == "egress"
        await ann.client.post("/v1/functions/echo/activations", content=b"p")
    assert worker.claimed[-1].function.network is Network.EGRESS


async def test_a_network_that_no_worker_offers_is_refused(
    ann: Someone, worker: AnsweringWorker, stores: Stores
) -> None:
    """400 with the field and the remedy, at registration and at a change; nothing is registered or changed."""
    async with beating(stores, egress=False), beating(stores, egress=True, gone=True):
        refused = await ann.client.post("/v1/functions", json=WITH_NETWORK)
        assert (refused.status_code, refused.json()["field"]) == (400, "network")
        assert "MAYFLY_EGRESS=on" in refused.json()["detail"]
        assert (await ann.client.get("/v1/functions/echo")).status_code == 404
        await ann.has()
        change = {"image": FUNCTION["image"], "network": "egress"}
        changed = await ann.client.put("/v1/functions/echo", json=change)
        assert (changed.status_code, changed.json()["field"]) == (400, "network")
    assert (await ann.client.get("/v1/functions/echo")).json()["network"] == "none"


async def test_a_sign_of_life_that_cannot_be_read_is_in_nobodys_way(
    ann: Someone, worker: AnsweringWorker, stores: Stores, nats_url: str
) -> None:
    """A worker that was taken over writes what it likes of itself; who registers asks the others."""
    key = f"$KV.workers.{new_id()}"
    async with connect(NatsSettings(nats_url=nats_url), role="test") as bus, beating(stores, egress=True):
        await bus.client.request(key, b"\xc1")
        try:
            made = await ann.client.post("/v1/functions", json=WITH_NETWORK)
            assert made.status_code == 201, made.text
        finally:
            await bus.client.request(key, b"", headers={"KV-Operation": "PURGE", "Nats-Rollup": "sub"})


async def test_a_network_that_is_none_of_ours_is_refused(ann: Someone, worker: AnsweringWorker) -> None:
    """No other word, such as docker's `host`, is taken."""
    refused = await ann.client.post("/v1/functions", json=FUNCTION | {"network": "host"})
    assert (refused.status_code, refused.json()["field"]) == (400, "network")
    assert "egress" in refused.json()["detail"]
