"""A whole installation whose metrics can be scraped."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.images import build_and_push
from tests.support.nats import free_port
from tests.support.need import need
from tests.support.registry import Registry
from tests.support.scrape import Scrape, scrape
from tests.support.up import Up, running_up


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
