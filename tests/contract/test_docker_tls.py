"""The docker driver at a daemon elsewhere: by TLS, with certificates on both sides, and over nothing less."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mayfly.containers.choose import DockerAddress, choose_runtime, explain_runtime
from mayfly.containers.docker.config import container_name
from mayfly.containers.docker.runtime import DockerRuntime
from mayfly.containers.runtime import Call, EndReason
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.limits import PARAMETER_MAX_BYTES
from tests.support import dockerd_bare
from tests.support.containers import SCALE, World, spoken
from tests.support.docker_certificates import CLIENT, Authority, make_certificates
from tests.support.need import need

pytestmark = [pytest.mark.root, pytest.mark.F9]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, cert.pem and key.pem of a client, server-cert.pem and server-key.pem of the daemon."""
    return make_certificates(tmp_path_factory.mktemp("tls"))


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


@pytest.mark.long
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
    Authority(tmp_path).make("client", CLIENT)
    address = DockerAddress(host=tls_daemon.tcp, tls_dir=tmp_path)
    words = r"No Docker daemon answers at 127.0.0.1:.*verify failed.*MAYFLY_DOCKER_HOST.*MAYFLY_DOCKER_TLS_DIR"
    with pytest.raises(RuntimeFailed, match=words):
        choose_runtime("docker", state_dir=state_dir, docker=address)


def test_a_client_of_another_authority_is_refused(
    tls_daemon: dockerd_bare.Daemon, certificates: Path, state_dir: Path, tmp_path: Path
) -> None:
    """The daemon takes only clients that its own authority vouches for; the settings to look at are named."""
    Authority(tmp_path).make("client", CLIENT)
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
