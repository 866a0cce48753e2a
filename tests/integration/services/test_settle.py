"""Whether the owner of a running activation is lost: asked of a real nats-server."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from mayfly.bus.requests import answering_owner
from mayfly.bus.stores import Stores
from mayfly.containers.fake import FakeRuntime
from mayfly.domain.activation import State
from mayfly.domain.ids import WorkerId
from mayfly.services.settle import GONE_FOR_S, OwnerCheck
from mayfly.worker.incarnation import last_words
from tests.support.bus import installation
from tests.unit.domain.test_activation import a_record

pytestmark = pytest.mark.F12

RECORD = a_record(State.RUNNING, worker=WorkerId("w"), started_at=2.0)


async def test_a_worker_that_changes_over_to_another_server_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown for a moment it is in doubt; known again, it is not, and a later absence begins anew."""
    monkeypatch.setattr("mayfly.bus.requests.OWNS_TIMEOUT_S", 5.0)  # how soon is not the question
    async with installation() as nats, nats.connect("api") as api, nats.connect("worker") as worker:
        check = OwnerCheck(api)
        for _ in range(2):
            assert not await check.is_lost(RECORD)
            assert check.is_in_doubt
            async with answering_owner(worker, "w", lambda key: key == RECORD.key):
                await worker.client.flush()
                await asyncio.sleep(GONE_FOR_S)  # what counts is the time since it was last there
                assert not await check.is_lost(RECORD)
                assert not check.is_in_doubt
            await worker.client.flush()


async def test_a_worker_that_stays_away_is_lost() -> None:
    """It is, once it has been unknown for `GONE_FOR_S`, and well within the 5 s that callers are promised."""
    async with installation() as nats, nats.connect("api") as api:
        check = OwnerCheck(api)
        async with asyncio.timeout(3):
            while not await check.is_lost(RECORD):
                assert check.is_in_doubt
                await asyncio.sleep(0.05)


async def test_a_worker_that_is_proved_gone_is_lost_at_once() -> None:
    """Nobody listens under its id, and its last words are there: no need to wait whether it comes back."""
    async with installation() as nats, nats.connect("api") as api, nats.connect("worker") as worker:
        workers = Stores.on(worker).workers
        beat = last_words(WorkerId("w"), FakeRuntime())
        await workers.put("w", replace(beat, gone=False))
        assert not await OwnerCheck(api).is_lost(RECORD)
        await workers.put("w", beat)
        assert await OwnerCheck(api).is_lost(RECORD)


async def test_a_worker_that_denies_has_lost_it_at_once() -> None:
    """A worker that answers and does not know the activation was started anew."""
    async with (
        installation() as nats,
        nats.connect("api") as api,
        nats.connect("worker") as worker,
        answering_owner(worker, "w", lambda _key: False),
    ):
        await worker.client.flush()
        assert await OwnerCheck(api).is_lost(RECORD)
