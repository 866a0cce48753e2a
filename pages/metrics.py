"""docs/reference/metrics.md: every metric, from what each role counts."""

from __future__ import annotations

from prometheus_client import generate_latest

from mayfly.api.metrics import ApiMetrics
from mayfly.services.metrics import BUCKETS_S, Described, Metrics
from mayfly.worker.metrics import WorkerMetrics
from pages.page import table

HEAD = """# Metrics

<!-- made by scripts/docs from src/mayfly/{services,api,worker}/metrics.py -->

`GET /metrics` in Prometheus's text format, on a port of its own (`MAYFLY_METRICS_LISTEN`), in clear text and without a
token. [How to monitor](../howto/monitor.md) says how to get at it. No label holds anything that a user chose. Where a
worker is several processes (`MAYFLY_WORKER_PROCESSES`), each of its metrics has the label `process` besides, which is
their number.
"""


def part(title: str, metrics: list[Described]) -> str:
    """Write one part of the page."""
    rows = (
        (f"`{each.name}`", each.kind, ", ".join(f"`{label}`" for label in each.labels) or "none", each.meaning)
        for each in metrics
    )
    return f"\n## {title}\n\n{table(('metric', 'kind', 'labels', 'meaning'), rows)}\n"


def page() -> str:
    """Write the whole page."""
    api, worker = ApiMetrics(), WorkerMetrics()
    shared = [each for each in api.described if each in worker.described]
    processes = [line.split()[2] for line in exposed(api) if line.startswith("# TYPE process_")]
    return (
        HEAD
        + part("Both roles", shared)
        + part("API server", [each for each in api.described if each not in shared])
        + part("Worker", [each for each in worker.described if each not in shared])
        + f"\nBoth also have those of the process: {', '.join(f'`{name}`' for name in sorted(processes))}.\n"
        + f"\nThe buckets of a histogram end at {', '.join(f'{bound:g}' for bound in BUCKETS_S)} s and +Inf.\n"
    )


def exposed(metrics: Metrics) -> list[str]:
    """Write what a first scrape reads."""
    return generate_latest(metrics.registry).decode().splitlines()
