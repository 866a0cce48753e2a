"""A real API server is scraped over HTTP: what was called is what has grown, and many scrapes are no load on NATS."""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from nats.aio.msg import Msg

from mayfly.api.usage import READ_EVERY_S
from mayfly.bus.connection import connect
from mayfly.bus.health import STREAMS
from mayfly.bus.stores import Stores
from mayfly.domain.activation import State
from mayfly.domain.worker import WorkerBeat
from mayfly.services import janitor, room
from mayfly.settings import NatsSettings
from tests.integration.api.conftest import FUNCTION
from tests.support.answering import AnsweringWorker, Ending
from tests.support.api import ApiServer, bootstrapped
from tests.support.nats import NatsServer
from tests.support.scrape import Scrape, scrape

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.A2, pytest.mark.D4]

CALLS = "mayfly_activations_total"
ASKS = 3  # for what lies in the stream, for its limits, for its health


@dataclass
class Scraped:
    """A server of this module's own, which nobody else calls, with a user and his function."""

    server: ApiServer
    client: httpx.AsyncClient
    port: int

    async def call(self) -> httpx.Response:
        """Invoke the function."""
        return await self.client.post("/v1/functions/echo/activations", content=b"hello")

    async def now(self) -> Scrape:
        """Scrape it."""
        return await scrape(self.port)

    async def until(self, name: str, value: float, **labels: str) -> Scrape:
        """Scrape until a metric has a value."""
        async with asyncio.timeout(15):
            while (found := await self.now()).value(name, **labels) != value:
                await asyncio.sleep(0.05)
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def scraped(
    nats_url: str, all_workers: AnsweringWorker, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Scraped]:
    """The server."""
    directory = tmp_path_factory.mktemp("scraped")
    async with ApiServer(nats_url, directory, metrics_listen="127.0.0.1:0") as server:
        port = (await server.event("metrics.started"))["port"]
        tokens = await server.registered()
        async with server.client(tokens["access_token"]) as client:
            answer = await client.post("/v1/functions", json=FUNCTION)
            assert answer.status_code == 201, answer.text
            yield Scraped(server, client, port)


async def test_what_was_called_is_what_has_grown(scraped: Scraped, worker: AnsweringWorker) -> None:
    """Three results and one failure are three and one, with their durations; nothing else of the calls moves."""
    before = await scraped.now()
    for _ in range(3):
        assert (await scraped.call()).status_code == 200
    worker.answer = lambda _: Ending(
        state=State.FAILED, changes={"code": "function-failed", "exit_code": 3, "ran": "yes"}
    )
    assert (await scraped.call()).status_code == 502

    grown = (await scraped.now()).grown(before)
    assert {name: value for name, value in grown.items() if name.startswith(CALLS)} == {
        CALLS + '{code="none",ran="yes",state="succeeded"}': 3,
        CALLS + '{code="function-failed",ran="yes",state="failed"}': 1,
    }
    assert grown['mayfly_activation_duration_seconds_count{state="succeeded"}'] == 3
    assert 0 < grown['mayfly_activation_duration_seconds_sum{state="succeeded"}'] < 3 * 5


@pytest.mark.F13
async def test_use_and_refusals_are_shown_beside_the_limits(scraped: Scraped, worker: AnsweringWorker) -> None:
    """With U calls held, in flight is U and the next is counted as refused for the user; afterwards it is 0 again."""
    worker.hold.clear()
    before = await scraped.now()
    held = [asyncio.create_task(scraped.call()) for _ in range(4)]
    full = await scraped.until("mayfly_activations_in_flight", 4)
    await scraped.until("mayfly_activations_waiting", 0)  # all four are claimed
    assert full.value("mayfly_activations_limit", scope="platform") == 8
    assert full.value("mayfly_activations_limit", scope="user") == 4

    assert (await scraped.call()).status_code == 429
    worker.hold.set()
    assert [(await each).status_code for each in held] == [200] * 4
    grown = (await scraped.until("mayfly_activations_in_flight", 0)).grown(before)
    assert grown['mayfly_refusals_total{scope="user"}'] == 1
    assert 'mayfly_refusals_total{scope="platform"}' not in grown
    assert grown[CALLS + '{code="concurrency-limit",ran="no",state="refused"}'] == 1


async def test_workers_and_their_slots_are_counted(scraped: Scraped, nats_url: str) -> None:
    """Signs of life become the numbers of workers, slots and running activations, and none is named."""
    beat = WorkerBeat(
        id="w" * 20,  # type: ignore[arg-type]
        host="a-host",
        version="0.1.0",
        runtime="crun",
        slots=6,
        running=2,
        images=1,
        started_at=time.time(),
        beat_at=time.time(),
    )
    async with connect(NatsSettings(nats_url=nats_url), role="worker") as bus:
        await Stores.on(bus).workers.put(beat.id, beat, ttl_s=5)
        seen = await scraped.until("mayfly_slots", 6)
    assert (seen.value("mayfly_workers"), seen.value("mayfly_activations_running")) == (1, 2)
    assert not [labels for name in seen.names for labels in seen.labels(name) if "a-host" in labels.values()]


async def test_the_streams_are_shown(scraped: Scraped) -> None:
    """Each stream has a leader and its only copy, with what lies in it and what may; and no server is named."""
    found = await scraped.until("mayfly_stream_leader", 1, stream="KV_users")
    for name in STREAMS:
        assert found.value("mayfly_stream_leader", stream=name) == 1
        assert found.value("mayfly_stream_replicas", stream=name) == 1
        assert found.value("mayfly_stream_replicas_current", stream=name) == 1
    assert found.value("mayfly_stream_messages", stream="KV_users") >= 1
    assert found.value("mayfly_stream_bytes", stream="KV_users") > 0
    assert found.value("mayfly_stream_limit_bytes", stream="ACT") == math.inf
    assert found.value("mayfly_stream_limit_bytes", stream="RESPONSES") == 1 << 30
    assert {tuple(labels) for labels in found.labels("mayfly_stream_leader")} == {("stream",)}


async def test_a_refused_login_is_counted(scraped: Scraped) -> None:
    """A wrong password is one login refused as `not-authenticated`."""
    before = await scraped.now()
    form = {"grant_type": "password", "username": "nobody-here", "password": "not the right one"}
    async with scraped.server.client() as client:
        assert (await client.post("/v1/tokens", data=form)).status_code == 401
    grown = (await scraped.now()).grown(before)
    assert grown['mayfly_logins_total{outcome="not-authenticated"}'] == 1


async def test_many_scrapes_ask_nats_but_once_a_second(scraped: Scraped, nats_url: str) -> None:
    """However often it is scraped, the API server asks for the stream's state (count, limits, health) once a second."""
    asked = Counter[str]()  # by connection: another API server asks, too, for what it does itself

    async def count(message: Msg) -> None:
        asked[message.reply.rpartition(".")[0]] += 1

    async with connect(NatsSettings(nats_url=nats_url), role="test") as bus:
        await bus.client.subscribe("$JS.API.STREAM.INFO.ACT", cb=count)
        await bus.client.flush()
        await asyncio.sleep(READ_EVERY_S)  # what was read before is old
        asked.clear()
        began = time.monotonic()
        for _ in range(10):
            await asyncio.gather(*(scraped.now() for _ in range(6)))
        took = time.monotonic() - began
        await bus.client.flush()

    reads, rooms, sweeps = (1 + math.ceil(took / every_s) for every_s in (READ_EVERY_S, room.EVERY_S, janitor.EVERY_S))
    most = max(asked.values())  # of the one that is scraped
    assert ASKS <= most <= ASKS * reads + rooms + sweeps  # rooms and sweeps come whether it is scraped or not
    assert most < 60, "it asks for each scrape"


async def test_no_metric_names_a_user_or_a_function(scraped: Scraped) -> None:
    """After calls of a user nothing that he chose is in any label: not his name, the function's or the image's."""
    assert (await scraped.call()).status_code == 200
    found = await scraped.now()
    values = {value for name in found.names for labels in found.labels(name) for value in labels.values()}
    assert not {value for value in values if value == "echo" or "registry.example" in value or value.startswith("u-")}


async def test_the_api_does_not_show_the_metrics(scraped: Scraped) -> None:
    """On the port that callers reach there is no /metrics, with a token or without."""
    assert (await scraped.client.get("/metrics")).status_code == 404


async def test_a_scrape_without_nats_says_so(tmp_path: Path) -> None:
    """When NATS is gone the scrape is answered all the same: not connected, and no number that may be old."""
    async with NatsServer() as nats:
        await bootstrapped(nats.url, max_activations=8)
        async with ApiServer(nats.url, tmp_path, metrics_listen="127.0.0.1:0") as server:
            port = (await server.event("metrics.started"))["port"]
            assert (await scrape(port)).value("mayfly_activations_in_flight") == 0
            assert (await scrape(port)).value("mayfly_nats_connected") == 1
            await nats.kill()
            async with asyncio.timeout(15):
                while not math.isnan((found := await scrape(port)).value("mayfly_activations_in_flight")):
                    await asyncio.sleep(0.1)
            assert found.value("mayfly_nats_connected") == 0
            assert math.isnan(found.value("mayfly_activations_limit", scope="platform"))
            assert math.isnan(found.value("mayfly_stream_leader", stream="ACT"))
            await nats.start()
            async with asyncio.timeout(15):
                while (found := await scrape(port)).value("mayfly_activations_in_flight") != 0:
                    await asyncio.sleep(0.1)
            assert found.value("mayfly_nats_reconnects_total") == 1


async def test_metrics_on_the_port_of_the_api_end_the_start() -> None:
    """`mayfly api` with both on one port ends with status 2 and one sentence that names both settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    environment |= {"MAYFLY_LISTEN": "127.0.0.1:18443", "MAYFLY_METRICS_LISTEN": "127.0.0.1:18443"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mayfly", "api"), env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, stderr = await process.communicate()
    assert process.returncode == 2
    [sentence] = stderr.decode().splitlines()
    assert sentence.startswith("mayfly: MAYFLY_METRICS_LISTEN: 18443 is the port of MAYFLY_LISTEN")
