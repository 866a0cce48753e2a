"""What only the docker driver does: TLS, roots brought to a daemon, containers that outlive a worker's view of them."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mayfly.containers.choose import DockerAddress, choose_runtime
from mayfly.containers.docker.config import container_name
from mayfly.containers.docker.rootfs import Roots
from mayfly.containers.docker.runtime import DockerRuntime
from mayfly.containers.runtime import Call, EndReason
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.limits import PARAMETER_MAX_BYTES
from tests.contract.exceptions import EXCEPTIONS
from tests.support import dockerd_bare
from tests.support.containers import SCALE, World, make_rootfs, open_runtime, spoken
from tests.support.need import need

pytestmark = [pytest.mark.root, pytest.mark.F9]

ROOT = Path(__file__).parent.parent.parent
SOON = datetime.timedelta(hours=1)


@pytest.fixture(params=["docker"])
def driver(request: pytest.FixtureRequest, docker_daemon: dockerd_bare.Daemon) -> str:
    """Only docker."""
    return str(request.param)


def images(daemon: dockerd_bare.Daemon) -> set[str]:
    """The tags that the daemon has."""
    return {tag for each in daemon.ask("GET", "/images/json").json() for tag in each["RepoTags"] or []}


# --- TLS ----------------------------------------------------------------------------------------------------------


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


def test_a_daemon_of_another_authority_is_refused(
    tls_daemon: dockerd_bare.Daemon, state_dir: Path, tmp_path: Path
) -> None:
    """A server that the given ca.pem does not vouch for gets nothing."""
    Authority(tmp_path).make("client", ExtendedKeyUsageOID.CLIENT_AUTH)
    with pytest.raises(RuntimeFailed, match="No Docker daemon answers"):
        choose_runtime("docker", state_dir=state_dir, docker=DockerAddress(host=tls_daemon.tcp, tls_dir=tmp_path))


# --- roots --------------------------------------------------------------------------------------------------------


async def test_many_calls_at_once_import_a_root_once(world: World, tmp_path: Path, docker_daemon: object) -> None:
    """Eight that need the same new image share one import."""
    assert isinstance(docker_daemon, dockerd_bare.Daemon)
    before = images(docker_daemon)
    own = World(world.runtime, make_rootfs(tmp_path / "own"))
    endings = await asyncio.gather(*(own.run("echo", "x") for _ in range(8)))
    assert {each.stdout for each in endings} == {b"x\n"}
    assert len(images(docker_daemon) - before) == 1


async def test_an_evicted_root_leaves_the_daemon_and_a_pruned_one_comes_back(
    world: World, tmp_path: Path, docker_daemon: dockerd_bare.Daemon
) -> None:
    """Images follow the worker's store; one that somebody else removed is imported anew at the next call."""
    runtime = world.runtime
    assert isinstance(runtime, DockerRuntime)
    before = images(docker_daemon)
    own = World(runtime, make_rootfs(tmp_path / "own"))
    await own.run("true")
    [tag] = images(docker_daemon) - before
    assert docker_daemon.ask("DELETE", f"/images/{tag}").status_code == 200
    assert (await own.run("echo", "again")).stdout == b"again\n"
    assert images(docker_daemon) - before == {tag}
    (tmp_path / "own").rename(tmp_path / "evicted")
    await runtime.roots.sweep()
    assert images(docker_daemon) == before


async def test_a_root_that_cannot_be_read_to_its_end_is_no_image(
    world: World, tmp_path: Path, docker_daemon: dockerd_bare.Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tar that breaks off is refused with the reason, and no half image is left to run calls in."""
    before = images(docker_daemon)
    own = World(world.runtime, make_rootfs(tmp_path / "own"))

    def breaks_off(_: Path, __: bytes, to: object) -> None:
        to.write(b"\0" * 512)  # type: ignore[attr-defined]
        raise OSError("the disk is broken")

    with monkeypatch.context() as patch:
        patch.setattr("mayfly.containers.docker.rootfs.write_tar", breaks_off)
        with pytest.raises(RuntimeFailed, match="the disk is broken") as caught:
            await own.run("true")
        assert caught.value.ran == "no"
    assert images(docker_daemon) == before
    assert (await own.run("echo", "well")).stdout == b"well\n"


async def test_a_deleted_init_is_only_that_containers(world: World) -> None:
    """A function that removes or overwrites the init gets its answer, and so does the next one."""
    script = f"rm -f {world.init_path}; echo x > {world.init_path}; echo done"
    assert (await world.shell(script)).stdout == b"done\n"
    assert (await world.shell(script)).stdout == b"done\n"


# --- containers ---------------------------------------------------------------------------------------------------


async def test_a_function_cannot_write_its_own_ending(world: World) -> None:
    """What looks like the init's last words, at the end of stderr, is the function's log and nothing more."""
    script = "head -c 48 /dev/zero >&2; exit 4"
    ending = await world.shell(script)
    assert (ending.reason, ending.exit_code, ending.stderr) == (EndReason.EXITED, 4, b"\0" * 48)


async def test_reap_removes_what_runs_and_what_is_held(rootfs: Path, state_dir: Path, driver: str) -> None:
    """The next incarnation in the same place removes a dead one's containers; another worker's are left alone."""
    first = World(open_runtime(driver, state_dir=state_dir), rootfs)
    other = World(open_runtime(driver, state_dir=state_dir / "other"), rootfs)
    async with other.held() as neighbour:
        held = await first.create()
        assert len(first.ids()) == 1
        assert await first.runtime.reap() == 1  # stands for its successor: the daemon cannot tell them apart
        assert not first.left()
        assert await first.runtime.reap() == 0
        assert (await neighbour.run(Call(argv=("echo", "x")), timeout_s=20 * SCALE)).stdout == b"x\n"
        await held.remove()
    for world in (first, other):
        await world.runtime.close()
    (state_dir / "other" / "containers.lock").unlink()
    (state_dir / "other").rmdir()


async def test_what_is_asked_of_the_daemon_is_in_force(world: World, docker_daemon: dockerd_bare.Daemon) -> None:
    """The daemon's own view: no network, no capability, no restart, no log file, no swap, the user of the image."""
    async with world.held(world.spec(memory_mib=64)) as container:
        seen = docker_daemon.ask("GET", f"/containers/{container_name(container.id)}/json").json()
    host = seen["HostConfig"]
    assert host["NetworkMode"] == "none"
    assert (host["CapDrop"], host["CapAdd"], host["Privileged"]) == (["ALL"], None, False)
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["Memory"] == host["MemorySwap"] == 64 << 20
    assert (host["RestartPolicy"]["Name"], host["AutoRemove"], host["LogConfig"]["Type"]) == ("no", False, "none")
    assert host["Binds"] is None
    assert seen["Config"]["User"] == "0:0"


def test_every_exception_is_documented() -> None:
    """The page for operators has each thing that docker cannot keep, with its reason, word for word."""
    page = " ".join((ROOT / "docs" / "howto" / "run-on-docker.md").read_text(encoding="utf-8").split())
    for name, reason in EXCEPTIONS["docker"].items():
        assert f"**{name}**: {reason}" in page


def test_roots_are_the_workers_own() -> None:
    """Two workers never share a name for a root, so none removes the other's."""
    here = ROOT / "tests"
    one, two = (Roots(None, owner=owner, init=b"") for owner in ("a", "b"))  # type: ignore[arg-type]
    assert one._tag(here) == one._tag(here) != two._tag(here)
    assert one._tag(here) != Roots(None, owner="a", init=b"another")._tag(here)  # type: ignore[arg-type]
