"""
Mayfly beside what it is compared with, all in one run on one machine, with ratios.

    scripts/bench [--short] [--json FILE] [--page FILE] [--without-docker]

End to end means over HTTPS with a token, through API server, NATS and worker, to a fresh container and back; the
client shares the machine's cores. The machine is noisy: compare the figures of one run only.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import platform
import ssl
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench import docker
from mayfly import __version__
from tests.support.images import build_and_push
from tests.support.registry import Registry
from tests.support.up import Up, running_up

AT_ONCE = (1, 2, 4, 8)


class Caller:
    """One connection that is kept, as a busy client keeps it."""

    def __init__(self, up: Up, token: str, path: str) -> None:
        """Connect."""
        host = urlsplit(up.url).netloc
        self._connection = http.client.HTTPSConnection(host, context=ssl.create_default_context(cafile=up.ca_file))
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "text/plain"}
        self._path = path

    def call(self, parameter: bytes = b"hello") -> None:
        """Invoke once; anything but the parameter's echo is an error."""
        self._connection.request("POST", self._path, body=parameter, headers=self._headers)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200 or body != parameter:
            raise RuntimeError(f"{answer.status}: {body[:200]!r}")

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()


def latencies(caller: Caller, calls: int, parameter: bytes = b"hello") -> list[float]:
    """Milliseconds of each of so many calls, one after the other, after a warm-up."""
    times = []
    for number in range(calls + 10):
        began = time.perf_counter()
        caller.call(parameter)
        if number >= 10:
            times.append((time.perf_counter() - began) * 1e3)
    return times


def rate(make: Any, calls: int, at_once: int) -> float:
    """Calls a second, over so many connections."""
    callers = [make() for _ in range(at_once)]
    for caller in callers:
        caller.call()
    left = iter(range(calls))

    def work(caller: Caller) -> None:
        for _ in left:
            caller.call()

    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(work, callers))
    seconds = time.perf_counter() - began
    for caller in callers:
        caller.close()
    return calls / seconds


async def prepare(up: Up, reference: str) -> tuple[str, str]:
    """Register a user and the function; return the token and the path of its calls."""
    async with await up.user() as client:
        made = await client.post("/v1/functions", json={"name": "cat", "image": reference})
        made.raise_for_status()
        return client.headers["Authorization"].removeprefix("Bearer "), "/v1/functions/cat/activations"


def measure_mayfly(calls: int) -> dict[str, Any]:
    """Everything of ours."""
    with asyncio.Runner() as runner:
        registry = runner.run(Registry().__aenter__())
        try:
            reference = runner.run(build_and_push(registry.url, "cat", cmd=["/bin/cat"]))
            with running_up(registry.url, slots=8, log_level="warning") as up:
                token, path = runner.run(prepare(up, reference))

                def make() -> Caller:
                    return Caller(up, token, path)

                caller = make()
                found: dict[str, Any] = {"hot": spread(latencies(caller, calls))}
                for size, label in ((65_536, "64 KiB"), (1_048_576, "1 MiB")):
                    found[label] = spread(latencies(caller, max(20, calls // 10), b"x" * size))
                caller.close()
                found["per_s"] = {at_once: rate(make, calls, at_once) for at_once in AT_ONCE}
                return found
        finally:
            runner.run(registry.__aexit__(None, None, None))


def spread(times: list[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile."""
    ordered = sorted(times)
    at = {name: ordered[min(len(ordered) - 1, int(len(ordered) * share))] for name, share in PERCENTILES.items()}
    return {"p50_ms": statistics.median(ordered), **at}


PERCENTILES = {"p95_ms": 0.95, "p99_ms": 0.99}


def measure_floor(calls: int) -> dict[str, Any]:
    """Bare `crun run`, in a process of its own."""
    command = [sys.executable, "-m", "bench.floor", str(calls)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def summary(mayfly: dict[str, Any], floor: dict[str, Any], dockers: dict[str, Any] | None) -> dict[str, float | None]:
    """The figures that are quoted, flat."""
    return {
        "hot_p50_ms": mayfly["hot"]["p50_ms"],
        "hot_p95_ms": mayfly["hot"]["p95_ms"],
        "hot_p99_ms": mayfly["hot"]["p99_ms"],
        "per_s_at_4": mayfly["per_s"][4],
        "saturation_per_s": max(mayfly["per_s"].values()),
        "crun_run_p50_ms": floor["p50_ms"],
        "crun_run_per_s": max(floor["per_s"].values()),
        "docker_run_p50_ms": dockers["p50_ms"] if dockers else None,
        "docker_run_per_s": max(dockers["per_s"].values()) if dockers else None,
    }


def markdown(found: dict[str, Any]) -> str:
    """The table that people read."""
    figures = found["summary"]
    rows = [
        "| | p50 | p95 | best rate | its p50 / Mayfly's | Mayfly's rate / its |",
        "|---|---|---|---|---|---|",
        _row("Mayfly, end to end over HTTPS", found["mayfly"]["hot"], figures["saturation_per_s"], figures),
        _row("bare `crun run`", found["crun_run"], figures["crun_run_per_s"], figures),
    ]
    if found["docker_run"]:
        rows.append(_row("`docker run --rm --network none`", found["docker_run"], figures["docker_run_per_s"], figures))
    rates = ", ".join(f"{rate:.0f}/s at {at_once}" for at_once, rate in found["mayfly"]["per_s"].items())
    large = ", ".join(f"{found['mayfly'][size]['p50_ms']:.1f} ms with {size}" for size in ("64 KiB", "1 MiB"))
    return "\n".join([*rows, "", f"Mayfly: {rates}; p50 {large} in and out. {found['machine']}."])


def page(found: dict[str, Any]) -> str:
    """The reference page around the table."""
    return PAGE.format(table=markdown(found))


PAGE = """# Performance

Made by `scripts/bench --page docs/reference/performance.md`, in one run on one machine, the client included. The
machine is small and noisy, so compare the figures of one run only. No target is set yet; making it fast is to come.

{table}

What is measured:

- **Mayfly, end to end over HTTPS**: a call with a token over a kept connection, through API server, NATS and worker,
  to a fresh container of a busybox image that gives its parameter back, and the answer.
  The p50 is of one call at a time.
- **bare `crun run`**: the same root file system in a user namespace, without seccomp filter, limits, or anybody who
  queues, records or reads results; best of 1, 2 and 4 at once. It is the floor for whoever uses crun.
- **`docker run --rm --network none`**: the same image, by a dockerd of the bench's own; best of 1, 2 and 4 at once.
"""


def _row(name: str, times: dict[str, float], per_s: float, figures: dict[str, float]) -> str:
    slower = times["p50_ms"] / figures["hot_p50_ms"]
    share = figures["saturation_per_s"] / per_s
    return (
        f"| {name} | {times['p50_ms']:.1f} ms | {times['p95_ms']:.1f} ms | {per_s:.0f}/s | {slower:.2f} | {share:.2f} |"
    )


def machine() -> str:
    """Where this was measured."""
    return (
        f"Mayfly {__version__}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
    )


def main() -> None:
    """Measure all, print the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench")
    parser.add_argument("--short", action="store_true", help="under 90 s, rougher")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--page", type=Path, help="write the reference page here")
    parser.add_argument("--without-docker", action="store_true", help="leave `docker run` out")
    options = parser.parse_args()
    calls = 200 if options.short else 1000
    mayfly = measure_mayfly(calls)
    floor = measure_floor(calls)
    dockers = None if options.without_docker else docker.measure(10 if options.short else 40)
    found = {
        "machine": machine(),
        "summary": summary(mayfly, floor, dockers),
        "mayfly": mayfly,
        "crun_run": floor,
        "docker_run": dockers,
    }
    print(markdown(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if options.page:
        options.page.write_text(page(found))


if __name__ == "__main__":
    main()
