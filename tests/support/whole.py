"""
A whole installation without containers: a real nats-server (or three), an API server in a process of its own behind
TLS, and the real worker, over a runtime that starts nothing and remembers which commands it was to start.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx

from mayfly.bus.connection import Bus, connect
from mayfly.bus.stores import Stores
from mayfly.containers.fake import FakeRuntime
from mayfly.domain.ids import WorkerId, new_id
from mayfly.settings import NatsSettings
from mayfly.worker.loop import Worker
from mayfly.worker.run import Tools
from tests.support.api import ApiServer
from tests.support.world import OneImage

FUNCTION = {"name": "f", "image": "registry.example/f:1", "limits": {"timeout_s": 60}}


class Reachable(Protocol):
    """One nats-server, a cluster, or either behind a `Wire`."""

    def access(self, role: str) -> dict[str, Any]:
        """The settings with which a role connects."""
        ...


@dataclass
class Whole:
    """It, with one user and his function `f`, which gives its parameter back."""

    nats: Reachable
    api: ApiServer
    client: httpx.AsyncClient
    worker_bus: Bus
    runtime: FakeRuntime

    @property
    def started(self) -> list[bytes]:
        """The parameters of the commands that were started, each once for each time."""
        return [call.stdin for _, call in self.runtime.calls]

    async def call(self, parameter: bytes = b"x") -> httpx.Response:
        """Call the function."""
        return await self.client.post("/v1/functions/f/activations", content=parameter, timeout=180)

    async def until_running(self, count: int) -> None:
        """Wait until so many run."""
        async with asyncio.timeout(20):
            await self.runtime.wait_until(lambda runtime: runtime.running == count)

    async def record(self, activation_id: str) -> dict[str, Any]:
        """Show a record."""
        answer = await self.client.get(f"/v1/activations/{activation_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def records(self) -> list[dict[str, Any]]:
        """List the records of all calls."""
        return list((await self.client.get("/v1/activations")).json()["activations"])

    async def until_it_works(self, parameter: bytes = b"again", *, within_s: float = 30) -> None:
        """Call until a call succeeds; each before is refused as one that has not run."""
        async with asyncio.timeout(within_s):
            while (answer := await self.call(parameter)).status_code != 200:
                assert_refused(answer)
                await asyncio.sleep(0.1)
        assert answer.content == parameter


def assert_refused(answer: httpx.Response) -> None:
    """It is the answer that the queue is not to be had now, that nothing was run, and when to come again."""
    assert answer.status_code == 503, answer.text
    assert answer.json() | {"code": "queue-unavailable", "ran": "no"} == answer.json()
    assert int(answer.headers["Retry-After"]) >= 1


@asynccontextmanager
async def whole(
    nats: Reachable, directory: Path, *, slots: int = 4, egress: bool = False, **api_settings: object
) -> AsyncIterator[Whole]:
    """Start everything on *nats*; what is started is ended, also when NATS cannot be reached any more."""
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(
            connect(NatsSettings(**nats.access("worker")), role="worker", buffer_while_disconnected=True)
        )
        runtime = FakeRuntime()
        runtime.offers_egress = egress
        tools = Tools(
            worker_id=WorkerId(new_id()),
            bus=bus,
            stores=Stores.on(bus),
            images=OneImage(),  # type: ignore[arg-type]
            runtime=runtime,
            keep_s=3600,
        )
        await stack.enter_async_context(_working(Worker(tools, slots=slots)))
        settings = {**nats.access("api"), **api_settings}
        url = settings.pop("nats_url")
        api = await stack.enter_async_context(ApiServer(url, directory, **settings))
        tokens = await api.registered()
        client = await stack.enter_async_context(api.client(tokens["access_token"]))
        answer = await client.post("/v1/functions", json=FUNCTION)
        assert answer.status_code == 201, answer.text
        yield Whole(nats, api, client, bus, runtime)
        runtime.gate.set()


@asynccontextmanager
async def _working(worker: Worker) -> AsyncIterator[None]:
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop, grace_s=5), name="worker")
    try:
        yield
    finally:
        stop.set()
        await running
