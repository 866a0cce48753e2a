"""
Compose, Kumori, Kubernetes, the images, the gateway's files and the code say the same, where they have to.

Each kind of disagreement is planted once in what was read, and has to be found by exactly its sentences: a comparison
that cannot fail would prove nothing.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import pytest

from mayfly.ops.secrets import Owners, Wanted, create
from tests.support import agreement
from tests.support.agreement import MAY_DIFFER, disagreements
from tests.support.kumori import Tree
from tests.support.platforms import Found, parts, read

pytestmark = [pytest.mark.D4, pytest.mark.D5, pytest.mark.D7]


@pytest.fixture(scope="module")
def found(deployment: Tree, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What the files say."""
    secrets = tmp_path_factory.mktemp("secrets")
    create(secrets, Wanted())
    return read(deployment, secrets)


def test_they_agree(found: Found) -> None:
    """Images, users, ports, settings, limits, times, secrets, numbers and health checks are the same everywhere."""
    assert disagreements(found) == []


def test_every_platform_has_every_role(found: Found) -> None:
    """Nothing is compared with nothing: each platform has all five roles."""
    roles = {(part.platform, part.role) for part in parts(found)}

    assert roles == {
        (platform, role)
        for platform in ("compose", "Kumori", "Kubernetes")
        for role in ("gateway", "api", "worker", "nats", "bootstrap")
    }


@pytest.mark.parametrize("name", sorted(MAY_DIFFER))
def test_what_may_differ_does(found: Found, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A setting is exempt only as long as it has to be."""
    monkeypatch.setattr(agreement, "MAY_DIFFER", {other: why for other, why in MAY_DIFFER.items() if other != name})
    said = disagreements(found)

    assert said
    assert all(re.match(rf"\w+: {name}: ", sentence) for sentence in said), said


@dataclass(frozen=True)
class Planted:
    """A disagreement: what is at *path* of *where* becomes *value*, and then *why* is all that is said."""

    what: str
    where: str
    path: str
    value: Any
    why: tuple[str, ...]  # with * for anything

    def __str__(self) -> str:
        """Name the test."""
        return self.what

    def into(self, found: Found) -> Found:
        """Return what would have been read."""
        before: Any = getattr(found, self.where)
        changed: dict[str, Any] = {}
        if isinstance(before, str):
            assert self.path in before
            changed[self.where] = before.replace(self.path, self.value, 1)
        elif self.where == "code":
            changed[self.where] = dataclasses.replace(before, **{self.path: self.value})
        else:
            changed[self.where] = self._inside(copy.deepcopy(before))
        return dataclasses.replace(found, **changed)

    def _inside(self, planted: Any) -> Any:
        names, place = self.path.split(), planted
        if self.where == "kubernetes":
            kind, _, name = names.pop(0).partition("/")
            place = next(made for made in planted if (made["kind"], made["metadata"]["name"]) == (kind, name))
        for each in names[:-1]:
            place = place[_key(place, each)]
        place[_key(place, names[-1])] = self.value
        return planted


def _key(place: Any, name: str) -> Any:
    """A key, an index, or the index of the variable of that name."""
    if not isinstance(place, list):
        return name
    if name.isdigit():
        return int(name)
    return next(index for index, each in enumerate(place) if each["name"] == name)


POD = "spec template spec"
CONTAINER = f"{POD} containers 0"


def of(role: str, path: str) -> str:
    """The path of something in a component on Kumori."""
    return f"artifact description role {role} artifact description {path}"


PLANTED = [
    Planted(
        "another image on Kumori",
        "kumori",
        of("api", "code api image tag"),
        "mayfly/api:0.1.1",
        (
            'api: {"mayfly/api:0.1.0": "compose: api-1", "mayfly/api:0.1.1": "Kumori: api"}',
            "Kumori: api runs mayfly/api:0.1.1, and this is 0.1.0",
        ),
    ),
    Planted(
        "another version in compose",
        "compose",
        "services worker image",
        "mayfly/worker:0.2.0",
        (
            'worker: {"mayfly/worker:0.2.0": "compose: worker", "mayfly/worker:0.1.0": "Kumori: worker"}',
            "compose: worker runs mayfly/worker:0.2.0, and this is 0.1.0",
        ),
    ),
    Planted(
        "another APISIX",
        "kubernetes",
        f"Deployment/gateway {CONTAINER} image",
        "apache/apisix:3.17.0-debian",
        ('gateway: {*": "compose: gateway", "apache/apisix:3.17.0-debian": "Kubernetes: gateway"}',),
    ),
    Planted(
        "an image that nobody builds",
        "kubernetes",
        f"Job/bootstrap {CONTAINER} image",
        "mayfly/cli:0.1.0",
        (
            'bootstrap: {"mayfly/api:0.1.0": "compose: bootstrap", "mayfly/cli:0.1.0": "Kubernetes: bootstrap"}',
            "Kubernetes: bootstrap runs mayfly/cli:0.1.0, which is no target of the Dockerfile",
        ),
    ),
    Planted(
        "another version of an image",
        "dockerfile",
        "ARG VERSION=0.1.0",
        "ARG VERSION=0.2.0",
        ("Dockerfile: nats is not of version 0.1.0",),
    ),
    Planted(
        "another version of the code",
        "code",
        "version",
        "0.2.0",
        (
            "* runs mayfly/*:0.1.0, and this is 0.2.0",
            "Kumori: the module is of version 0.1.0, and this is 0.2.0",
            "Dockerfile: * is not of version 0.2.0",
        ),
    ),
    Planted(
        "another user on Kubernetes",
        "kubernetes",
        f"StatefulSet/nats {POD} securityContext runAsUser",
        1000,
        ("Kubernetes: nats runs as 1000, and its secrets are those of 59801",),
    ),
    Planted(
        "another user in compose",
        "compose",
        "services api-2 user",
        "1000:1000",
        (
            "compose: api-1 runs as 1000, and its secrets are those of 59802",
            "compose: api-2 runs as 1000, and its secrets are those of 59802",
        ),
    ),
    Planted(
        "another user on Kumori",
        "kumori",
        of("gateway", "code gateway user userid"),
        1000,
        ("Kumori: gateway runs as 1000, and its secrets are those of 636",),
    ),
    Planted(
        "another user in an image",
        "dockerfile",
        "USER 59802:59802",
        "USER 59803:59803",
        ("Dockerfile: api is not 59802",),
    ),
    Planted(
        "another owner of secrets",
        "code",
        "owners",
        Owners(nats=1000),
        (
            "*: nats* runs as 59801, and its secrets are those of 1000",
            "Dockerfile: nats is not 1000",
        ),
    ),
    Planted(
        "another port on Kumori",
        "kumori",
        of("api", "srv server rest port"),
        8444,
        ("Kumori: api has the ports [8444, 9464], and the code [8443, 9464]",),
    ),
    Planted(
        "another port in compose",
        "compose",
        "services worker environment MAYFLY_METRICS_LISTEN",
        "0.0.0.0:9465",
        (
            "compose: worker has the ports [9464, 9465], and the code [9464]",
            'worker: metrics_listen: {"0.0.0.0:9465": "compose: worker", "0.0.0.0:9464": "Kumori: worker"}',
            "compose: worker is asked for /metrics on port 9465, where nobody answers that",
        ),
    ),
    Planted(
        "another port on Kubernetes",
        "kubernetes",
        f"StatefulSet/nats {CONTAINER} ports routes containerPort",
        6223,
        ("Kubernetes: nats has the ports [4222, 6223, 8222], and the code [4222, 6222, 8222]",),
    ),
    Planted(
        "another port of an image",
        "dockerfile",
        "EXPOSE 4222 6222",
        "EXPOSE 4222",
        (
            "compose: nats-* has the ports [4222], and the code [4222, 6222]",
            "Dockerfile: nats exposes [4222] instead of [4222, 6222]",
        ),
    ),
    Planted(
        "another port of the gateway",
        "config",
        "plugin_attr prometheus export_addr port",
        9092,
        ("config.yaml listens on (9443, 7085, 9092) instead of (9443, 7085, 9091)",),
    ),
    Planted(
        "another port published",
        "compose",
        "services gateway ports 0",
        "0.0.0.0:8443:9080",
        ("compose: gateway has the ports [7085, 9080, 9091], and the code [7085, 9091, 9443]",),
    ),
    Planted(
        "another port watched",
        "prometheus",
        "scrape_configs 1 dns_sd_configs 0 port",
        9465,
        ("Prometheus asks worker on port 9465",),
    ),
    Planted(
        "another port in the code",
        "code",
        "gateway_ports",
        (9443, 7086, 9091),
        (
            "*: gateway has the ports [7085, *], and the code [7086, *]",
            "config.yaml listens on (9443, 7085, 9091) instead of (9443, 7086, 9091)",
            "*: gateway is asked for /status* on port 7085, where nobody answers that",
        ),
    ),
    Planted(
        "an API server that the gateway does not know",
        "routes",
        "upstreams 0 nodes 1 host",
        "api-3",
        ("apisix.yaml leads to ['api-1:8443', 'api-3:8443'], and compose has ['api-1:8443', 'api-2:8443']",),
    ),
    Planted(
        "another port of NATS",
        "compose",
        "services bootstrap environment MAYFLY_NATS_URL",
        "tls://nats-1:4223,tls://nats-2:4222,tls://nats-3:4222",
        ("compose: bootstrap looks for NATS at nats-1:4223",),
    ),
    Planted(
        "a nats-server that nobody knows",
        "kubernetes",
        f"Deployment/worker {CONTAINER} env MAYFLY_NATS_URL value",
        "tls://nats-0.nats:4222",
        ("Kubernetes: worker knows 1 of 3 nats-servers",),
    ),
    Planted(
        "a variable that is no setting",
        "compose",
        "services worker environment MAYFLY_SLOT",
        "8",
        ("compose: worker: MAYFLY_SLOT is no setting of worker",),
    ),
    Planted(
        "a setting of another role",
        "kumori",
        of("api", "code api mapping env MAYFLY_SLOTS"),
        {"value": "8"},
        ("Kumori: api: MAYFLY_SLOTS is no setting of api",),
    ),
    Planted(
        "another value on Kubernetes",
        "kubernetes",
        f"Deployment/api {CONTAINER} env MAYFLY_DRAIN_S value",
        "5",
        ('api: drain_s: {"8.0": "compose: api-1", "5.0": "Kubernetes: api"}',),
    ),
    Planted(
        "another value on Kumori",
        "kumori",
        of("api", "config parameter registration"),
        "closed",
        ('api: registration: {"open": "compose: api-1", "closed": "Kumori: api"}',),
    ),
    Planted(
        "another user of NATS",
        "kumori",
        of("worker", "code worker mapping env MAYFLY_NATS_USER"),
        {"value": "admin"},
        (
            'worker: nats_user: {"worker": "compose: worker", "admin": "Kumori: worker"}',
            "Kumori: worker is not worker to NATS",
        ),
    ),
    Planted(
        "another limit",
        "compose",
        "services bootstrap environment MAYFLY_MAX_ACTIVATIONS",
        "${MAYFLY_MAX_ACTIVATIONS:-512}",
        (
            'bootstrap: max_activations: {"512": "compose: bootstrap", "256": "Kumori: bootstrap"}',
            "compose: bootstrap: max_activations is 512, and 256 in the gateway's files",
        ),
    ),
    Planted(
        "another module's version",
        "kumori",
        "artifact ref version",
        [0, 2, 0],
        ("Kumori: the module is of version 0.2.0, and this is 0.1.0",),
    ),
    Planted(
        "an APISIX that looks for etcd",
        "kubernetes",
        f"Deployment/gateway {CONTAINER} env APISIX_STAND_ALONE value",
        "false",
        ('gateway: {*true*": "compose: gateway", *false*": "Kubernetes: gateway"}',),
    ),
    Planted(
        "another limit of all for the gateway's files",
        "compose",
        "services secrets environment MAYFLY_MAX_ACTIVATIONS",
        "512",
        ("compose: the gateway's files are made for 512 of everybody, not 256",),
    ),
    Planted(
        "another limit for the gateway's files",
        "compose",
        "services secrets environment MAYFLY_MAX_ACTIVATIONS_PER_USER",
        "64",
        ("compose: the gateway's files are made for 64 a user, not 32",),
    ),
    Planted(
        "a setting that the gateway has not",
        "compose",
        "services secrets environment MAYFLY_GATEWAY_WORKER",
        "4",
        ("compose: secrets: gateway_worker is no setting of gateway",),
    ),
    Planted(
        "other slots for KEDA",
        "keda",
        "spec triggers 0 metadata lagThreshold",
        "16",
        ("KEDA counts 16 slots a worker, and there are ['8']",),
    ),
    Planted(
        "too little memory",
        "compose",
        "services worker mem_limit",
        "${WORKER_MEMORY:-1g}",
        ("compose: worker has less memory than its slots need by default",),
    ),
    Planted(
        "a gateway that waits too little",
        "routes",
        "upstreams 0 timeout read",
        300,
        ("the gateway's read time-out have 300 s, and an API server's last calls 320 s",),
    ),
    Planted(
        "a gateway that leaves too soon",
        "config",
        "nginx_config worker_shutdown_timeout",
        "240s",
        ("the gateway's last calls have 240 s, and the gateway's read time-out 330 s",),
    ),
    Planted(
        "a connection kept too long",
        "routes",
        "upstreams 0 keepalive_pool idle_timeout",
        80,
        ("the gateway keeps connections for longer than an API server does",),
    ),
    Planted(
        "a longer call",
        "code",
        "call_s",
        600.0,
        (
            "an API server's last calls have 320 s, and the longest call 600 s",
            "compose: worker lets calls run for 310 s when it stops, and one may take 600 s",
            "Kubernetes: worker lets calls run for 310 s when it stops, and one may take 600 s",
        ),
    ),
    Planted(
        "a short stop in compose",
        "compose",
        "services worker stop_grace_period",
        "300s",
        ("compose: worker may need 310 s to stop and has 300",),
    ),
    Planted(
        "a short stop on Kubernetes",
        "kubernetes",
        f"Deployment/api {POD} terminationGracePeriodSeconds",
        30,
        ("Kubernetes: api may need 328 s to stop and has 30",),
    ),
    Planted(
        "a long stop on Kumori",
        "kumori",
        of("worker", "config parameter stopGraceSeconds"),
        "60",
        ("Kumori: worker may need 60 s to stop and has 30",),
    ),
    Planted(
        "a worker that gives up its calls",
        "kubernetes",
        f"Deployment/worker {CONTAINER} env MAYFLY_STOP_GRACE_S value",
        "200",
        ("Kubernetes: worker lets calls run for 200 s when it stops, and one may take 300 s",),
    ),
    Planted(
        "secrets elsewhere in compose",
        "compose",
        "services nats-1 volumes 0",
        "secrets-nats-1:/run/nats:ro",
        ("compose: nats-1 has its secrets in ('/run/nats',) instead of /run/secrets/mayfly",),
    ),
    Planted(
        "secrets elsewhere on Kumori",
        "kumori",
        of("api", "code api entrypoint 4"),
        "/tmp/mayfly",
        ("Kumori: api: * is /dev/shm/mayfly/*, which is not among its secrets",),
    ),
    Planted(
        "a secret of another name",
        "kubernetes",
        f"Deployment/worker {CONTAINER} env MAYFLY_NATS_PASSWORD_FILE value",
        "/run/secrets/mayfly/password",
        (
            'worker: nats_password_file: {"nats.password": "compose: worker", "password": "Kubernetes: worker"}',
            "Kubernetes: worker: nats_password_file is /run/secrets/*, and no worker/password is ever made",
        ),
    ),
    Planted("a secret that is not made", "layout", "api", set(), ("*: api*: * is *, and no api/* is ever made",)),
    Planted(
        "fewer copies than servers",
        "compose",
        "services bootstrap environment MAYFLY_NATS_REPLICAS",
        "1",
        (
            'bootstrap: nats_replicas: {"1": "compose: bootstrap", "3": "Kumori: bootstrap"}',
            "compose: bootstrap makes streams of 1 copies, and there are 3 nats-servers",
        ),
    ),
    Planted(
        "fewer servers than copies",
        "kubernetes",
        "StatefulSet/nats spec replicas",
        1,
        (
            "Kubernetes: * knows 3 of 1 nats-servers",
            "Kubernetes: bootstrap makes streams of 3 copies, and there are 1 nats-servers",
        ),
    ),
    Planted(
        "another number of workers",
        "kumori",
        "config scale detail worker hsize",
        3,
        ("worker: {'compose': 2, 'Kumori': 3, 'Kubernetes': 2}",),
    ),
    Planted(
        "another bound of scaling",
        "kubernetes",
        "HorizontalPodAutoscaler/api spec maxReplicas",
        16,
        ("api: Kumori and Kubernetes scale it by other numbers",),
    ),
    Planted(
        "another path of a probe",
        "kubernetes",
        f"Deployment/api {CONTAINER} readinessProbe httpGet path",
        "/ready",
        ("Kubernetes: api is asked for /ready on port 8443, where nobody answers that",),
    ),
    Planted(
        "another port of a probe",
        "kumori",
        of("gateway", "probe gateway readiness protocol http port"),
        9080,
        ("Kumori: gateway is asked for /status/ready on port 9080, where nobody answers that",),
    ),
    Planted("no health check", "kumori", of("worker", "probe"), {}, ("Kumori: worker is never asked how it does",)),
    Planted(
        "a health check that needs a secret",
        "routes",
        "upstreams 0 checks active http_path",
        "/v1/status",
        ("the gateway asks API servers for /v1/status, which needs its secret",),
    ),
    Planted(
        "another role's command",
        "kubernetes",
        f"Deployment/worker {CONTAINER} command",
        ["mayfly", "api"],
        ("Kubernetes: worker runs `mayfly api`, which is not mayfly worker",),
    ),
]


@pytest.mark.parametrize("planted", PLANTED, ids=str)
def test_a_disagreement_is_found(found: Found, planted: Planted) -> None:
    """One disagreement of each kind, for its own reasons and for no other."""
    said = disagreements(planted.into(found))
    patterns = [re.escape(why).replace(r"\*", ".*") for why in planted.why]

    assert [sentence for sentence in said if not any(re.fullmatch(pattern, sentence) for pattern in patterns)] == []
    assert [
        why
        for why, pattern in zip(planted.why, patterns, strict=True)
        if not any(re.fullmatch(pattern, each) for each in said)
    ] == []
