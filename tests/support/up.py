"""A whole installation by `mayfly up`, in processes of its own, for the tests that look at it from outside."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from mayfly.domain.ids import new_id
from tests.support.leaks import leaks, secrets_in
from tests.support.nats import free_port

READY_S = 60
PASSWORD = "correct horse battery"
ROOM = {"max_activations": 64, "max_activations_per_user": 64}
"""
Limits for an installation that is not asked about its limits. By default there is a place for each slot: then callers
who are as many as the slots, and call again as soon as they are answered, may be back before their places are.
"""


@dataclass
class Up:
    """A running installation."""

    url: str
    ca_file: Path
    data_dir: Path
    process: subprocess.Popen[str] | None = None
    said: list[str] = field(default_factory=list)
    reader: threading.Thread = field(default_factory=threading.Thread)

    @property
    def tls(self) -> ssl.SSLContext:
        """What a client trusts."""
        return ssl.create_default_context(cafile=self.ca_file)

    def client(self, token: str | None = None, **options: Any) -> httpx.AsyncClient:
        """Make a client that waits long enough for any function."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(
            base_url=self.url, verify=self.tls, headers=headers, timeout=120, limits=limits, trust_env=False, **options
        )

    async def user(self, name: str | None = None, **options: Any) -> httpx.AsyncClient:
        """Register a user, log in, and return a client with the token; the name is `client.headers["x-test-user"]`."""
        name = name or f"u{new_id()}"
        async with self.client() as client:
            made = await client.post("/v1/users", json={"username": name, "password": PASSWORD})
            made.raise_for_status()
            form = {"grant_type": "password", "username": name, "password": PASSWORD}
            token = await client.post("/v1/tokens", data=form)
            token.raise_for_status()
        return self.client(token.json()["access_token"], **options)

    def log(self) -> str:
        """What the installation has written to stderr so far."""
        return (self.data_dir / "up.log").read_text()


@contextmanager
def running_up(registry: str | None = None, *, umask: int = -1, **settings: object) -> Iterator[Up]:
    """
    Run `mayfly up` with a data directory of its own; *settings* are its settings, such as `slots=8`. In the end its log
    must have no secret in it.
    """
    with running_up_by(sys.executable, registry, umask=umask, **settings) as up:
        yield up


@contextmanager
def running_up_by(python: str, /, registry: str | None, *, umask: int = -1, **settings: object) -> Iterator[Up]:
    """Run that of the checkout which this interpreter has."""
    with tempfile.TemporaryDirectory(prefix="mayfly-up-", ignore_cleanup_errors=True) as directory:
        data_dir = Path(directory)
        data_dir.chmod(0o755)  # as `up` makes its own; runc could not reach anything below otherwise
        listen = f"127.0.0.1:{free_port()}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
        environment |= {
            "MAYFLY_DATA_DIR": str(data_dir),
            "MAYFLY_LISTEN": listen,
            "MAYFLY_LOG_FORMAT": "json",
            **{f"MAYFLY_{name.upper()}": str(value) for name, value in settings.items()},
        }
        if registry:
            environment |= {"MAYFLY_PRIVATE_REGISTRIES": registry, "MAYFLY_PLAIN_HTTP_REGISTRIES": registry}
        with (data_dir / "up.log").open("w") as log:
            process = subprocess.Popen(
                [python, "-m", "mayfly", "up"],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                text=True,
                umask=umask,
            )
        up = Up(f"https://{listen}", data_dir / "ca.crt", data_dir, process)
        try:
            _wait_until_ready(up)
            yield up
        finally:
            stop(process)
            up.reader.join(timeout=5)
            if process.stdout:
                process.stdout.close()
        assert leaks(up.log(), {"a password": PASSWORD, **secrets_in(data_dir)}) == []


def stop(process: subprocess.Popen[str]) -> None:
    """End `mayfly up` as Ctrl-C does."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _wait_until_ready(up: Up) -> None:
    ready = threading.Event()

    def read() -> None:
        for line in up.process.stdout if up.process and up.process.stdout else ():
            up.said.append(line)
            if "Ctrl-C stops everything" in line:
                ready.set()
        ready.set()

    up.reader = threading.Thread(target=read, name="read-up", daemon=True)
    up.reader.start()
    began = time.monotonic()
    if not ready.wait(READY_S) or not any("is ready" in line for line in up.said):
        raise RuntimeError(f"mayfly up was not ready after {time.monotonic() - began:.0f} s:\n{up.log()[-4000:]}")
