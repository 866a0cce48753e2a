"""
A real API server in a process of its own, behind TLS on a free port, against a NATS server of the test's.

    async with NatsServer() as nats:
        await bootstrapped(nats.url)
        async with ApiServer(nats.url, tmp_path) as api:
            async with api.client() as client:
                await client.get("/healthz")
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mayfly.api.app import create_app
from mayfly.api.state import ApiState
from mayfly.bus.connection import connect
from mayfly.bus.schema import bootstrap
from mayfly.domain.ids import new_id
from mayfly.services.tokens import write_new_key
from mayfly.settings import ApiSettings, BootstrapSettings, NatsSettings
from tests.support.leaks import leaks
from tests.support.sealing import SealingKeys

PROGRAM = "from mayfly.settings import ApiSettings, load; from mayfly.api.server import run; run(load(ApiSettings))"
START_S = 20
NO_BACK_OFF = dict.fromkeys(
    ("login_failures_per_user_and_address", "login_failures_per_user", "login_failures_per_address"), 1_000_000
)
"""All tests come from one address, and many fail to log in."""
PASSWORD = "correct horse battery"


async def bootstrapped(nats_url: str, **settings: Any) -> None:
    """Make the streams and buckets; *settings* are those of `bootstrap`, such as `max_activations`."""
    async with connect(NatsSettings(nats_url=nats_url), role="bootstrap") as bus:
        await bootstrap(bus, BootstrapSettings(nats_url=nats_url, **settings))


@dataclass(frozen=True)
class Certificates:
    """A certificate authority and one certificate of its for the loopback."""

    ca_file: Path
    certificate_file: Path
    key_file: Path


def make_certificates(directory: Path) -> Certificates:
    """Make a CA and a server certificate that are good for a day."""
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Mayfly test CA")])
    ca = _certificate(ca_name, ca_name, ca_key.public_key(), ca=True).sign(ca_key, hashes.SHA256())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    addresses = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = _certificate(ca_name, name, key.public_key(), ca=False)
    leaf = builder.add_extension(x509.SubjectAlternativeName(addresses), critical=False).sign(ca_key, hashes.SHA256())
    files = Certificates(directory / "ca.crt", directory / "api.crt", directory / "api.key")
    files.ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    files.certificate_file.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    files.key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def _certificate(
    issuer: x509.Name, subject: x509.Name, public_key: ec.EllipticCurvePublicKey, *, ca: bool
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        .add_extension(usage, critical=True)
    )


@asynccontextmanager
async def in_process(
    nats_url: str, directory: Path, **settings: Any
) -> AsyncIterator[tuple[ApiState, httpx.AsyncClient]]:
    """
    Run an API server in this process, without TLS or a gateway: what it holds, and a client. A second one of the same
    *directory* has the first one's token keys.
    """
    keys = token_keys_in(directory)
    app = create_app(ApiSettings(nats_url=nats_url, token_keys_dir=keys, **settings))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://test") as client,
    ):
        yield app.state.mayfly, client


def token_keys_in(directory: Path) -> Path:
    """Make token keys there, unless there are any."""
    keys = directory / "token-keys"
    if not keys.exists():
        keys.mkdir()
        write_new_key(keys)
    return keys


class ApiServer:
    """The process. Its log is read as it comes; `log` has every event so far."""

    def __init__(self, nats_url: str, directory: Path, **settings: object) -> None:
        """*settings* are further ones of the API server's, such as `registration="closed"`."""
        self.certificates = make_certificates(directory)
        self.token_keys = token_keys_in(directory)  # a second server of one directory has the first one's
        self.sealing = SealingKeys(directory / "sealing")
        self._environment = {
            "MAYFLY_NATS_URL": nats_url,
            "MAYFLY_LISTEN": "127.0.0.1:0",
            "MAYFLY_TLS_CERTIFICATE_FILE": str(self.certificates.certificate_file),
            "MAYFLY_TLS_KEY_FILE": str(self.certificates.key_file),
            "MAYFLY_TOKEN_KEYS_DIR": str(self.token_keys),
            "MAYFLY_SEALING_KEYS_DIR": str(self.sealing.public),
            "MAYFLY_LOG_FORMAT": "json",
            "MAYFLY_DRAIN_S": "0",
            **{f"MAYFLY_{name.upper()}": str(value) for name, value in (NO_BACK_OFF | settings).items()},
        }
        self.log: list[dict[str, Any]] = []
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def tls(self) -> ssl.SSLContext:
        """What a client trusts."""
        return ssl.create_default_context(cafile=self.certificates.ca_file)

    def client(self, token: str | None = None, **options: Any) -> httpx.AsyncClient:
        """Make a client, with a token or without."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.AsyncClient(base_url=self.url, verify=self.tls, headers=headers, timeout=30, **options)

    async def registered(self, username: str | None = None, password: str = PASSWORD) -> dict[str, Any]:
        """Register a user and log in; what POST /v1/tokens answered, with `username`."""
        name = username or f"u-{new_id()}"
        async with self.client() as client:
            answer = await client.post("/v1/users", json={"username": name, "password": password})
            assert answer.status_code == 201, answer.text
            form = {"grant_type": "password", "username": name, "password": password}
            answer = await client.post("/v1/tokens", data=form)
            assert answer.status_code == 200, answer.text
        return {**answer.json(), "username": name}

    async def event(self, name: str, **fields: object) -> dict[str, Any]:
        """Wait until the server has logged this event with these fields."""
        async with asyncio.timeout(START_S):
            while True:
                for line in self.log:
                    if line.get("event") == name and fields.items() <= line.items():
                        return line
                await self._news.wait()
                self._news.clear()

    async def __aenter__(self) -> ApiServer:
        """Start it, and wait until it listens."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, env=inherited | self._environment, stderr=asyncio.subprocess.PIPE
        )
        self._news = asyncio.Event()
        self._reader = asyncio.create_task(self._read_log(), name="read-log")
        started = asyncio.create_task(self.event("api.started"), name="started")
        ended = asyncio.create_task(self.process.wait(), name="ended")
        await asyncio.wait([started, ended], timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not started.done() or started.exception():
            started.cancel()
            await self.__aexit__(None, None, None)
            raise AssertionError(f"the API server did not start: {self.log}")
        self.port = started.result()["port"]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it. Its log must have no secret in it."""
        if self.process.returncode is None:
            self.process.terminate()
            try:
                async with asyncio.timeout(10):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
        await self._reader
        if kind is None:
            secrets = {"a password": PASSWORD} | self._gateway_secrets()
            assert leaks("\n".join(map(json.dumps, self.log)), secrets) == []

    def _gateway_secrets(self) -> dict[str, str]:
        file = self._environment.get("MAYFLY_GATEWAY_SECRET_FILE")
        lines = Path(file).read_text().split() if file and Path(file).exists() else []
        return {f"the gateway's secret {number}": line for number, line in enumerate(lines)}

    async def _read_log(self) -> None:
        assert self.process.stderr
        async for line in self.process.stderr:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.log.append({"event": "unreadable", "line": line.decode(errors="replace")})
            self._news.set()
