"""
The metrics of several worker processes at one port, so that who watches workers need not know how many each one is.

Each sample has the label `process` besides, and is as that process told it: to add them up is for whoever asks. One
that does not answer, as while it is started again, has none. Rows: A5, D4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import httpx
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

log = structlog.get_logger()

LABEL = "process"
ANSWERED_WITHIN_S = 2.0  # Prometheus waits for 4 in compose


class Gathered:
    """What all of them told at the last scrape."""

    def __init__(self, urls: Mapping[int, str]) -> None:
        """*urls* says where each process, by its number, has its own."""
        self.registry = CollectorRegistry()
        self._urls = urls
        self._metrics: list[Metric] = []
        self.registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """What the registry shows."""
        return self._metrics

    async def refresh(self) -> None:
        """Ask all of them, at once."""
        async with httpx.AsyncClient(timeout=ANSWERED_WITHIN_S, trust_env=False) as client:
            texts = await asyncio.gather(*(_read(client, number, url) for number, url in self._urls.items()))
        self._metrics = merged(dict(zip(self._urls, texts, strict=True)))


async def _read(client: httpx.AsyncClient, number: int, url: str) -> str:
    try:
        return (await client.get(url)).raise_for_status().text
    except httpx.HTTPError as error:
        log.warning("workers.metrics-missing", process=number, reason=repr(error))
        return ""


def merged(texts: Mapping[int, str]) -> list[Metric]:
    """Make one of what the processes have written, by their numbers, in Prometheus's text format."""
    metrics: dict[str, Metric] = {}
    for number, text in texts.items():
        for told in text_string_to_metric_families(text):
            metric = metrics.setdefault(told.name, Metric(told.name, told.documentation, told.type))
            for sample in told.samples:
                metric.add_sample(sample.name, {LABEL: str(number), **sample.labels}, sample.value)
    return list(metrics.values())
