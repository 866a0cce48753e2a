"""What is tried out here: a world without containers, and a whole installation whose metrics can be scraped."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from tests.support.bus import installation
from tests.support.images import build_and_push
from tests.support.nats import free_port
from tests.support.need import need
from tests.support.registry import Registry
from tests.support.scrape import Scrape, scrape
from tests.support.up import Up, running_up
from tests.support.world import World, a_world


@pytest.fixture(autouse=True)
def short_pulls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker in a test's own process stops when its last pull is over: let that be soon."""
    monkeypatch.setattr("mayfly.bus.queue.PULL_EXPIRES_S", 0.2)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A world with M=8, U=8."""
    async with installation(max_activations=8, max_activations_per_user=8) as nats, a_world(nats) as world:
        yield world


@dataclass
class Installation:
    """A running `mayfly up`, its image, and where its two roles are scraped."""

    up: Up
    image: str
    api_port: int

    async def scrape(self) -> tuple[Scrape, Scrape]:
        """Scrape the API server and the worker."""
        return await scrape(self.api_port), await scrape(self.api_port + 1)


@pytest.fixture(scope="module")
def installed() -> Iterator[Installation]:
    """One with two slots."""
    need(os.geteuid() == 0, "root")
    need(shutil.which("docker-registry") and shutil.which("crun"), "docker-registry and crun")
    registry, port = Registry(), free_port()
    with asyncio.Runner() as runner:
        runner.run(registry.start())
        try:
            image = runner.run(build_and_push(registry.url, "busybox", "1", cmd=["/bin/sh"]))
            with running_up(registry.url, slots=2, metrics_listen=f"127.0.0.1:{port}") as up:
                yield Installation(up, image, port)
        finally:
            runner.run(registry.__aexit__(None, None, None))
