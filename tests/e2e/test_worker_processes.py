"""Several worker processes of one machine, by `mayfly up --workers`: they share the work, and fail for themselves."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from tests.support.leftovers import cmdline, leftovers, seconds_until_nothing_is_left, worker_pids
from tests.support.nats import free_port
from tests.support.scrape import scrape
from tests.support.up import Up, running_up

pytestmark = [pytest.mark.A5, pytest.mark.D2, pytest.mark.root]

PROCESSES, SLOTS = 2, 4
BACK_WITHIN_S = 40


@pytest.fixture(scope="module")
def port() -> int:
    """Of the API server's metrics; the workers' is the next one."""
    return free_port()


@pytest.fixture(scope="module")
def pair(registry: str, port: int) -> Iterator[Up]:
    """An installation with two of them."""
    listen = f"127.0.0.1:{port}"
    with running_up(registry, worker_processes=PROCESSES, slots=SLOTS, metrics_listen=listen) as up:
        yield up


async def register(client: httpx.AsyncClient, image: str, script: str) -> None:
    """Register a function `f`."""
    made = await client.post("/v1/functions", json={"name": "f", "image": image, "command": ["/bin/sh", "-c", script]})
    made.raise_for_status()


async def call(client: httpx.AsyncClient) -> httpx.Response:
    """Invoke it."""
    return await client.post("/v1/functions/f/activations")


async def carried_out_by(client: httpx.AsyncClient) -> Counter[str]:
    """How many of the user's calls each worker has had."""
    records = (await client.get("/v1/activations?limit=100")).json()["activations"]
    return Counter(record["worker"] for record in records if record.get("worker"))


def process_of(up: Up, number: int) -> int:
    """The one that is the worker itself: the innermost of the three."""
    return max(pid for pid in worker_pids(up) if cmdline(pid).endswith(b"--process\0%d\0" % number))


async def test_they_share_slots_and_calls(pair: Up, image: str) -> None:
    """Together they have the slots that were set, all can be used at once, and each process has had some calls."""
    async with await pair.user() as client:
        await register(client, image, "sleep 1")
        status = (await client.get("/v1/status")).json()
        answers = await asyncio.gather(*(call(client) for _ in range(SLOTS)))
        workers = await carried_out_by(client)

    assert (status["workers"], status["slots"], status["platform"]["limit"]) == (PROCESSES, SLOTS, SLOTS)
    assert [answer.status_code for answer in answers] == [200] * SLOTS
    assert sorted(workers.values()) == [SLOTS // PROCESSES] * PROCESSES


@pytest.mark.D4
async def test_their_metrics_are_read_at_one_port(pair: Up, port: int) -> None:
    """Each process's slots are there, and that it is connected."""
    found = await scrape(port + 1)

    each = [str(number + 1) for number in range(PROCESSES)]
    assert pair.url
    assert [found.value("mayfly_worker_slots", process=number) for number in each] == [SLOTS // PROCESSES] * PROCESSES
    assert [found.value("mayfly_nats_connected", process=number) for number in each] == [1] * PROCESSES


async def test_one_that_is_killed_takes_only_its_own_calls_along(pair: Up, image: str) -> None:
    """The others' go on; it comes back by itself, has nothing left over, and is given calls again."""
    async with await pair.user() as client:
        await register(client, image, "sleep 4; echo done")
        calls = [asyncio.create_task(call(client)) for _ in range(SLOTS)]
        async with asyncio.timeout(20):
            while len((await client.get("/v1/activations?state=running")).json()["activations"]) < SLOTS:
                await asyncio.sleep(0.05)
        os.kill(process_of(pair, 1), signal.SIGKILL)
        answers = await asyncio.gather(*calls)

        codes = Counter(answer.json()["code"] if answer.is_error else answer.text for answer in answers)
        assert codes == {"done\n": SLOTS // PROCESSES, "worker-lost": SLOTS // PROCESSES}
        await seconds_until_nothing_is_left(pair)
        async with asyncio.timeout(BACK_WITHIN_S):
            while (await client.get("/v1/status")).json()["slots"] != SLOTS:
                await asyncio.sleep(0.2)
            while (await client.get("/v1/status")).json()["platform"]["in_flight"]:
                await asyncio.sleep(0.2)
        again = await asyncio.gather(*(call(client) for _ in range(SLOTS)))

    assert [answer.text for answer in again] == ["done\n"] * SLOTS
    assert leftovers(pair) == {}
