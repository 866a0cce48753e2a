"""Three real nats-servers with what deploy/kumori/secrets hands over: they find each other by the names of channels."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mayfly.bus.schema import bootstrap
from mayfly.ops.nats_config import ADMIN, ROUTE_PORT
from mayfly.ops.up import bundled_nats_server
from mayfly.settings import BootstrapSettings
from tests.support.cluster import NAMES, Cluster, Node
from tests.support.kumori import KUMORI
from tests.support.need import need

pytestmark = pytest.mark.D5

UNPACKED = "/dev/shm/mayfly"


@dataclass
class Named(Node):
    """A server that finds what it calls in a file of hosts of its own."""

    hosts: str = ""

    def start(self) -> None:
        """Start it in a mount namespace of its own."""
        (self.directory / "hosts").write_text(self.hosts)
        command = f"mount --bind {self.directory}/hosts /etc/hosts && exec {bundled_nats_server()} -c adapted.conf"
        with (self.directory / "nats.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-euc", command], stdout=log, stderr=log, cwd=self.directory
            )


async def test_the_servers_form_a_cluster(tmp_path: Path) -> None:
    """A ring of `set.0.next` is enough: each has routes to both others, and streams have three copies."""
    need(os.geteuid() == 0, "root, for a mount namespace")
    async with servers(tmp_path) as cluster:
        await cluster.until_ready()
        async with cluster.connect(ADMIN) as bus:
            await bootstrap(bus, BootstrapSettings(**cluster.access(ADMIN), nats_replicas=3))

        for node in cluster.nodes:
            routes = (await node.monitor("routez"))["routes"]
            assert {route["remote_name"] for route in routes} == set(NAMES) - {node.name}


async def test_a_server_that_comes_back_is_joined_again(tmp_path: Path) -> None:
    """Whoever calls the one that was killed goes on calling, and it calls the next one itself."""
    need(os.geteuid() == 0, "root, for a mount namespace")
    async with servers(tmp_path) as cluster:
        await cluster.until_ready()
        back = cluster.nodes[1]
        await back.end(signal.SIGKILL)
        back.start()
        await cluster.until_ready()

        routes = (await back.monitor("routez"))["routes"]
        assert {route["remote_name"] for route in routes} == {"nats-1", "nats-3"}


@asynccontextmanager
async def servers(directory: Path) -> AsyncIterator[Cluster]:
    """Start the three with the files of their archives, as they are but for ports and paths."""
    secrets = directory / "secrets"
    (secrets / "worker/docker").mkdir(parents=True)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (secrets / "worker/docker" / name).write_text(name)
    made = runpy.run_path(str(KUMORI / "secrets"))["make"](secrets, ("localhost",))
    nodes: list[Node] = [Named(name, directory / name, hosts="127.0.0.1 localhost set.0.next\n") for name in NAMES]
    for node, following in zip(nodes, [*nodes[1:], nodes[0]], strict=True):
        node.directory.mkdir()
        unpack = ["sh", "-euc", "base64 -d | tar -xzC . --no-same-owner"]
        archive = made[f"mayfly_{node.name.replace('-', '')}"]
        subprocess.run(unpack, input=archive, text=True, check=True, cwd=node.directory)
        (node.directory / "adapted.conf").write_text(adapted(node, following))
    cluster = Cluster(secrets, nodes)
    try:
        cluster.start()
        yield cluster
    finally:
        for node in nodes:
            await node.end(signal.SIGKILL)


def adapted(node: Node, following: Node) -> str:
    """Give a configuration the ports and paths of this machine, and leave every name."""
    config = json.loads((node.directory / "nats.conf").read_text().replace(UNPACKED, str(node.directory)))
    config["listen"] = f"127.0.0.1:{node.port}"
    config["http"] = f"127.0.0.1:{node.monitor_port}"
    config["jetstream"]["store_dir"] = str(node.directory / "store")
    config["cluster"]["listen"] = f"127.0.0.1:{node.route_port}"
    (route,) = config["cluster"]["routes"]
    assert route.endswith(f"@set.0.next:{ROUTE_PORT}")
    config["cluster"]["routes"] = [route.replace(f":{ROUTE_PORT}", f":{following.route_port}")]
    return json.dumps(config)
