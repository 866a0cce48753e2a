"""What the daemon grants and shows: one published port, no more rights than needed, nobody else's secrets."""

from __future__ import annotations

import errno
import json
import os
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mayfly.domain.limits import TIMEOUT_MAX_S
from tests.support.compose import ONE_SHOTS, compose, containers, docker, log_of
from tests.support.up import Up

pytestmark = pytest.mark.usefixtures("up")

INSIDE_ONLY = (4222, 6222, 8222, 9464, 7085, 9091)
"""NATS's clients, routes and monitoring; the roles' metrics; the gateway's status and metrics."""
WORKER_CAPABILITIES = {"SYS_ADMIN", "SETUID", "SETGID", "CHOWN", "DAC_OVERRIDE", "KILL", "FOWNER", "SETFCAP"}
SECRETS_CAPABILITIES = {"CHOWN", "DAC_OVERRIDE", "FOWNER"}
LAME_DUCK_S = 30  # of a nats-server, in its configuration
GRANTED = {"worker": WORKER_CAPABILITIES, "secrets": SECRETS_CAPABILITIES}
USERS = {"nats-1": 59801, "nats-2": 59801, "nats-3": 59801, "api-1": 59802, "api-2": 59802, "gateway": 636, "worker": 0}
SECRETS = {
    "gateway": {"secrets-gateway"},
    "api-1": {"secrets-api"},
    "api-2": {"secrets-api"},
    "worker": {"secrets-worker"},
    "bootstrap": {"secrets-admin"},
    **{f"nats-{number}": {f"secrets-nats-{number}"} for number in (1, 2, 3)},
}


@pytest.mark.F1
@pytest.mark.D4
def test_the_daemon_publishes_one_port() -> None:
    """Of all containers only the gateway has a published port, and only one."""
    published = {
        (each.service, inside, binding["HostPort"])
        for each in containers()
        for inside, bindings in (each.facts["NetworkSettings"]["Ports"] or {}).items()
        for binding in bindings or ()
    }
    port = str(urlsplit(os.environ["MAYFLY_E2E_URL"]).port)
    assert published == {("gateway", "9443/tcp", port)}


@pytest.mark.F1
@pytest.mark.parametrize("port", INSIDE_ONLY)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "facing"])
def test_no_inner_port_answers_on_this_machine(host: str, port: int) -> None:
    """A connection to it is refused, on the loopback and on the address that callers use."""
    address = urlsplit(os.environ["MAYFLY_E2E_URL"]).hostname if host == "facing" else host
    with socket.socket(socket.AF_INET6 if ":" in str(address) else socket.AF_INET) as probe:
        assert probe.connect_ex((address, port)) in (errno.ECONNREFUSED, errno.EADDRNOTAVAIL)


@pytest.mark.F1
def test_what_answers_on_the_loopback_is_the_gateway() -> None:
    """Port 8443 has the gateway's certificate, which no API server has."""
    port = urlsplit(os.environ["MAYFLY_E2E_URL"]).port
    trust = ssl.create_default_context(cafile=os.environ["MAYFLY_E2E_CA"])
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        trust.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        shown = tls.getpeercert(binary_form=True)
    own = Path(_mountpoint("secrets-gateway"), "gateway.crt").read_text(encoding="ascii")
    assert shown == ssl.PEM_cert_to_DER_cert(own[: own.index("-----END CERTIFICATE-----") + 26])


@pytest.mark.D4
def test_everybody_has_the_rights_that_were_promised() -> None:
    """User, capabilities and no_new_privs of the processes that run, and a root that cannot be written to."""
    for each in containers():
        host = each.facts["HostConfig"]
        assert host["ReadonlyRootfs"], each.service
        assert not host["Privileged"], each.service
        assert host["CapDrop"] == ["ALL"], each.service
        assert {name.removeprefix("CAP_") for name in host["CapAdd"] or ()} == GRANTED.get(each.service, set())
        assert host["Memory"] > 0, each.service
        assert host["PidsLimit"] > 0, each.service
        if each.service in ONE_SHOTS:
            continue
        status = each.status()
        assert set(status["Uid"].split()) == {str(USERS[each.service])}, each.service
        assert status["NoNewPrivs"] == "1", each.service
        assert (int(status["CapEff"], 16) == 0) == (each.service != "worker"), each.service


@pytest.mark.D4
def test_docker_starts_it_again_and_stops_it_in_time() -> None:
    """Whatever lasts comes back by itself, and gets longer to end than the longest call takes."""
    for each in containers():
        policy = each.facts["HostConfig"]["RestartPolicy"]["Name"]
        assert policy == {"secrets": "no", "bootstrap": "on-failure"}.get(each.service, "unless-stopped")
        if each.service not in ONE_SHOTS:
            least = LAME_DUCK_S if each.service.startswith("nats-") else TIMEOUT_MAX_S
            assert each.facts["Config"]["StopTimeout"] > least, each.service


@pytest.mark.D4
def test_each_role_sees_its_own_secrets_read_only() -> None:
    """No role has another's directory; the authority's key is in the one-shot `secrets` only."""
    for each in containers():
        if each.service == "secrets":
            continue
        assert each.secrets == SECRETS[each.service], each.service
        mounts = [mount for mount in each.facts["Mounts"] if mount["Destination"] == "/run/secrets/mayfly"]
        assert [mount["RW"] for mount in mounts] == [False], each.service


@pytest.mark.D4
def test_the_networks_are_as_narrow_as_drawn() -> None:
    """Who is on which network, and which of them have a way out."""
    members: dict[str, set[str]] = {}
    for each in containers():
        for name in each.facts["NetworkSettings"]["Networks"]:
            members.setdefault(name.partition("_")[2], set()).add(each.service)
    nats = {"nats-1", "nats-2", "nats-3"}
    assert members.pop("edge") == {"gateway"}
    assert members.pop("front") == {"gateway", "api-1", "api-2"}
    assert members.pop("bus") == {"api-1", "api-2", "worker", "bootstrap"} | nats
    assert members.pop("outside") == {"worker"}
    assert members in ({}, {"": {"secrets"}})  # the network `none`
    project = os.environ["COMPOSE_PROJECT_NAME"]
    for name, internal in {"edge": False, "front": True, "bus": True, "outside": False}.items():
        assert json.loads(docker("network", "inspect", f"{project}_{name}"))[0]["Internal"] == internal, name


@pytest.mark.D4
def test_no_secret_is_in_what_docker_shows() -> None:
    """Neither a container's description nor its log nor an image's history or configuration has one."""
    hidden = _secret_texts()
    assert len(hidden) >= 8
    shown = [docker("inspect", each.id) + log_of(each) for each in containers()]
    for name in ("nats", "api", "worker"):
        image = f"mayfly/{name}:0.1.0"
        shown += [docker("history", "--no-trunc", image), docker("image", "inspect", image)]
    assert [text[:12] for text in hidden if any(text in page for page in shown)] == []


def _secret_texts() -> set[str]:
    """A line of each private key, each password and each shared secret."""
    found = set()
    for name in ("ca", "gateway", "api", "worker", "admin", "nats-1", "nats-2", "nats-3"):
        for path in Path(_mountpoint(f"secrets-{name}")).rglob("*"):
            if path.suffix == ".key" or (name == "api" and path.suffix == ".pem"):
                found.add(path.read_text(encoding="ascii").splitlines()[1])
            elif path.suffix in (".password", ".secret"):
                found.update(path.read_text(encoding="ascii").split())
    return found


def _mountpoint(volume: str) -> str:
    name = f"{os.environ['COMPOSE_PROJECT_NAME']}_{volume}"
    return str(json.loads(docker("volume", "inspect", name))[0]["Mountpoint"])


def test_the_callers_authority_is_the_public_one(up: Up) -> None:
    """What clients were given is the file of the volume `secrets-public`, which has no key beside it."""
    public = Path(_mountpoint("secrets-public"))
    assert [path.name for path in public.iterdir()] == ["ca.crt"]
    assert (public / "ca.crt").read_bytes() == up.ca_file.read_bytes()


@pytest.mark.D4
def test_the_gateways_files_are_good() -> None:
    """What the one-shot `secrets` rendered for APISIX passes `mayfly gateway check`, and is the gateway's alone."""
    command = ("run", "--rm", "-T", "--no-deps", "--entrypoint", "mayfly", "secrets")
    compose(*command, "gateway", "check", "/secrets/gateway")
    for name in ("config.yaml", "apisix.yaml"):
        file = Path(_mountpoint("secrets-gateway"), name).stat()
        assert (file.st_uid, file.st_mode & 0o077) == (USERS["gateway"], 0)
