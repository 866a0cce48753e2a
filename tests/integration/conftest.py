"""What most integration tests start from; a test file that needs other limits or another role has its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from mayfly.bus.connection import Bus
from tests.support.bus import Installation, installation


@pytest.fixture
async def nats() -> AsyncIterator[Installation]:
    """A fresh nats-server with our shapes."""
    async with installation() as made:
        yield made


@pytest.fixture
async def bus(nats: Installation) -> AsyncIterator[Bus]:
    """An admin's connection."""
    async with nats.connect("admin") as bus:
        yield bus
