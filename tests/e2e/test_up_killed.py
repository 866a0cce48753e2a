"""`mayfly up` killed: nothing of it goes on, and the next one finds everything as it was."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from mayfly.domain.ids import new_id
from tests.support.nats import free_port
from tests.support.processes import descendants, is_alive
from tests.support.up import PASSWORD, Up, stop

GONE_WITHIN_S = 5.0


@contextmanager
def an_up(data_dir: Path, listen: str, registry: str) -> Iterator[Up]:
    """Run `mayfly up` on a data directory that outlives it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")} | {
        "MAYFLY_DATA_DIR": str(data_dir),
        "MAYFLY_LISTEN": listen,
        "MAYFLY_SLOTS": "2",
        "MAYFLY_PRIVATE_REGISTRIES": registry,
        "MAYFLY_PLAIN_HTTP_REGISTRIES": registry,
    }
    with (data_dir / "up.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mayfly", "up"], env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    up = Up(f"https://{listen}", data_dir / "ca.crt", data_dir, process)
    try:
        assert process.stdout is not None
        assert any("Ctrl-C stops everything" in line for line in process.stdout), up.log()[-4000:]
        yield up
    finally:
        stop(process)
        if process.stdout:
            process.stdout.close()


def alive(pids: set[int]) -> set[int]:
    """Those of *pids* that have not ended; one that only waits to be reaped has."""
    return {pid for pid in pids if is_alive(pid)}


async def running(client: httpx.AsyncClient) -> None:
    """Wait until one activation runs."""
    async with asyncio.timeout(20):
        while (await client.get("/v1/status")).json()["running"] != 1:
            await asyncio.sleep(0.05)


async def with_a_container(up: int) -> set[int]:
    """The processes of an `up`, once there are more than nats-server's, the API server's and the worker's own."""
    async with asyncio.timeout(20):
        # The call is running for its worker before it is for the kernel.
        while len(processes := set(descendants(up))) < 7:
            await asyncio.sleep(0.05)
    return processes


@pytest.mark.F11
async def test_a_killed_up_leaves_nothing_running_and_loses_nothing(tmp_path: Path, registry: str, image: str) -> None:
    """With a call under way, all processes end within 5 s; the next `up` starts at once, and knows users and calls."""
    listen = f"127.0.0.1:{free_port()}"
    name = f"u{new_id()}"
    with an_up(tmp_path, listen, registry) as first:
        async with await first.user(name) as client:
            body = {"image": image, "command": ["/bin/sh", "-c", 'test "$(cat)" = go || sleep 200']}
            (
                await client.post("/v1/functions", json={"name": "f", **body, "limits": {"timeout_s": 250}})
            ).raise_for_status()
            call = asyncio.create_task(client.post("/v1/functions/f/activations", content="wait"))
            await running(client)
            assert first.process is not None
            processes = await with_a_container(first.process.pid)

            first.process.send_signal(signal.SIGKILL)
            began = time.monotonic()
            with pytest.raises(httpx.TransportError):
                await call
            while alive(processes) and time.monotonic() - began < GONE_WITHIN_S:
                await asyncio.sleep(0.05)
            assert alive(processes) == set()
    with an_up(tmp_path, listen, registry) as second:
        form = {"grant_type": "password", "username": name, "password": PASSWORD}
        async with second.client() as anybody:
            token = (await anybody.post("/v1/tokens", data=form)).raise_for_status().json()["access_token"]
        async with second.client(token) as client:
            answer = await client.post("/v1/functions/f/activations", content="go")
            assert answer.status_code == 200, answer.text
