"""The metrics of several worker processes as one."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from mayfly.ops.gathered import Gathered
from mayfly.services.metrics_port import served
from mayfly.worker.metrics import WorkerMetrics
from tests.support.nats import free_port
from tests.support.scrape import Scrape

pytestmark = [pytest.mark.A5, pytest.mark.D4]


def with_slots(slots: int) -> WorkerMetrics:
    """Those of a process."""
    metrics = WorkerMetrics()
    metrics.slots.set(slots)
    return metrics


async def at_one_port(listen: str, *others: str) -> str:
    """What a scrape reads of all of them."""
    gathered = Gathered({number: f"http://{each}/metrics" for number, each in enumerate(others, start=1)})
    async with (
        served(listen, gathered, refresh=gathered.refresh),
        httpx.AsyncClient(trust_env=False) as client,
    ):
        return (await client.get(f"http://{listen}/metrics")).raise_for_status().text


async def test_each_process_is_told_apart_and_told_as_it_is() -> None:
    """One port has every sample of every process, each metric named once, with its own meaning and kind."""
    at, first, second = (f"127.0.0.1:{free_port()}" for _ in range(3))
    one, other = with_slots(4), with_slots(3)
    async with served(first, one), served(second, other):
        text = await at_one_port(at, first, second)

    alone = generate_latest(one.registry).decode()
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert sorted(heads) == sorted(line for line in alone.splitlines() if line.startswith("#"))
    together = Scrape(text)
    assert together.names == Scrape(alone).names
    assert [together.value("mayfly_worker_slots", process=each) for each in "12"] == [4, 3]
    steps = together.labels("mayfly_activation_step_duration_seconds_count")
    assert len(steps) == 2 * len({labels["step"] for labels in steps})


async def test_one_that_does_not_answer_is_missing_and_no_more() -> None:
    """While a process is started again the others' are there; the log names it."""
    at, first, nobody = (f"127.0.0.1:{free_port()}" for _ in range(3))
    async with served(first, with_slots(4)):
        with capture_logs() as logged:
            together = Scrape(await at_one_port(at, first, nobody))

    assert together.labels("mayfly_worker_slots") == [{"process": "1"}]
    assert [(each["event"], each["process"]) for each in logged if each["log_level"] == "warning"] == [
        ("workers.metrics-missing", 2)
    ]
