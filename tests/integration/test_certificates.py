"""Real roles are scraped for when their certificates end: what they were started with, and what nats-server shows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from mayfly.bus.connection import connect
from mayfly.bus.schema import bootstrap
from mayfly.containers.fake import FakeRuntime
from mayfly.ops.certificates import Authority
from mayfly.settings import BootstrapSettings, WorkerSettings
from mayfly.worker import serve as serving
from tests.support.api import ApiServer
from tests.support.nats import NatsServer, free_port
from tests.support.scrape import Scrape, scrape

pytestmark = [pytest.mark.D4, pytest.mark.D7]

ENDS = "mayfly_certificate_not_after_timestamp_seconds"


def end_of(path: Path) -> float:
    """When the certificate in a file ends."""
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()


def ends(found: Scrape) -> dict[str, float]:
    """What a scrape says of certificates, by name."""
    return {labels["certificate"]: found.value(ENDS, **labels) for labels in found.labels(ENDS)}


@dataclass
class Secured:
    """A nats-server behind TLS, and what its certificate is made by."""

    server: NatsServer
    directory: Path
    authority: Authority

    @property
    def ca_file(self) -> Path:
        """What its clients trust."""
        return self.directory / "ca.crt"

    @property
    def certificate_file(self) -> Path:
        """What it shows them."""
        return self.directory / "nats.crt"

    def issue(self) -> None:
        """Make it a certificate; it takes it when it is started."""
        issued = self.authority.issue(("localhost", "127.0.0.1"))
        self.certificate_file.write_bytes(issued.certificate)
        (self.directory / "nats.key").write_bytes(issued.key)


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[Secured]:
    """One with the streams and buckets."""
    directory = tmp_path / "nats"
    directory.mkdir()
    authority = Authority(directory)
    authority.ensure()
    files = {"cert_file": str(directory / "nats.crt"), "key_file": str(directory / "nats.key")}
    # A client that says nothing, as the probe of the start, is greeted in clear text after a second.
    made = Secured(NatsServer({"tls": {**files, "handshake_first": "1s"}}), directory, authority)
    made.issue()
    async with made.server:
        settings = BootstrapSettings(nats_url=made.server.url, nats_ca_file=made.ca_file)
        async with connect(settings, role="bootstrap") as bus:
            await bootstrap(bus, settings)
        yield made


async def test_an_api_server_shows_its_own_and_those_of_nats(
    nats: Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    `own` is the certificate with which it started, whatever is in the file since; `nats` is the one of the connection:
    none while there is no connection, and the new one as soon as the nats-server was started again with it.
    """
    async with ApiServer(nats.server.url, tmp_path, nats_ca_file=nats.ca_file, metrics_listen="127.0.0.1:0") as server:
        port = (await server.event("metrics.started"))["port"]
        own = server.certificates.certificate_file
        before = {"own": end_of(own), "authority": end_of(nats.ca_file), "nats": end_of(nats.certificate_file)}
        assert ends(await scrape(port)) == before
        assert len(set(before.values())) == 3

        own.write_bytes(nats.authority.issue(("localhost",)).certificate)
        monkeypatch.setattr("mayfly.ops.certificates.SERVER_DAYS", 5)
        nats.issue()
        assert ends(await scrape(port)) == before

        await nats.server.kill()
        await until(port, {"own": before["own"], "authority": before["authority"]}, connected=False)
        await nats.server.start()
        await until(port, before | {"nats": end_of(nats.certificate_file)})


async def test_a_worker_shows_the_authority_and_the_certificate_of_nats(
    nats: Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has none of its own, and no sample that says so; without a connection nobody shows it one."""
    authority = {"authority": end_of(nats.ca_file)}
    async with worker(nats.server, tmp_path, monkeypatch, nats_ca_file=nats.ca_file) as port:
        await until(port, authority | {"nats": end_of(nats.certificate_file)})
        await nats.server.kill()
        await until(port, authority, connected=False)
        await nats.server.start()  # it says goodbye there
        await until(port, authority | {"nats": end_of(nats.certificate_file)})


async def test_without_tls_to_nats_there_is_no_sample_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `mayfly up`, whose NATS is on the loopback: the API server shows its own, the worker nothing."""
    async with NatsServer() as server:
        settings = BootstrapSettings(nats_url=server.url)
        async with connect(settings, role="bootstrap") as bus:
            await bootstrap(bus, settings)
        async with ApiServer(server.url, tmp_path, metrics_listen="127.0.0.1:0") as api:
            port = (await api.event("metrics.started"))["port"]
            assert ends(await scrape(port)) == {"own": end_of(api.certificates.certificate_file)}
        async with worker(server, tmp_path, monkeypatch) as port:
            await until(port, {})


async def until(port: int, wanted: dict[str, float], *, connected: bool = True) -> None:
    """Scrape until a role shows these ends and no others, with its connection to NATS or without."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(httpx.ConnectError):  # it is just starting
                found = await scrape(port)
                if ends(found) == wanted and found.value("mayfly_nats_connected") == connected:
                    return
            await asyncio.sleep(0.05)


@asynccontextmanager
async def worker(
    nats: NatsServer, directory: Path, monkeypatch: pytest.MonkeyPatch, **settings: object
) -> AsyncIterator[int]:
    """Run a worker that starts no container; it is scraped at this port."""
    runtime = FakeRuntime()
    monkeypatch.setattr(serving, "choose_runtime", lambda *_, **__: runtime)
    port = free_port()
    made = WorkerSettings(
        nats_url=nats.url,
        metrics_listen=f"127.0.0.1:{port}",
        runtime="docker",  # which asks nothing of this machine
        state_dir=directory / "state",
        image_dir=directory / "images",
        stop_grace_s=1,
        **settings,  # type: ignore[arg-type]
    )
    running = asyncio.create_task(serving.serve(made), name="worker")
    try:
        yield port
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
