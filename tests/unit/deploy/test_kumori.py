"""
deploy/kumori: vetted and exported by CUE against a stand-in for Kumori's model, then looked through as a graph.

The mistakes here are those that CUE passes, planted in the exported deployment, one each; those that CUE refuses are
planted in the files, by tests/integration/deploy/test_kumori.py.
"""

from __future__ import annotations

import base64
import copy
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from mayfly.ops.bundle import BUNDLE_MAX_CHARACTERS, unpack
from tests.support.kubernetes import certified
from tests.support.kumori import KUMORI, PACKAGES, ROOT, Cue, Tree, components, environment, faults, module, sizes
from tests.support.page import commands

pytestmark = pytest.mark.D5

README = (KUMORI / "README.md").read_text(encoding="utf-8")
HOWTO = (ROOT / "docs/howto/deploy-on-kumori.md").read_text(encoding="utf-8")
UNPACKED = "/dev/shm/mayfly"


@pytest.mark.parametrize("package", [*(f"./{name}:component" for name in PACKAGES), "./service:service"])
def test_each_component_and_the_service_pass_the_model(cuelang: Cue, tmp_path: Path, package: str) -> None:
    """CUE finds nothing wrong with a package."""
    answer = cuelang.vet(module(tmp_path), package)

    assert (answer.code, answer.stderr) == (0, "")


def test_the_files_are_formatted(cuelang: Cue, tmp_path: Path) -> None:
    """`cue fmt` would change nothing."""
    folder = module(tmp_path)
    files = sorted(path.relative_to(KUMORI) for path in KUMORI.rglob("*.cue"))
    assert len(files) >= 10
    for path in files:
        assert cuelang.run(folder, "fmt", str(path)).code == 0

    assert [str(path) for path in files if (folder / path).read_text() != (KUMORI / path).read_text()] == []


def test_the_deployment_holds_together(deployment: Tree) -> None:
    """Roles, channels, directions, protocols, resources, parameters, ports and numbers fit each other."""
    assert faults(deployment) == []


def test_every_microservice_is_a_component(deployment: Tree) -> None:
    """Gateway, API server, worker and bootstrap are one role each, nats-server three of one component."""
    roles = deployment["artifact"]["description"]["role"]

    assert {name: role["artifact"]["ref"]["name"] for name, role in roles.items()} == {
        "inbound": "inbound",
        "gateway": "gateway",
        "api": "api",
        "worker": "worker",
        "bootstrap": "bootstrap",
        "nats1": "nats",
        "nats2": "nats",
        "nats3": "nats",
    }


def test_only_the_gateway_is_reached_from_outside(deployment: Tree) -> None:
    """The inbound leads to the gateway and nowhere else, and the service has no other way in."""
    service = deployment["artifact"]["description"]
    ends = [connector["to"] for connector in service["connect"].values() if "inbound" in connector["from"]]

    assert ends == [{"gateway": {"entry": {}}}]
    assert not any(service["srv"].values())


def test_only_bootstrap_gets_what_can_delete_streams(deployment: Tree) -> None:
    """Each role's secret is its own, and the secret of the NATS user `admin` is bootstrap's alone."""
    holders: dict[str, list[str]] = {}
    for name, component in components(deployment).items():
        for resource in component["config"]["resource"].values():
            if "secret" in resource:
                holders.setdefault(resource["secret"], []).append(name)

    assert holders["mayfly_admin"] == ["bootstrap"]
    assert [names for names in holders.values() if len(names) != 1] == []


def test_it_fits_into_a_small_tenant(deployment: Tree) -> None:
    """All instances together reserve no more than the 2 processors and 4 GB of a free tenant."""
    memory, processor = sizes(deployment)

    assert 1000 < memory <= 4000
    assert 500 < processor <= 2000


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A secrets directory as deploy/kumori/make-secrets makes it."""
    directory = tmp_path_factory.mktemp("secrets")
    assert "worker/docker/ca.pem is missing" in make_secrets(directory).stderr
    (directory / "worker/docker").mkdir()
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (directory / "worker/docker" / name).write_text(name)
    assert "made " in make_secrets(directory, "--host", "faas.example.org").stdout
    return directory


def make_secrets(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run deploy/kumori/make-secrets."""
    command = [sys.executable, str(KUMORI / "make-secrets"), str(directory), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_resource_is_registered(deployment: Tree, secrets: Path) -> None:
    """Each name that the deployment asks for is registered by a command of the README, as what it is, each secret with
    its line: the commands are typed, with a stand-in for the platform's tool."""
    typed = commands("deploy/kumori/README.md", "Bring it up")[0].replace("~/kumori-secrets", str(secrets))
    typed = typed.replace("deploy/kumori/make-secrets", f"{sys.executable} {KUMORI}/make-secrets")
    script = f'kumorictl() {{ echo "$1 $2 $3 $(wc --lines <<<"${{5:?}}")"; }}\n{typed}'
    run = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True)

    wanted = [next(iter(resource.items())) for resource in deployment["config"]["resource"].values()]
    registered = [line for line in run.stdout.splitlines() if line.startswith("register ")]
    assert sorted(registered) == sorted(f"register {kind} {name} 1" for kind, name in wanted)


def test_the_secrets_are_those_of_the_deployment(deployment: Tree, secrets: Path) -> None:
    """Each secret that is to be registered is made, small enough for a variable, and made once: not changed again."""
    wanted = {resource["secret"] for resource in deployment["config"]["resource"].values() if "secret" in resource}

    assert {path.name for path in (secrets / "kumori").iterdir()} == wanted
    assert all(path.stat().st_size < BUNDLE_MAX_CHARACTERS for path in (secrets / "kumori").iterdir())
    assert "kumori/" not in make_secrets(secrets, "--host", "faas.example.org").stdout


def test_every_container_finds_its_files(deployment: Tree, secrets: Path, tmp_path: Path) -> None:
    """What a component does first, as it stands in its file, turns the secret into the files that it names then."""
    registered = deployment["config"]["resource"]
    for role, component in components(deployment).items():
        (container,) = component["code"].values()
        own = registered[{"bootstrap": "adminSecrets"}.get(role, f"{role}Secrets")]["secret"]
        files = unpacked(container, (secrets / "kumori" / own).read_text(), tmp_path / role)
        said = " ".join([*container["entrypoint"], *environment(component).values()])
        paths = set(re.findall(rf"{UNPACKED}/([\w./-]*\w)", said))

        assert paths
        for path in paths:
            assert any(file == path or file.startswith(f"{path}/") for file in files), (role, path)


def unpacked(container: Tree, secret: str, directory: Path) -> set[str]:
    """Unpack a secret as the container does, and return the names of the files."""
    words = [word.replace(UNPACKED, str(directory)) for word in container["entrypoint"]]
    if words[0] == "mayfly":
        unpack(secret, directory)
    else:  # up to what only its image has, or only root can
        words[-1] = re.split(r"(?:&& *)?\n *(?:chown|ln|unset)", words[-1])[0]
        subprocess.run(words, env={"PATH": "/usr/bin:/bin", "MAYFLY_SECRETS_ARCHIVE": secret}, check=True)
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_every_name_that_is_called_is_in_a_certificate(secrets: Path) -> None:
    """API servers and nats-servers can prove to be what the gateway and the others call them."""
    assert "0.api" in certified((secrets / "api/api.crt").read_bytes())
    for number in (1, 2, 3):
        names = certified((secrets / f"nats-{number}/nats.crt").read_bytes())
        assert {"0.queue", "set.0.next"} <= set(names)


@pytest.mark.D3
def test_the_gateway_is_told_what_is_different_here(secrets: Path, tmp_path: Path) -> None:
    """API servers by their channel, and an inbound that ends TLS and says what a caller's address is."""
    archive = base64.b64decode((secrets / "kumori/mayfly_gateway").read_text())
    subprocess.run(["tar", "-xzC", tmp_path], input=archive, check=True)
    config, routes = (yaml.safe_load((tmp_path / name).read_text()) for name in ("config.yaml", "apisix.yaml"))

    assert [(node["host"], node["port"]) for node in routes["upstreams"][0]["nodes"]] == [("0.api", 80)]
    assert config["apisix"]["node_listen"] == [{"ip": "0.0.0.0", "port": 9080}]
    assert config["apisix"]["ssl"]["ssl_trusted_certificate"] == f"{UNPACKED}/ca.crt"
    assert config["nginx_config"]["http"]["real_ip_header"] == "X-Forwarded-For"


@pytest.mark.parametrize("page", [README, HOWTO], ids=["README", "guide"])
def test_it_is_not_said_to_have_run(page: str) -> None:
    """Both pages say what was checked, against what, for which version, and that no cluster has seen it."""
    text = " ".join(page.split())
    for words in ("stand-in", "never run on a cluster", "1.1.7"):
        assert words in text


@dataclass(frozen=True)
class Planted:
    """A mistake that CUE passes: *changes* to the exported deployment by path, None removes; then *why* is all said."""

    what: str
    changes: dict[str, object]
    why: tuple[str, ...]

    def __str__(self) -> str:
        """Name the test."""
        return self.what


def of(role: str, path: str) -> str:
    """The path of something in a role's component."""
    return f"service role {role} artifact description {path}"


CLUSTER_PORT = {"protocol": "tcp", "port": 6222}
NO_CLIENT, NO_SERVER = "which is no client or duplex channel", "which is no server or duplex channel"
BUNDLE, ENV = "MAYFLY_SECRETS_BUNDLE", "mapping env"
PLANTED = [
    Planted("dangling channel", {"service connect requests": None}, ("gateway.api leads nowhere",)),
    Planted(
        "connector to no channel",
        {"service connect queue to nats1": {"queues": {}}},
        (f"connector queue: to nats1.queues, {NO_SERVER}",),
    ),
    Planted(
        "connector from no role",
        {"service connect calls from": {"outside": "inbound"}},
        (f"connector calls: from outside.inbound, {NO_CLIENT}", "inbound.inbound leads nowhere"),
    ),
    Planted(
        "connector the wrong way round",
        {"service connect requests from": {"gateway": "entry"}},
        (f"connector requests: from gateway.entry, {NO_CLIENT}", "gateway.api leads nowhere"),
    ),
    Planted(
        "protocols that differ",
        {of("gateway", "srv server entry protocol"): "tcp"},
        ("connector calls: joins http and tcp",),
    ),
    Planted(
        "lb instead of full",
        {"service connect cluster1 as": "lb"},
        ("connector cluster1: nats1 calls set.0.next:6222, which asks for a full connector",),
    ),
    Planted(
        "nats-server that calls itself",
        {"service connect cluster1 to": {"nats1": {"cluster": {}}}},
        (
            "nats1 would call itself, and then nobody else",
            "the nats-servers are joined in no ring: nats1 calls nats1, nats2 calls nats3, nats3 calls nats1",
        ),
    ),
    Planted(
        "two nats-servers on their own",
        {"service connect cluster2 to": {"nats1": {"cluster": {}}}},
        ("the nats-servers are joined in no ring: nats1 calls nats2, nats2 calls nats1, nats3 calls nats1",),
    ),
    Planted(
        "nats-server without a port for others",
        {of("nats2", "srv server cluster"): None},
        (f"connector cluster1: to nats2.cluster, {NO_SERVER}",),
    ),
    Planted(
        "duplex without full",
        {
            of("nats1", "srv duplex"): {"gossip": CLUSTER_PORT},
            "service connect gossip": {"as": "lb", "from": {"nats1": "gossip"}, "to": {"nats2": {"cluster": {}}}},
        },
        ("connector gossip: nats1.gossip is duplex, which asks for a full connector",),
    ),
    Planted(
        "inbound without TLS",
        {"service role inbound config parameter type": "tcp"},
        ("inbound: calls would come in without TLS",),
    ),
    Planted(
        "a way past the gateway",
        {"service connect calls to": {"api": {"metrics": {}}}},
        ("connector calls: leads from outside to api, past the gateway",),
    ),
    Planted(
        "a second way in",
        {"service srv server": {"rest": {"protocol": "tcp", "port": 80}}},
        ("the service has the channel rest of its own",),
    ),
    Planted(
        "parameter that is not there",
        {of("worker", f"code worker {ENV} MAYFLY_SLOTS"): {"parameter": "slot"}},
        ("worker.worker: MAYFLY_SLOTS takes the parameter slot, which is no string there",),
    ),
    Planted(
        "parameter that nobody takes",
        {"config parameter registrations": "open"},
        ("the parameter registrations is that of no role",),
    ),
    Planted(
        "resource that is not declared",
        {of("api", "code api image hub secret"): "login"},
        ("api.api: hub takes the resource login, which is not declared",),
    ),
    Planted(
        "secret that is not declared",
        {of("api", "config resource"): {}},
        (f"api.api: {BUNDLE} takes the resource secrets, which is not declared",),
    ),
    Planted(
        "secret that nobody reads",
        {of("api", f"code api {ENV} {BUNDLE}"): None},
        ("api: the resource secrets is used by no container",),
    ),
    Planted(
        "resource that nobody takes",
        {"config resource spare": {"secret": "mayfly_spare"}},
        ("the resource spare is that of no role",),
    ),
    Planted(
        "secret as parameter",
        {of("api", f"code api {ENV} {BUNDLE}"): {"parameter": "registration"}},
        (
            f"api.api: {BUNDLE} is a secret, and so is given as one",
            "api: the resource secrets is used by no container",
        ),
    ),
    Planted(
        "password in the file",
        {of("nats1", f"code nats {ENV} ROUTE_PASSWORD"): {"value": "hunter2"}},
        ("nats1.nats: ROUTE_PASSWORD is a secret, and so is given as one",),
    ),
    Planted(
        "secret of two roles",
        {"service role api config resource secrets": {"secret": "mayfly_admin"}},
        ("the resource apiSecrets is that of no role", "the secret mayfly_admin is that of api and of bootstrap"),
    ),
    Planted(
        "setting that does not exist",
        {of("worker", f"code worker {ENV} MAYFLY_SLOT"): {"value": "8"}},
        ("worker.worker: MAYFLY_SLOT is no setting",),
    ),
    Planted(
        "setting of another role",
        {of("api", f"code api {ENV} MAYFLY_SLOTS"): {"value": "8"}},
        ("api.api: MAYFLY_SLOTS is no setting",),
    ),
    Planted(
        "probe of a closed port",
        {of("worker", "probe worker liveness protocol http port"): 9465},
        ("worker.worker: liveness asks port 9465, which is no server channel",),
    ),
    Planted(
        "probe of no container",
        {of("worker", "probe workers"): {}},
        ("worker: a probe of workers, which is no container",),
    ),
    Planted(
        "listener without a channel",
        {of("api", f"code api {ENV} MAYFLY_LISTEN"): {"value": "0.0.0.0:8444"}},
        ("api: MAYFLY_LISTEN is 0.0.0.0:8444, which is no server channel",),
    ),
    Planted(
        "server's port at an lb",
        {of("api", "config parameter natsUrl"): "tls://0.queue:4222"},
        ("api: 0.queue does not answer on port 4222",),
    ),
    Planted(
        "address of no channel",
        {of("api", "config parameter natsUrl"): "tls://0.nats:80"},
        ("api: 0.nats is no client channel of it",),
    ),
    Planted("no hsize", {"config scale detail api": None}, ("scale: api has no entry",)),
    Planted("hsize of no role", {"config scale detail apis": {"hsize": 2}}, ("scale: apis is no role of ours",)),
    Planted(
        "hpa upside down",
        {"service role api meta hpa minReplicas": 9},
        ("scale: api has 9 at least and 8 at most",),
    ),
    Planted(
        "hsize beyond hpa",
        {"config scale detail gateway": {"hsize": 5}},
        ("scale: gateway starts with 5, outside of its bounds",),
    ),
    Planted(
        "one of what must survive",
        {"config scale detail worker": {"hsize": 1}},
        ("scale: 1 of worker do not survive 1 failures",),
    ),
    Planted(
        "one nats-server too few",
        {"config scale detail nats3": {"hsize": 0}},
        ("scale: there are 2 nats-servers, and streams of 3 copies",),
    ),
    Planted(
        "three instances of one nats-server",
        {"config scale detail nats1": {"hsize": 3}},
        (
            "scale: there are 5 nats-servers, and streams of 3 copies",
            "nats1: several instances would share the name and the store of one nats-server",
        ),
    ),
    Planted(
        "fewer copies than servers",
        {of("bootstrap", "config parameter natsReplicas"): "1"},
        ("scale: there are 3 nats-servers, and streams of 1 copies",),
    ),
    Planted(
        "no volume for nats",
        {of("nats2", "code nats mapping filesystem"): {}},
        (
            "nats2: the resource store is used by no container",
            "nats2: /data is no volume, so all of the system's state is lost with the instance",
        ),
    ),
    Planted(
        "volatile volume",
        {of("nats2", "config resource store"): {"volume": {"size": 5, "unit": "G"}}},
        ("nats2: store is not a registered volume, so it is lost with its instance",),
    ),
    Planted(
        "volume of two servers",
        {of("nats2", "config resource store"): {"volume": "mayfly_store1"}},
        ("nats2: the volume mayfly_store1 is that of nats1",),
    ),
    Planted(
        "no stop grace",
        {of("worker", f"code worker {ENV} MAYFLY_STOP_GRACE_S"): None},
        ("worker: it would take 310 s to stop, and is killed after 30 s",),
    ),
    Planted(
        "stop grace beyond the platform's",
        {of("worker", "config parameter stopGraceSeconds"): "30"},
        ("worker: it would take 30 s to stop, and is killed after 30 s",),
    ),
]


@pytest.mark.parametrize("mistake", PLANTED, ids=str)
def test_the_graph_shows_a_mistake(deployment: Tree, mistake: Planted) -> None:
    """What does not fit together is found, for its own reason and for no other."""
    planted = copy.deepcopy(deployment)
    for path, value in mistake.changes.items():
        change(planted, path.split(), value)

    assert faults(planted) == list(mistake.why)


def change(planted: Tree, path: list[str], value: object) -> None:
    """Set what is at a path of the deployment's own configuration or of the service; None removes it."""
    place = {"config": planted["config"], "service": planted["artifact"]["description"]}[path[0]]
    for name in path[1:-1]:
        place = place[name]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
