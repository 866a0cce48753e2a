"""
The installation under test, as processes: nats-servers, two API servers and two workers, each kept by a supervisor of
the test; a registry; and, for each process and nats-server, a proxy in between that can be cut.

What each worker and each nats-server stores is on a small tmpfs of its own, which can be filled. The Python processes
run with libfaketime, so that the clock of each can be put forward or back while it runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from mayfly.bus.connection import Bus, connect, translated
from mayfly.bus.schema import bootstrap
from mayfly.bus.stores import Stores
from mayfly.containers import mounts
from mayfly.domain.errors import QueueUnavailable
from mayfly.domain.ids import WorkerId
from mayfly.ops.nats_config import ADMIN, API, ROLES, WORKER, server_config
from mayfly.ops.secrets import Wanted, create
from mayfly.ops.up import bundled_nats_server
from mayfly.services.tokens import write_new_key
from mayfly.settings import BootstrapSettings, NatsSettings
from tests.chaos.history import Limits
from tests.chaos.processes import Kept
from tests.chaos.proxy import Proxy
from tests.chaos.witness import Witness
from tests.support.api import make_certificates
from tests.support.cluster import NAMES, Cluster, Node, adapted
from tests.support.images import build_and_push
from tests.support.nats import free_port
from tests.support.registry import Registry

APIS: Final = ("api-1", "api-2")
WORKERS: Final = ("worker-1", "worker-2")
TIMEOUTS_S: Final = {
    "long": 25
}  # longer than a lost worker's slot is kept, so that its containers can be seen after it
RUNTIMES: Final = ("native", "crun")
RUNTIME: Final = RUNTIMES[0]
SLOTS: Final = 4
LIMITS: Final = Limits(platform=7, per_user=4, per_function={"narrow": 2, "long": 1})
"""M is less than the slots of both workers: so it is M that holds when they are all free."""
STORE_BYTES: Final = 512 << 20
RESPONSES_BYTES: Final = 96 << 20
WORKER_BYTES: Final = 64 << 20
FAKETIME: Final = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
PASSWORD: Final = "correct horse battery"
FILLER: Final = "filler"
ANSWER_S: Final = 60.0


def faketime() -> Path | None:
    """Where libfaketime is on this machine."""
    return next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


class Disk:
    """A small file system of the test's, which can be filled."""

    def __init__(self, directory: Path, size: int) -> None:
        """Mount it."""
        directory.mkdir(mode=0o755)
        self.directory = directory
        mounts.mount("chaos", directory, "tmpfs", data=f"size={size},mode=755")

    def fill(self) -> int:
        """Write until there is no room; return how many bytes that took."""
        with (self.directory / FILLER).open("ab", buffering=0) as filler:
            for size in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        filler.write(bytes(size))
            return filler.tell()

    @property
    def free_bytes(self) -> int:
        """How much room there is."""
        found = os.statvfs(self.directory)
        return found.f_bavail * found.f_frsize

    def free(self) -> None:
        """Give the room back."""
        (self.directory / FILLER).unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount it."""
        mounts.unmount(self.directory, detach=True)


@dataclass
class NatsNode:
    """One nats-server."""

    kept: Kept
    port: int
    monitor_port: int
    disk: Disk

    async def monitor(self, path: str) -> dict[str, Any]:
        """Ask its monitoring port."""
        async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
            return dict((await client.get(f"http://127.0.0.1:{self.monitor_port}/{path}")).json())

    async def is_healthy(self, _: object = None) -> bool:
        """Whether it says that all of JetStream is in order."""
        try:
            return (await self.monitor("healthz")).get("status") == "ok"
        except (httpx.HTTPError, ValueError):
            return False


@dataclass
class User:
    """Somebody who calls."""

    name: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        """What authenticates a request."""
        return {"Authorization": f"Bearer {self.token}"}


class Operator:
    """
    The operator's eyes: a connection to NATS, past the proxies, opened anew whenever it was closed for good.

    Every method raises QueueUnavailable while NATS cannot be asked.
    """

    def __init__(self) -> None:
        """Not connected."""
        self.settings: NatsSettings | None = None
        self._stack = AsyncExitStack()
        self._bus: Bus | None = None

    async def bus(self) -> Bus:
        """Have a connection."""
        if self._bus is None or self._bus.closed.is_set():
            assert self.settings is not None
            await self.close()
            self._bus = await self._stack.enter_async_context(connect(self.settings, role=ADMIN))
        return self._bus

    async def close(self) -> None:
        """Disconnect."""
        self._bus = None
        await self._stack.aclose()

    async def leader(self, stream: str) -> str | None:
        """Which node leads a stream, if one does."""
        with translated("ask for a leader"):
            info = await (await self.bus()).js.stream_info(stream)
        return info.cluster.leader if info.cluster else None

    async def hears(self, kept: Kept, seen: dict[str, int]) -> bool:
        """Whether a worker has given a sign of life since the last question; *seen* remembers."""
        name = worker_id(kept)
        if name is None:
            return False
        try:
            entry = await Stores.on(await self.bus()).workers.get(WorkerId(name))
        except QueueUnavailable:
            return False
        return entry is not None and entry.revision > seen.setdefault(name, entry.revision)


@dataclass
class Installation:
    """All of it."""

    directory: Path
    witness: Witness
    registry: Registry
    operator: Operator = field(default_factory=Operator)
    access: dict[str, dict[str, Any]] = field(default_factory=dict)  # how each role connects, without a proxy
    nats: dict[str, NatsNode] = field(default_factory=dict)
    apis: dict[str, Kept] = field(default_factory=dict)
    workers: dict[str, Kept] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    disks: dict[str, Disk] = field(default_factory=dict)  # of the workers
    proxies: dict[str, dict[str, Proxy]] = field(default_factory=dict)  # by process, then by nats-server
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)
    users: list[User] = field(default_factory=list)
    image: str = ""
    replicas: int = 1
    runtime: str = RUNTIME

    @property
    def kept(self) -> dict[str, Kept]:
        """Every process that is kept, by name."""
        return {**{name: node.kept for name, node in self.nats.items()}, **self.apis, **self.workers}

    def url(self, api: str) -> str:
        """Where an API server listens."""
        return f"https://127.0.0.1:{self.ports[api]}"

    def client(self, api: str, **options: Any) -> httpx.AsyncClient:
        """Make a client of one API server."""
        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(
            base_url=self.url(api), verify=self.tls, timeout=ANSWER_S, limits=limits, trust_env=False, **options
        )

    def clock_file(self, name: str) -> Path:
        """What libfaketime reads: by how much the clock of a process is off."""
        return self.directory / f"{name}.clock"

    async def is_api_ready(self, kept: Kept) -> bool:
        """Whether an API server would take calls."""
        try:
            async with self.client(kept.name) as client:
                return (await client.get("/readyz", timeout=2)).status_code == 200
        except httpx.HTTPError:
            return False


def worker_id(kept: Kept) -> str | None:
    """The id that a worker's present life has given itself."""
    found = [str(event["worker"]) for event in kept.events() if event.get("event") == "worker.ready"]
    return found[-1] if found else None


async def is_worker_ready(kept: Kept) -> bool:
    """Whether it has said so."""
    return worker_id(kept) is not None


@asynccontextmanager
async def installation(replicas: int, runtime: str = RUNTIME) -> AsyncIterator[Installation]:
    """
    Start everything, with one nats-server or three and containers by *runtime*, and three users who have two functions
    each.
    """
    async with AsyncExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="mayfly-chaos-"))
        directory.chmod(0o711)
        stack.callback(_remove, directory)
        witness = Witness(directory, WORKERS)
        registry = Registry()
        made = Installation(directory, witness, registry, replicas=replicas, runtime=runtime)
        stack.enter_context(witness)
        await stack.enter_async_context(registry)
        made.image = await _push(made)
        await _start_nats(made, stack)
        await _start_proxies(made, stack)
        await _start_roles(made, stack)
        await _register(made)
        yield made


async def _push(made: Installation) -> str:
    files = {"/bin/witness": made.witness.program}
    return await build_and_push(
        made.registry.url, "witness", files=files, modes={"/bin/witness": 0o755}, entrypoint=["/bin/witness"]
    )


def _remove(directory: Path) -> None:
    """Remove the directory, and below it only what is not mounted."""
    for point in sorted((each.point for each in mounts.mounts() if directory in each.point.parents), reverse=True):
        mounts.unmount(point, detach=True)
    import shutil  # noqa: PLC0415

    shutil.rmtree(directory, ignore_errors=True)


# --- NATS ---------------------------------------------------------------------------------------------------------


async def _start_nats(made: Installation, stack: AsyncExitStack) -> None:
    if made.replicas == 1:
        _configure_one(made)
    else:
        _configure_cluster(made)
    for node in made.nats.values():
        stack.callback(node.disk.close)
    for node in made.nats.values():
        await node.kept.start()
        stack.push_async_callback(node.kept.stop)
    for node in made.nats.values():
        await node.kept.until_ready()
    made.operator.settings = NatsSettings(**made.access[ADMIN])
    stack.push_async_callback(made.operator.close)
    wanted = BootstrapSettings(
        **made.access[ADMIN],
        nats_replicas=made.replicas,
        max_activations=LIMITS.platform,
        max_activations_per_user=LIMITS.per_user,
        responses_max_bytes=RESPONSES_BYTES,
    )
    await bootstrap(await made.operator.bus(), wanted)


def _configure_one(made: Installation) -> None:
    disk = Disk(made.directory / "nats-1.store", STORE_BYTES)
    port, monitor = free_port(), free_port()
    passwords = {role: f"{role}-password" for role in ROLES}
    config = json.loads(server_config(port=port, store=disk.directory, passwords=passwords))
    _add_node(made, "nats-1", config | {"http": f"127.0.0.1:{monitor}"}, port=port, monitor=monitor, disk=disk)
    for role, password in passwords.items():
        file = made.directory / f"{role}.password"
        file.write_text(password)
        made.access[role] = {
            "nats_url": f"nats://127.0.0.1:{port}",
            "nats_user": role,
            "nats_password_file": file,
        }


def _configure_cluster(made: Installation) -> None:
    secrets = made.directory / "secrets"
    secrets.mkdir(mode=0o700)
    create(secrets, Wanted())
    cluster = Cluster(secrets, [Node(name, secrets / name) for name in NAMES])
    routes = {node.name: node.route_port for node in cluster.nodes}
    for node in cluster.nodes:
        disk = Disk(made.directory / f"{node.name}.store", STORE_BYTES)
        config = json.loads(adapted(node, routes))
        config["jetstream"]["store_dir"] = str(disk.directory)
        config["cluster"]["no_advertise"] = True  # or clients would learn the way round the proxies
        _add_node(made, node.name, config, port=node.port, monitor=node.monitor_port, disk=disk)
    for role in ROLES:
        made.access[role] = cluster.access(role)


def _add_node(made: Installation, name: str, config: dict[str, Any], *, port: int, monitor: int, disk: Disk) -> None:
    file = made.directory / f"{name}.conf"
    file.write_text(json.dumps(config))
    file.chmod(0o600)

    async def is_ready(_: Kept) -> bool:
        return await node.is_healthy()

    kept = Kept(
        name, [str(bundled_nats_server()), "-c", str(file)], log=made.directory / f"{name}.log", is_ready=is_ready
    )
    node = NatsNode(kept, port, monitor, disk)
    made.nats[name] = node


async def _start_proxies(made: Installation, stack: AsyncExitStack) -> None:
    for process in (*APIS, *WORKERS):
        made.proxies[process] = {
            name: await stack.enter_async_context(Proxy(node.port)) for name, node in made.nats.items()
        }


def _access_through_proxies(made: Installation, process: str, role: str) -> dict[str, Any]:
    scheme, host = ("tls", "localhost") if made.replicas > 1 else ("nats", "127.0.0.1")
    urls = (f"{scheme}://{host}:{proxy.port}" for proxy in made.proxies[process].values())
    return {**made.access[role], "nats_url": ",".join(urls)}


# --- API servers and workers --------------------------------------------------------------------------------------


async def _start_roles(made: Installation, stack: AsyncExitStack) -> None:
    certificates = make_certificates(made.directory)
    made.tls = ssl.create_default_context(cafile=certificates.ca_file)
    keys = made.directory / "token-keys"
    keys.mkdir(mode=0o700)
    write_new_key(keys)
    for name in APIS:
        made.ports[name] = free_port()
        settings = {
            "listen": f"127.0.0.1:{made.ports[name]}",
            "tls_certificate_file": certificates.certificate_file,
            "tls_key_file": certificates.key_file,
            "token_keys_dir": keys,
            "access_token_s": 86_400,
            "drain_s": 0.5,
        }
        made.apis[name] = _role(made, name, API, settings, made.is_api_ready)
    for name in WORKERS:
        disk = made.disks[name] = Disk(made.directory / f"{name}.store", WORKER_BYTES)
        stack.callback(disk.close)
        settings = {
            "slots": SLOTS,
            "state_dir": disk.directory / "state",
            "image_dir": disk.directory / "images",
            "launcher_dir": made.witness.launcher_dir(name),
            "private_registries": made.registry.url,
            "plain_http_registries": made.registry.url,
            "runtime": made.runtime,
        }
        made.workers[name] = _role(made, name, WORKER, settings, is_worker_ready)
    for kept in (*made.apis.values(), *made.workers.values()):
        await kept.start()
        stack.push_async_callback(kept.stop)
    for kept in (*made.apis.values(), *made.workers.values()):
        await kept.until_ready()


def _role(made: Installation, name: str, role: str, settings: dict[str, Any], is_ready: Any) -> Kept:
    given = {**settings, **_access_through_proxies(made, name, role), "log_format": "json"}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAYFLY_")}
    environment |= {f"MAYFLY_{key.upper()}": str(value) for key, value in given.items()}
    made.clock_file(name).write_text("+0\n")
    if library := faketime():
        environment |= {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(made.clock_file(name)),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DISABLE_SHM": "1",
            "NO_FAKE_STAT": "1",
        }
    command = [sys.executable, "-m", "mayfly", role]
    return Kept(name, command, log=made.directory / f"{name}.log", environment=environment, is_ready=is_ready)


async def _register(made: Installation) -> None:
    async with made.client(APIS[0]) as client:
        for name in ("ada", "bob", "cyd"):
            answer = await client.post("/v1/users", json={"username": name, "password": PASSWORD})
            answer.raise_for_status()
            form = {"grant_type": "password", "username": name, "password": PASSWORD}
            answer = await client.post("/v1/tokens", data=form)
            answer.raise_for_status()
            user = User(name, answer.json()["access_token"])
            made.users.append(user)
            for function, limit in {"witness": None, **LIMITS.per_function}.items():
                limits = {"timeout_s": TIMEOUTS_S.get(function, 8), "memory_mib": 64, "max_concurrency": limit}
                body = {"name": function, "image": made.image, "limits": limits}
                answer = await client.post("/v1/functions", json=body, headers=user.headers)
                answer.raise_for_status()
