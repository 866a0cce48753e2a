"""One NATS server, one API server behind TLS and one worker without containers, for all tests of this directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from mayfly.bus.connection import connect
from mayfly.bus.stores import Stores
from mayfly.services.users import give_role
from mayfly.settings import NatsSettings
from tests.support.answering import AnsweringWorker, answering_worker, echo
from tests.support.api import ApiServer, bootstrapped
from tests.support.nats import NatsServer

FUNCTION = {"name": "echo", "image": "registry.example/echo:1"}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def nats_url() -> AsyncIterator[str]:
    """A NATS server with all streams and buckets."""
    async with NatsServer() as nats:
        await bootstrapped(nats.url, max_activations=8, max_activations_per_user=4)
        yield nats.url


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def api(nats_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiServer]:
    """The API server."""
    async with ApiServer(nats_url, tmp_path_factory.mktemp("api")) as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def all_workers(nats_url: str) -> AsyncIterator[AnsweringWorker]:
    """The worker, as it is between tests."""
    async with answering_worker(nats_url) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def worker(all_workers: AnsweringWorker) -> AsyncIterator[AnsweringWorker]:
    """The worker; what a test changes about it is undone."""
    image = all_workers.image
    yield all_workers
    all_workers.answer, all_workers.image = echo, image
    all_workers.hold.set()


@dataclass
class Someone:
    """A user who has logged in, and a client of his own."""

    username: str
    tokens: dict[str, Any]
    client: httpx.AsyncClient

    @property
    def access_token(self) -> str:
        """His access token."""
        return str(self.tokens["access_token"])

    async def has(self, **function: Any) -> httpx.Response:
        """Register a function."""
        answer = await self.client.post("/v1/functions", json=FUNCTION | function)
        assert answer.status_code == 201, answer.text
        return answer


async def _someone(api: ApiServer) -> AsyncIterator[Someone]:
    tokens = await api.registered()
    async with api.client(tokens["access_token"]) as client:
        yield Someone(tokens["username"], tokens, client)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def resident(api: ApiServer, all_workers: AnsweringWorker) -> AsyncIterator[Someone]:
    """A user for tests that change nothing, with the functions `echo` and `by-argument`."""
    async for one in _someone(api):
        await one.has()
        await one.has(name="by-argument", parameter="argument")
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def ann(api: ApiServer) -> AsyncIterator[Someone]:
    """A user."""
    async for one in _someone(api):
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def bob(api: ApiServer) -> AsyncIterator[Someone]:
    """Another user."""
    async for one in _someone(api):
        yield one


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def database(nats_url: str) -> AsyncIterator[Stores]:
    """The database, as an admin sees it."""
    async with connect(NatsSettings(nats_url=nats_url), role="admin") as bus:
        yield Stores.on(bus)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def operator(api: ApiServer, database: Stores) -> AsyncIterator[Someone]:
    """A user who was made an operator after the login."""
    async for one in _someone(api):
        await give_role(database, one.username, "operator")
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def anybody(api: ApiServer) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a token."""
    async with api.client() as client:
        yield client


@pytest.fixture
def keys_dir(api: ApiServer) -> Path:
    """The server's token keys."""
    return api.token_keys
