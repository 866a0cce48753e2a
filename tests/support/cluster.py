"""
Three real nats-servers of one cluster on loopback, with the files that `mayfly secrets create` makes.

The files are used as they are but for ports and paths, which several servers on one machine cannot share.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from mayfly.bus.connection import Bus, connect
from mayfly.bus.schema import bootstrap
from mayfly.ops.nats_config import ADMIN, ROUTE_PORT
from mayfly.ops.secrets import Wanted, create
from mayfly.ops.up import bundled_nats_server
from mayfly.settings import BootstrapSettings, NatsSettings
from tests.support.nats import free_port

NAMES = ("nats-1", "nats-2", "nats-3")
READY_S = 60.0
LINKED_S = 10.0


@dataclass
class Node:
    """One server. It keeps its ports and its store over `kill` and `start`."""

    name: str
    directory: Path
    port: int = field(default_factory=free_port)
    route_port: int = field(default_factory=free_port)
    monitor_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"tls://localhost:{self.port}"

    @property
    def log(self) -> str:
        """What it has said."""
        return (self.directory / "nats.log").read_text()

    def start(self) -> None:
        """Start it; it does not wait for the others."""
        with (self.directory / "nats.log").open("ab") as log:
            command = [str(bundled_nats_server()), "-c", str(self.directory / "adapted.conf")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    async def end(self, number: signal.Signals) -> None:
        """End it: SIGKILL as a power failure would, SIGTERM as an operator does."""
        if self.process is not None:
            self.process.send_signal(number)
            await asyncio.to_thread(self.process.wait)
            self.process = None

    async def monitor(self, path: str) -> dict[str, Any]:
        """Ask its monitoring port."""
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://127.0.0.1:{self.monitor_port}/{path}")
            return dict(answer.json())

    async def until_linked(self, others: set[str]) -> None:
        """Wait until it has routes to these servers, and to no other; health comes before the last of them."""
        linked: set[str] = set()
        try:
            async with asyncio.timeout(LINKED_S):
                while linked != others:
                    linked = {route["remote_name"] for route in (await self.monitor("routez"))["routes"]}
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{self.name} is linked to {linked}, not {others}") from None


@dataclass
class Cluster:
    """The servers, and how each role reaches them."""

    secrets: Path
    nodes: list[Node]

    @property
    def url(self) -> str:
        """All servers, as in MAYFLY_NATS_URL."""
        return ",".join(node.url for node in self.nodes)

    def access(self, role: str) -> dict[str, Any]:
        """The settings with which a role connects."""
        return {
            "nats_url": self.url,
            "nats_user": role,
            "nats_password_file": self.secrets / role / "nats.password",
            "nats_ca_file": self.secrets / "public" / "ca.crt",
        }

    def connect(self, role: str, **other: Any) -> AbstractAsyncContextManager[Bus]:
        """Connect as a role; *other* settings replace its own."""
        return connect(NatsSettings(**{**self.access(role), **other}), role=role)

    def adapt(self) -> None:
        """Write each node's configuration with its own ports and paths."""
        routes = {node.name: node.route_port for node in self.nodes}
        for node in self.nodes:
            (node.directory / "adapted.conf").write_text(adapted(node, routes))

    def start(self) -> None:
        """Start all."""
        for node in self.nodes:
            node.start()

    async def until_ready(self) -> None:
        """Wait until every server that runs says that all of JetStream is in order."""
        async with asyncio.timeout(READY_S):
            for node in self.nodes:
                while node.process is not None and not await self._is_healthy(node):
                    await asyncio.sleep(0.05)

    async def _is_healthy(self, node: Node) -> bool:
        if node.process is not None and node.process.poll() is not None:
            raise RuntimeError(f"{node.name} ended:\n{node.log[-3000:]}")
        try:
            return (await node.monitor("healthz")).get("status") == "ok"
        except httpx.TransportError:
            return False


def adapted(node: Node, routes: dict[str, int]) -> str:
    """Give a generated configuration the ports and paths of this machine."""
    config = json.loads((node.directory / "nats.conf").read_text())
    config["listen"] = f"127.0.0.1:{node.port}"
    config["http"] = f"127.0.0.1:{node.monitor_port}"
    config["jetstream"]["store_dir"] = str(node.directory / "store")
    for tls in (config["tls"], config["cluster"]["tls"]):
        for file in ("cert_file", "key_file", "ca_file"):
            tls[file] = str(node.directory / Path(tls[file]).name)
    cluster = config["cluster"]
    cluster["listen"] = f"127.0.0.1:{node.route_port}"
    cluster["advertise"] = f"localhost:{node.route_port}"
    for number, route in enumerate(cluster["routes"]):
        head, _, peer = route.removesuffix(f":{ROUTE_PORT}").rpartition("@")
        cluster["routes"][number] = f"{head}@localhost:{routes[peer]}"
    return json.dumps(config)


@asynccontextmanager
async def cluster(**limits: Any) -> AsyncIterator[Cluster]:
    """Start three servers, make the shapes with three replicas; *limits* are settings of `bootstrap`."""
    with tempfile.TemporaryDirectory(prefix="mayfly-cluster-", ignore_cleanup_errors=True) as directory:
        secrets = Path(directory)
        create(secrets, Wanted())
        made = Cluster(secrets, [Node(name, secrets / name) for name in NAMES])
        made.adapt()
        try:
            made.start()
            await made.until_ready()
            async with made.connect(ADMIN) as bus:
                await bootstrap(bus, BootstrapSettings(**made.access(ADMIN), nats_replicas=3, **limits))
            yield made
        finally:
            for node in made.nodes:
                await node.end(signal.SIGKILL)
