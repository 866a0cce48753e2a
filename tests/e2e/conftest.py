"""
The installation that the end-to-end tests call: a `mayfly up` of their own.

Set MAYFLY_E2E_URL and MAYFLY_E2E_CA to try another one, such as a deployment behind its gateway. Its workers must be
able to fetch images from this machine: the tests' registry listens, in clear text, on port 5000 of the address that
faces MAYFLY_E2E_URL, and the installation must list it in MAYFLY_PRIVATE_REGISTRIES and MAYFLY_PLAIN_HTTP_REGISTRIES.
Tests that must look at the machine it runs on use `own_up`, which is always one that they started: no test is skipped.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from mayfly.domain.ids import new_id
from tests.support.images import build_and_push
from tests.support.registry import Registry
from tests.support.up import ROOM, Up, running_up


@dataclass
class Shell:
    """Functions that are a line of shell in one small image."""

    client: httpx.AsyncClient
    image: str

    async def make(self, script: str, **spec: Any) -> str:
        """Register a function that runs *script*, and return its name."""
        name = f"f-{new_id()}"
        body = {"name": name, "image": self.image, "command": ["/bin/sh", "-c", script], **spec}
        if spec.get("parameter") == "argument":
            body["command"].append("sh")  # becomes $0, so the parameter is $1
        answer = await self.client.post("/v1/functions", json=body)
        assert answer.status_code == 201, answer.text
        return name

    async def call(self, name: str, parameter: bytes | str = b"", **options: Any) -> httpx.Response:
        """Invoke a function."""
        return await self.client.post(f"/v1/functions/{name}/activations", content=parameter, **options)

    async def run(self, script: str, parameter: bytes | str = b"", **spec: Any) -> httpx.Response:
        """Register a function and invoke it once."""
        return await self.call(await self.make(script, **spec), parameter)


OUR_REGISTRY_PORT = 5000


def most_at_once(outputs: list[str]) -> int:
    """Count how many ran at the same moment, from when each says it came and left: two times by one clock."""
    events = []
    for output in outputs:
        came, left = map(float, output.split())
        events += [(came, 1), (left, -1)]
    running = most = 0
    for _, step in sorted(events):
        running += step
        most = max(most, running)
    return most


def address_facing(url: str) -> str:
    """This machine's address towards an installation."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # connecting sends nothing
        probe.connect((parts.hostname or "", parts.port or 443))
        return str(probe.getsockname()[0])


@pytest.fixture(scope="session")
def registry() -> Iterator[str]:
    """A real registry that the installation's workers can reach, as host:port."""
    url = os.environ.get("MAYFLY_E2E_URL")
    server = Registry(host=address_facing(url), port=OUR_REGISTRY_PORT) if url else Registry()
    with asyncio.Runner() as runner:
        runner.run(server.start())
        try:
            yield server.url
        finally:
            runner.run(server.__aexit__(None, None, None))


@pytest.fixture(scope="session")
def image(registry: str) -> str:
    """A reference to an image with nothing but busybox."""
    with asyncio.Runner() as runner:
        return runner.run(build_and_push(registry, "busybox", "1", cmd=["/bin/sh"]))


@pytest.fixture(scope="session")
def up(registry: str) -> Iterator[Up]:
    """The installation under test."""
    if url := os.environ.get("MAYFLY_E2E_URL"):
        yield Up(url, Path(os.environ["MAYFLY_E2E_CA"]), Path("/nonexistent"))
        return
    with running_up(registry, slots=8, **ROOM) as installation:
        yield installation


@pytest.fixture(scope="session")
def own_up(up: Up, registry: str) -> Iterator[Up]:
    """An installation on this very machine, whichever one the other tests call."""
    if up.process is not None:
        yield up
        return
    with running_up(registry, slots=8, **ROOM) as installation:
        yield installation


@pytest.fixture
async def own_shell(own_up: Up, image: str) -> AsyncIterator[Shell]:
    """Functions of a fresh user of `own_up`."""
    async with await own_up.user() as client:
        yield Shell(client, image)


@pytest.fixture
async def shell(up: Up, image: str) -> AsyncIterator[Shell]:
    """Functions of a fresh user."""
    async with await up.user() as client:
        yield Shell(client, image)
