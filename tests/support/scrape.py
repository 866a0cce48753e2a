"""What Prometheus does: GET /metrics over plain HTTP, read with prometheus_client's own parser."""

from __future__ import annotations

import math
from collections.abc import Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """All samples of one scrape."""

    def __init__(self, text: str) -> None:
        """Read them."""
        self._samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._samples[sample.name, frozenset(sample.labels.items())] = sample.value

    @property
    def names(self) -> set[str]:
        """Of all samples."""
        return {name for name, _ in self._samples}

    def value(self, name: str, **labels: str) -> float:
        """One sample; 0 when there is none yet."""
        return self._samples.get((name, frozenset(labels.items())), 0.0)

    def labels(self, name: str) -> list[Mapping[str, str]]:
        """The labels of every sample of this name."""
        return [dict(labels) for found, labels in self._samples if found == name]

    def grown(self, before: Scrape) -> dict[str, float]:
        """What is more than it was, as it is written in the text format."""
        return {
            _written(name, labels): value - before._samples.get((name, labels), 0.0)
            for (name, labels), value in self._samples.items()
            if not math.isnan(value) and value > before._samples.get((name, labels), 0.0)
        }


def _written(name: str, labels: frozenset[tuple[str, str]]) -> str:
    inside = ",".join(f'{label}="{value}"' for label, value in sorted(labels))
    return f"{name}{{{inside}}}" if inside else name


async def scrape(port: int) -> Scrape:
    """Scrape a role of this machine."""
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://127.0.0.1:{port}/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Scrape(answer.text)
