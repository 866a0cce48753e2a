"""A real NATS server, a real API server behind TLS, and a worker without containers, for the command line to call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from mayfly.cli.logins import KeptTokens, Login, LoginFile
from mayfly.client import Client, Spec
from mayfly.domain.ids import new_id
from tests.integration.cli.command import PASSWORD, Mayfly
from tests.support.answering import AnsweringWorker, answering_worker, echo
from tests.support.api import ApiServer, bootstrapped
from tests.support.nats import NatsServer


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


@pytest.fixture
def anybody(api: ApiServer, tmp_path: Path) -> Mayfly:
    """The command line of somebody who has not logged in."""
    return Mayfly(api.url, api.certificates.ca_file, tmp_path / "config")


@pytest.fixture
def name() -> str:
    """A user name that is free."""
    return f"u-{new_id()}"


@pytest_asyncio.fixture(loop_scope="session")
async def mayfly(anybody: Mayfly, name: str) -> Mayfly:
    """The command line of a user who has logged in."""
    # not by the command, which has tests of its own and would take half of the suite's time
    async with Client(anybody.url, ca_file=anybody.ca_file) as client:
        await client.register(name, PASSWORD)
        tokens = await client.log_in(name, PASSWORD)
    file = LoginFile(anybody.config_dir)
    async with file.locked() as logins:
        login = Login(username=name, tokens=tokens, ca_file=str(anybody.ca_file))
        file.write(logins.having(anybody.url, login).used(anybody.url))
    return anybody


@pytest_asyncio.fixture(loop_scope="session")
async def with_echo(mayfly: Mayfly, worker: AnsweringWorker) -> Mayfly:
    """The command line of a user who has a function `echo`."""
    tokens = KeptTokens(LoginFile(mayfly.config_dir), mayfly.url)
    async with Client(mayfly.url, ca_file=mayfly.ca_file, tokens=tokens) as client:
        await client.create_function("echo", Spec(image="registry.example/echo:1"))
    return mayfly
