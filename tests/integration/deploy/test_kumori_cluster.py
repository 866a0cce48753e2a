"""
Roles for real, with what deploy/kumori gives them: three nats-servers, bootstrap and an API server.

Commands, variables and secrets are those of the components. Ports and paths are this machine's; the names of channels
lead to its loopback, in a mount namespace of each process, so that certificates are checked for them.
"""

from __future__ import annotations

import asyncio
import json
import os
import runpy
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from mayfly.bus.schema import bootstrap
from mayfly.ops.bundle import VARIABLE, bundle
from mayfly.ops.nats_config import ADMIN, ROUTE_PORT
from mayfly.ops.up import bundled_nats_server
from mayfly.settings import BootstrapSettings
from tests.support.cluster import NAMES, Cluster, Node
from tests.support.kumori import KUMORI, Tree, components, environment
from tests.support.nats import free_port
from tests.support.need import need

pytestmark = pytest.mark.D5

UNPACKED = "/dev/shm/mayfly"
NAMED = [
    *("unshare", "--mount", "sh", "-euc"),
    'echo 127.0.0.1 localhost set.0.next 0.queue >hosts; mount --bind hosts /etc/hosts; exec "$@"',
    "sh",
]
"""Runs a command in a mount namespace where the names of channels lead to the loopback."""


@dataclass
class Named(Node):
    """A server that calls the next one by the name of its channel."""

    def start(self) -> None:
        """Start it where the names of channels are known."""
        with (self.directory / "nats.log").open("ab") as log:
            command = [str(bundled_nats_server()), "-c", "adapted.conf"]
            self.process = subprocess.Popen([*NAMED, *command], stdout=log, stderr=log, cwd=self.directory)


async def test_the_servers_form_a_cluster(tmp_path: Path) -> None:
    """A ring of `set.0.next` is enough: each has routes to both others, and streams have three copies."""
    need(os.geteuid() == 0, "root, for a mount namespace")
    async with servers(tmp_path) as cluster:
        await cluster.until_ready()
        async with cluster.connect(ADMIN) as bus:
            await bootstrap(bus, BootstrapSettings(**cluster.access(ADMIN), nats_replicas=3))

        for node in cluster.nodes:
            await node.until_linked(set(NAMES) - {node.name})


async def test_a_server_that_comes_back_is_joined_again(tmp_path: Path) -> None:
    """Whoever calls the one that was killed goes on calling, and it calls the next one itself."""
    need(os.geteuid() == 0, "root, for a mount namespace")
    async with servers(tmp_path) as cluster:
        await cluster.until_ready()
        back = cluster.nodes[1]
        await back.end(signal.SIGKILL)
        back.start()
        await cluster.until_ready()

        await back.until_linked({"nats-1", "nats-3"})


async def test_bootstrap_and_an_api_server_start(deployment: Tree, tmp_path: Path) -> None:
    """Bootstrap makes the streams, removes its secrets and waits; an API server then answers its gateway."""
    need(os.geteuid() == 0, "root, for a mount namespace")
    ports = {"MAYFLY_LISTEN": free_port(), "MAYFLY_METRICS_LISTEN": free_port()}
    async with servers(tmp_path) as cluster:
        await cluster.until_ready()
        described = {name: Role(name, deployment, cluster, tmp_path / name) for name in ("bootstrap", "api")}
        with described["bootstrap"].running({}) as bootstrapping:
            async with asyncio.timeout(60):
                while not described["bootstrap"].is_done:
                    assert bootstrapping.poll() is None, described["bootstrap"].log
                    await asyncio.sleep(0.1)
            bootstrapping.terminate()
            assert bootstrapping.wait(10) == 0

        with described["api"].running(ports) as serving:
            trust = ssl.create_default_context(cafile=cluster.secrets / "public/ca.crt")
            async with httpx.AsyncClient(verify=trust, trust_env=False) as client:
                url = f"https://localhost:{ports['MAYFLY_LISTEN']}"
                await until(client, f"{url}/readyz", serving)
                await until(client, f"http://127.0.0.1:{ports['MAYFLY_METRICS_LISTEN']}/metrics", serving)
                known = {"X-Mayfly-Gateway": (cluster.secrets / "gateway/gateway.secret").read_text()}
                ann = {"username": "ann", "password": "correct horse battery"}
                past = await client.post(f"{url}/v1/users", json=ann)
                through = await client.post(f"{url}/v1/users", json=ann, headers=known)
            assert (past.status_code, through.status_code) == (403, 201), (past.text, through.text)


@dataclass
class Role:
    """A role as its component describes it."""

    name: str
    deployment: Tree
    cluster: Cluster
    directory: Path

    @property
    def log(self) -> str:
        """What it has said."""
        return (self.directory / "log").read_text()

    @property
    def is_done(self) -> bool:
        """Whether bootstrap has removed its secrets, which it does at the end."""
        unpacked = self.directory / "secrets"
        return "made: " in self.log and not any(unpacked.iterdir())

    @contextmanager
    def running(self, ports: dict[str, int]) -> Iterator[subprocess.Popen[bytes]]:
        """Run it, with other ports to listen on, until it ends or is killed."""
        component = components(self.deployment)[self.name]
        directory = self.directory / "secrets"
        self.directory.mkdir()
        secret = bundle(self.cluster.secrets / {"bootstrap": "admin"}.get(self.name, self.name))
        variables = {**environment(component), VARIABLE: secret}
        variables |= {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        assert variables["MAYFLY_NATS_URL"] == "tls://0.queue:80"
        variables["MAYFLY_NATS_URL"] = f"tls://0.queue:{self.cluster.nodes[0].port}"
        command = [word.replace(UNPACKED, str(directory)) for word in component["code"][self.name]["entrypoint"]]
        with (self.directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [*NAMED, *command],
                env={name: value.replace(UNPACKED, str(directory)) for name, value in variables.items()}
                | {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
                cwd=self.directory,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with its children, as the end of a container would
            process.wait()


async def until(client: httpx.AsyncClient, url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until *url* answers 200."""
    async with asyncio.timeout(60):
        while True:
            assert process.poll() is None
            try:
                if (await client.get(url)).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)


@asynccontextmanager
async def servers(directory: Path) -> AsyncIterator[Cluster]:
    """Start the three with the files of their archives, as they are but for ports and paths."""
    secrets = directory / "secrets"
    (secrets / "worker/docker").mkdir(parents=True)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (secrets / "worker/docker" / name).write_text(name)
    made = runpy.run_path(str(KUMORI / "make-secrets"))["make"](secrets, ("localhost",))
    nodes: list[Node] = [Named(name, directory / name) for name in NAMES]
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
