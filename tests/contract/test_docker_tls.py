"""The docker driver at a daemon elsewhere: by TLS, with certificates on both sides, and over nothing less."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mayfly.containers.choose import DockerAddress, choose_runtime, explain_runtime
from mayfly.containers.docker.config import container_name
from mayfly.containers.docker.runtime import DockerRuntime
from mayfly.containers.runtime import Call, EndReason
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.limits import PARAMETER_MAX_BYTES
from tests.support import dockerd_bare
from tests.support.containers import SCALE, World, spoken
from tests.support.need import need

pytestmark = [pytest.mark.root, pytest.mark.F9]

SOON = datetime.timedelta(hours=1)


class Authority:
    """A certificate authority that makes what `docker --tlsverify` takes."""

    def __init__(self, directory: Path) -> None:
        """Make its own certificate."""
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
        basic = x509.BasicConstraints(ca=True, path_length=0)
        self.certificate = self._builder(self.name, self.key).add_extension(basic, critical=True)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        signed = self.certificate.add_extension(usage, critical=True).sign(self.key, hashes.SHA256())
        (directory / "ca.pem").write_bytes(signed.public_bytes(Encoding.PEM))

    def make(self, stem: str, usage: x509.ObjectIdentifier, *, prefix: str = "") -> None:
        """Make a certificate for 127.0.0.1 and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, stem)])
        where = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = self._builder(subject, key).add_extension(where, critical=False)
        signed = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False).sign(self.key, hashes.SHA256())
        (self.directory / f"{prefix}cert.pem").write_bytes(signed.public_bytes(Encoding.PEM))
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.directory / f"{prefix}key.pem").write_bytes(private)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - SOON).not_valid_after(now + SOON)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, cert.pem and key.pem of a client, server-cert.pem and server-key.pem of the daemon."""
    directory = tmp_path_factory.mktemp("tls")
    authority = Authority(directory)
    authority.make("client", ExtendedKeyUsageOID.CLIENT_AUTH)
    authority.make("server", ExtendedKeyUsageOID.SERVER_AUTH, prefix="server-")
    return directory


@pytest.fixture(scope="module")
def tls_daemon(prepared_host: None, certificates: Path) -> Iterator[dockerd_bare.Daemon]:
    """A daemon that listens with TLS as well."""
    need(dockerd_bare.PROGRAM, "dockerd")
    with dockerd_bare.dockerd(certificates) as daemon:
        yield daemon


@pytest.fixture
async def remote(
    tls_daemon: dockerd_bare.Daemon, certificates: Path, rootfs: Path, state_dir: Path
) -> AsyncIterator[World]:
    """The driver at a daemon that is reached by TLS."""
    address = DockerAddress(host=tls_daemon.tcp, tls_dir=certificates)
    runtime = choose_runtime("docker", state_dir=state_dir, docker=address)
    assert isinstance(runtime, DockerRuntime)
    try:
        yield World(runtime, rootfs)
        assert json.loads(tls_daemon.ask("GET", "/containers/json?all=1").text) == []
    finally:
        await runtime.close()


async def test_the_largest_parameter_comes_back_by_tls(remote: World) -> None:
    """TLS cannot close one half of a connection, and 1 MiB goes in and out all the same."""
    parameter = bytes(range(256)) * (PARAMETER_MAX_BYTES // 256)
    ending = await remote.run("cat", stdin=parameter)
    assert (ending.reason, ending.exit_code, ending.stdout) == (EndReason.EXITED, 0, parameter)


async def test_endings_are_told_by_tls(remote: World) -> None:
    """Exit code, log, time limit, memory limit and flood, as by the socket."""
    ending = await remote.shell("echo log >&2; exit 3")
    assert (ending.exit_code, ending.stdout, ending.stderr) == (3, b"", b"log\n")
    assert (await remote.run("escape_death", timeout_s=0.5)).reason is EndReason.TIMED_OUT
    eating = await remote.run("eat_memory", spec=remote.spec(memory_mib=48))
    assert eating.reason is EndReason.OUT_OF_MEMORY
    assert (await remote.run("yes")).reason is EndReason.RESULT_TOO_LARGE


async def test_twenty_calls_at_eight_at_once_by_tls(remote: World) -> None:
    """Answers are not mixed up on shared connections."""
    gate = asyncio.Semaphore(8)

    async def one(number: int) -> bytes:
        async with gate:
            return (await remote.run("cat", stdin=b"%d" % number)).stdout

    assert await asyncio.gather(*(one(number) for number in range(20))) == [b"%d" % number for number in range(20)]


async def test_a_lost_connection_ends_the_container(remote: World, tls_daemon: dockerd_bare.Daemon) -> None:
    """When the connection goes, the function dies at once, and nobody says how far it came."""
    container = await remote.create()
    running = asyncio.create_task(container.run(Call(argv=("escape_death",)), timeout_s=60))
    await spoken(container)
    container._attached.writer.transport.abort()  # type: ignore[union-attr]
    with pytest.raises(RuntimeFailed) as caught:
        await asyncio.wait_for(running, 20 * SCALE)
    assert caught.value.ran == "unknown"
    state = tls_daemon.ask("GET", f"/containers/{container_name(container.id)}/json").json()["State"]
    assert state["Running"] is False
    await container.remove()


def test_the_daemon_that_answers_is_shown(tls_daemon: dockerd_bare.Daemon, certificates: Path) -> None:
    """As `mayfly settings worker` does."""
    shown = explain_runtime("docker", docker=DockerAddress(host=tls_daemon.tcp, tls_dir=certificates))
    assert shown.name == "docker"
    assert shown.version == tls_daemon.ask("GET", "/version").json()["Version"]
    assert f"set by the operator; {tls_daemon.tcp}, API 1." in shown.reason


def test_a_daemon_of_another_authority_is_refused(
    tls_daemon: dockerd_bare.Daemon, state_dir: Path, tmp_path: Path
) -> None:
    """A server that the given ca.pem does not vouch for gets nothing; the settings to look at are named."""
    Authority(tmp_path).make("client", ExtendedKeyUsageOID.CLIENT_AUTH)
    address = DockerAddress(host=tls_daemon.tcp, tls_dir=tmp_path)
    words = r"No Docker daemon answers at 127.0.0.1:.*verify failed.*MAYFLY_DOCKER_HOST.*MAYFLY_DOCKER_TLS_DIR"
    with pytest.raises(RuntimeFailed, match=words):
        choose_runtime("docker", state_dir=state_dir, docker=address)


def test_a_client_of_another_authority_is_refused(
    tls_daemon: dockerd_bare.Daemon, certificates: Path, state_dir: Path, tmp_path: Path
) -> None:
    """The daemon takes only clients that its own authority vouches for; the settings to look at are named."""
    Authority(tmp_path).make("client", ExtendedKeyUsageOID.CLIENT_AUTH)
    shutil.copy(certificates / "ca.pem", tmp_path / "ca.pem")
    address = DockerAddress(host=tls_daemon.tcp, tls_dir=tmp_path)
    with pytest.raises(RuntimeFailed, match=r"No Docker daemon answers .*certificates in MAYFLY_DOCKER_TLS_DIR"):
        choose_runtime("docker", state_dir=state_dir, docker=address)


def test_a_server_by_another_name_is_refused(
    tls_daemon: dockerd_bare.Daemon, certificates: Path, state_dir: Path
) -> None:
    """Its certificate is for 127.0.0.1, so by the name of localhost it is somebody else."""
    address = DockerAddress(host=tls_daemon.tcp.replace("127.0.0.1", "localhost"), tls_dir=certificates)
    with pytest.raises(RuntimeFailed, match=r"No Docker daemon answers at localhost:.*verify failed"):
        choose_runtime("docker", state_dir=state_dir, docker=address)


def test_without_certificates_nobody_asks(tls_daemon: dockerd_bare.Daemon, state_dir: Path) -> None:
    """A tcp address alone is refused before a byte is sent: a daemon that takes such a one is everybody's."""
    with pytest.raises(RuntimeFailed, match="without MAYFLY_DOCKER_TLS_DIR"):
        choose_runtime("docker", state_dir=state_dir, docker=DockerAddress(host=tls_daemon.tcp))
