"""Sitting out the loss of a server: what is asked meanwhile succeeds when it is back, once."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace
from nats.js.errors import APIError, NoStreamResponseError

from mayfly.bus.patience import NOT_YET, patiently
from mayfly.bus.queue import in_flight, submit
from mayfly.bus.responses import publish_response, read_response
from mayfly.bus.store import Conflict, Store
from mayfly.bus.subjects import FUNCTIONS
from mayfly.domain.activation import Response
from mayfly.domain.function import Function
from mayfly.domain.ids import FunctionName
from tests.integration.bus.test_store import a_function
from tests.support.bus import installation
from tests.unit.worker.test_call import some_work

pytestmark = [pytest.mark.A3, pytest.mark.A4]


async def test_what_is_asked_during_an_outage_waits_for_its_end() -> None:
    """
    Reads of a record, of a result and of keys, a compare-and-set and an admission that begin while nats-server is dead
    succeed once it is back.
    """
    async with installation() as nats, nats.connect("api") as bus:
        store = Store(bus, FUNCTIONS, Function)
        function = a_function()
        revision = await store.create(function.key, function)
        changed = replace(function, name=FunctionName("changed"))
        work = some_work()
        response = Response(attempt="a", result=b"result")
        async with nats.connect("worker") as worker:
            await publish_response(worker, work.key, response, keep_s=60)

        await nats.server.kill()
        reading = asyncio.create_task(store.get(function.key))
        fetching = asyncio.create_task(read_response(bus, work.key, attempt="a"))
        listing = asyncio.create_task(store.keys())
        writing = asyncio.create_task(store.update(function.key, changed, revision=revision))
        submitting = asyncio.create_task(submit(bus, work, wait_s=0))
        begun = (reading, fetching, listing, writing, submitting)
        await asyncio.wait(begun, timeout=1.0)
        assert not any(task.done() for task in begun)
        await nats.server.restart()

        assert await reading is not None
        assert await fetching == response
        assert await listing == [function.key]
        assert await writing > revision
        await submitting
        assert await in_flight(bus) == 1


async def test_a_refusal_is_not_repeated() -> None:
    """Only what nobody took is asked again: a lost compare-and-set says so at once."""
    calls = 0

    async def lose() -> None:
        nonlocal calls
        calls += 1
        raise Conflict("key")

    with pytest.raises(Conflict):
        await patiently(lose)
    assert calls == 1


async def test_a_cluster_that_misses_its_servers_is_asked_again() -> None:
    """A young cluster takes servers for offline that are not: it is asked again; another refusal is the caller's."""
    answers = [
        *({"code": 400, "err_code": code, "description": "not yet"} for code in NOT_YET),
        {"code": 400, "err_code": 10052, "description": "stream configuration is not valid"},
    ]

    async def make() -> None:
        APIError.from_error(answers.pop(0))

    with pytest.raises(APIError) as refused:
        await patiently(make)
    assert refused.value.err_code == 10052
    assert not answers


async def test_patience_ends() -> None:
    """When no leader comes, the last error is the caller's."""

    async def nobody() -> None:
        raise NoStreamResponseError

    async with asyncio.timeout(5):
        with pytest.raises(NoStreamResponseError):
            await patiently(nobody, for_s=0.2)
