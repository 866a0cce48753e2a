"""The images' health check of a worker, asked while workers of one and of several processes tell how they do."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge

from mayfly.services.metrics_port import served
from tests.support.nats import free_port

pytestmark = [pytest.mark.A5, pytest.mark.D4]

CHECK = Path(__file__).resolve().parents[3] / "deploy" / "images" / "healthy-role"


class Told:
    """Metrics that say which processes have a connection."""

    def __init__(self, connected: list[int], *labels: str) -> None:
        """One process, or as many as there are, each with its number."""
        self.registry = CollectorRegistry()
        gauge = Gauge("mayfly_nats_connected", "1 while the connection to NATS is up.", labels, registry=self.registry)
        for number, value in enumerate(connected, start=1):
            (gauge.labels(str(number)) if labels else gauge).set(value)


async def healthy(told: Told, **environment: str) -> tuple[int | None, str]:
    """Run the check beside such a worker; its status, and its last words."""
    listen = f"127.0.0.1:{free_port()}"
    async with served(listen, told):
        check = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", CHECK, "worker"),
            env={"PATH": os.environ["PATH"], "MAYFLY_METRICS_LISTEN": listen, **environment},
            stderr=asyncio.subprocess.PIPE,
        )
        _, words = await check.communicate()
    return check.returncode, words.decode().strip()


@pytest.mark.parametrize(("connected", "status"), [(1, 0), (0, 1)])
async def test_a_worker_is_healthy_while_it_is_connected(connected: int, status: int) -> None:
    """One process has no number, and no variable has to say that it is one."""
    assert (await healthy(Told([connected])))[0] == status


@pytest.mark.parametrize(
    ("connected", "said"),
    [([1, 1], (0, "")), ([1, 0], (1, "connected to NATS: 1 of its processes")), ([1], (1, "connected to NATS: 1"))],
    ids=["both", "one is not connected", "one does not answer"],
)
async def test_a_worker_of_two_processes_is_healthy_when_both_are(connected: list[int], said: tuple[int, str]) -> None:
    """One that is away or not connected is half a worker."""
    status, words = await healthy(Told(connected, "process"), MAYFLY_WORKER_PROCESSES="2")

    assert status == said[0]
    assert words.startswith(said[1])
