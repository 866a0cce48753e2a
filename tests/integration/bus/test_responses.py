"""Hearing of ends: what a wait leaves behind."""

from __future__ import annotations

import asyncio

import pytest

from mayfly.bus.responses import Listener
from mayfly.domain.ids import new_id, new_ulid
from tests.support.bus import Installation

pytestmark = [pytest.mark.A3, pytest.mark.F12]


async def test_a_wait_that_ends_in_an_outage_leaves_nothing(nats: Installation) -> None:
    """What was subscribed for another server's activation is gone, though nats-server could not be told."""
    async with nats.connect("api") as bus:
        before = len(bus.client._subs)
        async with Listener(new_id()).waiting_for(bus, new_id(), new_ulid()):
            assert len(bus.client._subs) == before + 1
            await nats.server.kill()
            async with asyncio.timeout(10):
                while bus.is_connected:
                    await asyncio.sleep(0.01)

        assert len(bus.client._subs) == before
