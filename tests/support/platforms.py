"""
Reads the deployments into one form: compose, Kumori, Kubernetes, beside the images, the gateway's files and the code.

`Found` is what was read, as it stands in the files, and `Code` what they all have to follow. `parts` makes a `Part` of
each service, role or workload. Whether they agree is for tests/support/agreement.py to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mayfly import __version__
from mayfly.api.door import OPEN_PATHS
from mayfly.api.server import GRACE_S, KEEP_ALIVE_S
from mayfly.domain.limits import TIMEOUT_MAX_S
from mayfly.ops import nats_config
from mayfly.ops.gateway import bounds
from mayfly.ops.secrets import Owners
from mayfly.services import metrics_port
from mayfly.settings import ROLES, ApiSettings
from tests.support.kubernetes import Cluster, Workload
from tests.support.kumori import PLATFORM_GRACE_S, Tree, components, instances
from tests.support.kustomize import Object, build

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
OURS = ("api", "worker", "bootstrap")
LASTING = ("gateway", "api", "worker", "nats")
METRICS_PORT = 9464

ENTRYPOINTS = {"nats": "nats-server"}
"""Of the images whose entry point is not `mayfly`."""

DIRECTORIES = {"api": "api", "worker": "worker", "bootstrap": "admin", "gateway": "gateway", "nats": "nats-1"}
"""Where each role's secrets are in a secrets directory."""


@dataclass(frozen=True, slots=True)
class Code:
    """What the code says, and every deployment has to follow."""

    version: str = __version__
    api_port: int = int(ApiSettings.model_fields["listen"].default.rpartition(":")[2])
    nats_ports: tuple[int, int, int] = (nats_config.CLIENT_PORT, nats_config.ROUTE_PORT, nats_config.MONITOR_PORT)
    gateway_ports: tuple[int, int, int] = (bounds.HTTPS_PORT, bounds.STATUS_PORT, bounds.METRICS_PORT)
    clear_port: int = bounds.CLEAR_PORT
    owners: Owners = field(default_factory=Owners)
    call_s: float = TIMEOUT_MAX_S
    grace_s: float = GRACE_S
    keep_alive_s: float = KEEP_ALIVE_S
    secrets: str = nats_config.Node("nats-1", ()).secrets

    def ports(self, role: str) -> set[int]:
        """The ports of a role that others reach."""
        client, route, _ = self.nats_ports
        return {
            "gateway": set(self.gateway_ports),
            "api": {self.api_port, METRICS_PORT},
            "worker": {METRICS_PORT},
            "nats": {client, route},
            "bootstrap": set(),
        }[role]

    def health(self, role: str) -> set[tuple[int, str]]:
        """What can be asked how a role does: port and path."""
        metrics = (METRICS_PORT, metrics_port.PATH.decode())
        return {
            "gateway": {(self.gateway_ports[1], "/status"), (self.gateway_ports[1], "/status/ready")},
            "api": {*((self.api_port, path) for path in OPEN_PATHS), metrics},
            "worker": {metrics},
            "nats": {(self.nats_ports[2], "/healthz")},
            "bootstrap": set(),
        }[role]


@dataclass(frozen=True, slots=True)
class Part:
    """One service of compose, role of Kumori or workload of Kubernetes."""

    platform: str
    name: str
    role: str
    image: str
    user: int
    ports: frozenset[int]
    environment: dict[str, str]
    secrets: tuple[str, ...]  # directories
    command: str
    asked: frozenset[tuple[int, str]]  # by health checks: port and path
    stop_s: float
    count: int

    def __str__(self) -> str:
        """Name it in a sentence."""
        return f"{self.platform}: {self.name}"

    def settings(self) -> Any:
        """The settings that it gets, defaults included."""
        given = {name.removeprefix("MAYFLY_").lower(): value for name, value in self.environment.items()}
        known = ROLES[self.role].model_fields
        return ROLES[self.role].model_validate({name: value for name, value in given.items() if name in known})


@dataclass(frozen=True, slots=True)
class Found:
    """What the files say."""

    compose: Tree
    prometheus: Tree
    kumori: Tree
    kubernetes: list[Object]
    keda: Tree
    dockerfile: str
    healthy: dict[str, str]  # the images' own health checks
    config: Tree  # the gateway's two files
    routes: Tree
    layout: dict[str, set[str]]  # of a secrets directory
    code: Code


def read(kumori: Tree, secrets: Path) -> Found:
    """Read all files; *kumori* is the deployment as CUE exports it, *secrets* what `mayfly secrets create` makes."""
    return Found(
        compose=_yaml("compose/compose.yaml"),
        prometheus=_yaml("compose/monitoring/prometheus.yml"),
        kumori=kumori,
        kubernetes=build(DEPLOY / "kubernetes/base"),
        keda=_yaml("kubernetes/components/keda/worker.yaml"),
        dockerfile=(DEPLOY / "images/Dockerfile").read_text(encoding="utf-8"),
        healthy={name: (DEPLOY / f"images/healthy-{name}").read_text(encoding="utf-8") for name in ("nats", "role")},
        config=_yaml("apisix/config.yaml"),
        routes=_yaml("apisix/apisix.yaml"),
        layout={role: {path.name for path in (secrets / name).iterdir()} for role, name in DIRECTORIES.items()},
        code=Code(),
    )


def _yaml(name: str) -> Tree:
    read: Tree = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
    return read


def parts(found: Found) -> list[Part]:
    """Bring the platforms into one form."""
    return [*_of_compose(found), *_of_kumori(found), *_of_kubernetes(found)]


def _role(name: str) -> str:
    return re.sub(r"-?\d+$", "", name)


def plain(value: object) -> str:
    """A value of compose with its variables at their defaults."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))


def stage(found: Found, target: str) -> str:
    """The part of the Dockerfile that makes a target."""
    stages = re.split(r"^FROM ", found.dockerfile, flags=re.MULTILINE)
    return next((text for text in stages if re.match(rf"\S+ AS {target}\n", text)), "")


def exposed(found: Found, target: str) -> set[int]:
    """The ports that an image exposes."""
    return {
        int(port) for line in re.findall(r"^EXPOSE (.*)$", stage(found, target), re.MULTILINE) for port in line.split()
    }


def _of_compose(found: Found) -> Iterator[Part]:
    for name, service in found.compose["services"].items():
        if _role(name) not in (*LASTING, "bootstrap") or "profiles" in service:
            continue
        role, target = _role(name), service["image"].partition("/")[2].partition(":")[0]
        environment = {key: plain(value) for key, value in service.get("environment", {}).items()}
        listening = {int(value.rpartition(":")[2]) for key, value in environment.items() if key.endswith("LISTEN")}
        asked = _asked_in_compose(found, role, service, environment)
        if role == "gateway":
            ports = {int(plain(port).rpartition(":")[2]) for port in service["ports"]} | {port for port, _ in asked}
            ports |= {port for job in found.prometheus["scrape_configs"] for port in targets(job, "gateway")}
        else:
            ports = listening | (exposed(found, target) if role != "bootstrap" else set())
        user = plain(service.get("user", "")) or re.findall(r"^USER (\S+)$", stage(found, target), re.MULTILINE)[-1]
        mounts = [volume.split(":") for volume in service["volumes"] if isinstance(volume, str)]
        yield Part(
            platform="compose",
            name=name,
            role=role,
            image=service["image"],
            user=int(user.partition(":")[0]),
            ports=frozenset(ports),
            environment=environment,
            secrets=tuple(mount[1] for mount in mounts if mount[0].startswith("secrets-")),
            command=" ".join(
                [*service.get("entrypoint", [ENTRYPOINTS.get(role, "mayfly")]), *service.get("command", [])]
            ),
            asked=frozenset(asked),
            stop_s=float(str(service.get("stop_grace_period", "10s")).removesuffix("s")),
            count=int(service.get("scale", 1)),
        )


def targets(job: Tree, host: str) -> Iterator[int]:
    """The ports of *host* that a job of Prometheus asks."""
    for each in job.get("static_configs", []):
        yield from (
            int(target.rpartition(":")[2]) for target in each["targets"] if _role(target.partition(":")[0]) == host
        )
    yield from (each["port"] for each in job.get("dns_sd_configs", []) if host in each["names"])


def _asked_in_compose(found: Found, role: str, service: Tree, environment: dict[str, str]) -> set[tuple[int, str]]:
    """What a health check asks: that of the service, or else of its image."""
    if service.get("healthcheck", {}).get("disable"):
        return set()
    if role in {"gateway", "nats"}:
        script = " ".join(service["healthcheck"]["test"]) if "healthcheck" in service else found.healthy["nats"]
        return set(
            zip(map(int, re.findall(r"/dev/tcp/[^/]+/(\d+)", script)), re.findall(r"GET (\S+) ", script), strict=True)
        )
    (script,) = (text for text in found.healthy["role"].split("role == ")[1:] if text.startswith(f'"{role}"'))
    asked = re.findall(r"port\('(\w+)', '[\d.]+:(\d+)'\)\}(/\w+)", script)
    return {(int(environment.get(name, port).rpartition(":")[2]), path) for name, port, path in asked}


def _of_kumori(found: Found) -> Iterator[Part]:
    for name, component in components(found.kumori).items():
        (container,) = component["code"].values()
        command = " ".join(container.get("entrypoint", []))
        probes = [probe["protocol"]["http"] for each in component["probe"].values() for probe in each.values()]
        own = re.search(r"--reuid=(\d+)", command)  # root gives the volume away, and becomes somebody else
        sources = container["mapping"]["env"]
        values = component["config"]["parameter"]
        yield Part(
            platform="Kumori",
            name=name,
            role=_role(name),
            image=container["image"]["tag"],
            user=int(own[1]) if own else container["user"]["userid"],
            ports=frozenset(
                channel["port"] for kind in ("server", "duplex") for channel in component["srv"][kind].values()
            ),
            environment={
                variable: str(source.get("value", values.get(source.get("parameter"))))
                for variable, source in sources.items()
                if "secret" not in source
            },
            secrets=tuple(dict.fromkeys(re.findall(r"(?:--to|mkdir -p) (\S+)", command))),
            command=command,
            asked=frozenset((probe["port"], probe["path"]) for probe in probes),
            stop_s=PLATFORM_GRACE_S,
            count=instances(found.kumori, name),
        )


def _of_kubernetes(found: Found) -> Iterator[Part]:
    cluster = Cluster(found.kubernetes)
    for workload in cluster.workloads:
        if workload.name == "operator":
            continue
        mounts = {mount["mountPath"] for mount in workload.main["volumeMounts"]}
        sleep = workload.main.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        user = workload.main["securityContext"].get(
            "runAsUser", workload.pod.get("securityContext", {}).get("runAsUser")
        )
        yield Part(
            platform="Kubernetes",
            name=workload.name,
            role=workload.name,
            image=workload.main["image"],
            user=user,
            ports=frozenset(workload.ports.values()),
            environment=workload.environment,
            secrets=tuple(sorted(mount for mount in mounts if mount.startswith("/run/secrets/"))),
            command=" ".join([*workload.main.get("command", []), *workload.main.get("args", [])]),
            asked=frozenset(_asked_in_kubernetes(workload)),
            stop_s=workload.pod.get("terminationGracePeriodSeconds", 30) - sleep,
            count=cluster.smallest(workload),
        )


def _asked_in_kubernetes(workload: Workload) -> Iterator[tuple[int, str]]:
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        if ask := workload.main.get(kind, {}).get("httpGet"):
            yield workload.ports.get(ask["port"], ask["port"]), ask["path"].partition("?")[0]
