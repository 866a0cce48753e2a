"""A real Prometheus takes our file, scrapes both roles of a running system, and answers the dashboard's queries."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.integration.worker.conftest import Installation
from tests.support.nats import free_port
from tests.support.need import need

pytestmark = pytest.mark.D4

MONITORING = Path(__file__).resolve().parents[3] / "deploy" / "compose" / "monitoring"
CONFIG = MONITORING / "prometheus.yml"
DASHBOARD = json.loads((MONITORING / "grafana/dashboards/mayfly.json").read_text(encoding="utf-8"))
EXPRESSIONS = sorted(
    target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
    if "apisix_" not in target["expr"]  # what only a gateway counts
)


class Prometheus:
    """One that scrapes an installation."""

    def __init__(self, url: str) -> None:
        """It answers at *url*."""
        self._url = url

    async def query(self, expression: str) -> list[Any]:
        """
        Ask as Grafana does, for now.

        Raises: AssertionError in Prometheus's words when it does not understand.
        """
        async with httpx.AsyncClient(base_url=self._url, trust_env=False) as client:
            answer = await client.get("/api/v1/query", params={"query": expression.replace("$__rate_interval", "10s")})
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        found: list[Any] = answer.json()["data"]["result"]
        return found

    async def shows(self, expression: str) -> bool:
        """Say whether there is an answer."""
        return bool(await self.query(expression))


async def until_ready(url: str) -> None:
    """Before that it answers every question with 503."""
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client, asyncio.timeout(30):
        while True:
            with suppress(httpx.TransportError):
                if (await client.get("/-/ready")).status_code == 200:
                    return
            await asyncio.sleep(0.1)


@pytest.fixture
async def prometheus(installed: Installation, tmp_path: Path) -> AsyncIterator[Prometheus]:
    """Ours, with its own file but for the addresses, and in more of a hurry."""
    need(shutil.which("prometheus"), "prometheus")
    port = free_port()
    where = {"api": installed.api_port, "worker": installed.api_port + 1, "prometheus": port}
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s"}
    config["scrape_configs"] = [
        {"job_name": job["job_name"], "static_configs": [{"targets": [f"127.0.0.1:{where[job['job_name']]}"]}]}
        for job in config["scrape_configs"]
        if job["job_name"] in where
    ]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(MONITORING / "alerts.yml", tmp_path)
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        await until_ready(f"http://127.0.0.1:{port}")
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 20)


def test_prometheus_takes_the_file() -> None:
    """promtool finds nothing wrong with the configuration that compose mounts."""
    need(shutil.which("promtool"), "prometheus")
    done = subprocess.run(["promtool", "check", "config", str(CONFIG)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.root
async def test_every_query_of_the_dashboard_has_an_answer(installed: Installation, prometheus: Prometheus) -> None:
    """After calls that ended well, badly and refused, Prometheus understands each expression and has series for it."""
    silent, statuses = EXPRESSIONS, set[int]()
    async with await installed.up.user() as client, asyncio.timeout(90):
        for name, script in (("good", "cat"), ("bad", "exit 3"), ("slow", "sleep 0.5")):
            body = {"name": name, "image": installed.image, "command": ["/bin/sh", "-c", script]}
            assert (await client.post("/v1/functions", json=body)).status_code == 201
        while silent or not statuses >= {200, 429, 502}:
            names = ("good", "bad", "slow", "slow", "slow")
            calls = (client.post(f"/v1/functions/{name}/activations", content=b"x") for name in names)
            statuses |= {answer.status_code for answer in await asyncio.gather(*calls)}
            silent = [each for each in silent if not await prometheus.shows(each)]

    assert len(EXPRESSIONS) > 20
