"""
Looks through the objects of deploy/kubernetes: against each other, against the code, and against the contract of names.

`faults` returns one sentence for each mistake; an empty list is a good deployment. What the schemas of Kubernetes and
of KEDA say is in `schema_faults` and `keda_faults`. Rows: A1, A5, D3, D7.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import kubernetes_validate  # type: ignore[import-untyped]
from cryptography import x509
from pydantic import ValidationError

from mayfly.bus import subjects
from mayfly.domain.limits import TIMEOUT_MAX_S
from mayfly.ops.nats_config import ACCOUNT
from mayfly.settings import ROLES, known_names
from tests.support.kubernetes_network import Party, flows, matches
from tests.support.kustomize import Object, identity, pod_spec

ROOT = Path(__file__).resolve().parent.parent.parent
KUBERNETES = ROOT / "deploy/kubernetes"
VERSIONS = ("1.30", "1.37")  # the oldest with a field for AppArmor, and the newest there is a schema of
CUSTOM = {"keda.sh/v1alpha1", "monitoring.coreos.com/v1"}  # not of Kubernetes itself

IMAGES = {
    "gateway": "apache/apisix:3.18.0-debian",
    "api": "mayfly/api:0.1.0",
    "bootstrap": "mayfly/api:0.1.0",
    "operator": "mayfly/api:0.1.0",
    "worker": "mayfly/worker:0.1.0",
    "nats": "mayfly/nats:0.1.0",
}
PORTS = {
    "gateway": {"https": 9443, "status": 7085, "metrics": 9091},
    "api": {"https": 8443, "metrics": 9464},
    "worker": {"metrics": 9464},
    "nats": {"nats": 4222, "routes": 6222, "monitor": 8222},
    "bootstrap": {},
    "operator": {},
}
USERS = {"gateway": 636, "api": 59802, "bootstrap": 59802, "operator": 59802, "worker": 0, "nats": 59801}
NAME = "app.kubernetes.io/name"
UNPACK_CAPABILITIES = {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETFCAP"}
"""What unpacking an image needs, whoever runs the container: tests/integration/images/test_capabilities.py."""
WORKER_CAPABILITIES = UNPACK_CAPABILITIES | {"SYS_ADMIN", "SETUID", "SETGID", "KILL"}
BASELINE_CAPABILITIES = {
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE"),
    *("SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
}
"""What the level `baseline` of Pod Security lets a container add."""
GATEWAY_SHUTDOWN_S, API_GRACE_S, NATS_LAME_DUCK_S = 340, 320, 32

SCALER_FIELDS = {  # what KEDA's nats-jetstream scaler reads
    "natsServerMonitoringEndpoint",
    "account",
    "stream",
    "consumer",
    "lagThreshold",
    "activationLagThreshold",
    "useHttps",
}

NEIGHBOURS = [
    Party("world", "203.0.113.7", (80, 443)),
    Party("private", "10.250.0.7", (443,)),
    Party("metadata", "169.254.169.254", (80, 443)),
    Party("keda", "10.244.9.1", (443,), "keda"),
    Party("monitoring", "10.244.9.2", (9090,), "monitoring"),
    Party("elsewhere", "10.244.9.3", (443, 8080), "default"),
    Party("dns", "10.244.9.4", (53, 9153), "kube-system", {"k8s-app": "kube-dns"}),
]
OUTSIDERS = {party.name for party in NEIGHBOURS}
WANTED_FLOWS = {
    ("gateway", "api", 8443),
    ("api", "nats", 4222),
    ("bootstrap", "nats", 4222),
    ("operator", "nats", 4222),
    ("worker", "nats", 4222),
    ("nats", "nats", 6222),
    ("keda", "nats", 8222),
    ("monitoring", "nats", 8222),
    ("monitoring", "gateway", 9091),
    ("monitoring", "api", 9464),
    ("monitoring", "worker", 9464),
    ("worker", "world", 443),
    *((name, "gateway", 9443) for name in OUTSIDERS),
    *((name, "dns", 53) for name in IMAGES),
}


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment, StatefulSet or Job."""

    made: Object

    @property
    def name(self) -> str:
        """Its name, which is its role's."""
        return str(self.made["metadata"]["name"])

    @property
    def serves(self) -> bool:
        """Whether it has pods that others rely on: not the Job, and not the place for operators' commands."""
        return self.name not in {"bootstrap", "operator"}

    @property
    def namespace(self) -> str:
        """Where it is."""
        return str(self.made["metadata"]["namespace"])

    @property
    def labels(self) -> dict[str, str]:
        """The labels of its pods."""
        return dict(self.made["spec"]["template"]["metadata"]["labels"])

    @property
    def pod(self) -> Object:
        """What its pods are."""
        return pod_spec(self.made) or {}

    @property
    def main(self) -> Object:
        """The one container that stays."""
        (container,) = self.pod["containers"]
        return dict(container)

    @property
    def containers(self) -> list[Object]:
        """All its containers."""
        return [*self.pod.get("initContainers", []), *self.pod["containers"]]

    @property
    def ports(self) -> dict[str, int]:
        """Its named ports."""
        return {port["name"]: port["containerPort"] for port in self.main.get("ports", [])}

    @property
    def environment(self) -> dict[str, str]:
        """The variables that have a value of their own."""
        return {each["name"]: each["value"] for each in self.main.get("env", []) if "value" in each}


@dataclass(frozen=True, slots=True)
class Cluster:
    """All objects of one overlay."""

    objects: list[Object]

    def of(self, *kinds: str) -> list[Object]:
        """Those of some kinds."""
        return [made for made in self.objects if made["kind"] in kinds]

    @property
    def workloads(self) -> list[Workload]:
        """What runs pods."""
        return [Workload(made) for made in self.of("Deployment", "StatefulSet", "Job")]

    def workload(self, name: str) -> Workload:
        """The one of a name."""
        return next(each for each in self.workloads if each.name == name)

    def secret(self, namespace: str, name: str) -> dict[str, bytes] | None:
        """What is in a Secret; None if there is none of that name."""
        for made in self.of("Secret"):
            if identity(made)[1:] == (namespace, name):
                return {key: base64.b64decode(value) for key, value in made["data"].items()}
        return None

    def selected(self, namespace: str, selector: Object) -> list[Workload]:
        """The workloads whose pods a selector means."""
        return [each for each in self.workloads if each.namespace == namespace and matches(selector, each.labels)]

    def smallest(self, workload: Workload) -> int:
        """The fewest pods it ever has on purpose."""
        for made in self.of("HorizontalPodAutoscaler", "ScaledObject"):
            spec = made["spec"]
            if spec["scaleTargetRef"]["name"] == workload.name:
                return int(spec.get("minReplicas") or spec.get("minReplicaCount") or 0)
        return int(workload.made["spec"].get("replicas", 1))


def faults(objects: list[Object]) -> list[str]:
    """Return what is wrong with a deployment, one sentence each."""
    cluster = Cluster(objects)
    found: list[str] = []
    for check in CHECKS:
        try:
            found.extend(check(cluster))
        except (KeyError, ValueError, StopIteration, TypeError, AttributeError) as error:
            found.append(f"{check.__name__.strip('_').replace('_', ' ')}: something is missing ({error!r})")
    return found


def schema_faults(objects: list[Object], version: str) -> list[str]:
    """Return what the schemas of a version of Kubernetes refuse, fields that they do not know included."""
    found = []
    for made in objects:
        if made["apiVersion"] in CUSTOM:
            continue
        try:
            kubernetes_validate.validate(made, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            place = "/".join(map(str, error.path))
            found.append(f"{made['kind']} {made['metadata'].get('name')}: {place}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            found.append(error.message)
    return found


def keda_faults(objects: list[Object]) -> list[str]:
    """Return what KEDA's own types refuse, unknown fields included. Needs node and node_modules."""
    scaled = [made for made in objects if made["apiVersion"] == "keda.sh/v1alpha1"]
    program = ["node", str(ROOT / "tests/support/keda.mjs")]
    ended = subprocess.run(program, input=json.dumps(scaled), capture_output=True, text=True, check=True, timeout=60)
    return [str(sentence) for sentence in json.loads(ended.stdout)]


# --- objects among each other -------------------------------------------------------------------------------------


def _namespaces(cluster: Cluster) -> Iterator[str]:
    declared = {made["metadata"]["name"] for made in cluster.of("Namespace")}
    for made in cluster.objects:
        kind, namespace, name = identity(made)
        if kind != "Namespace" and namespace not in declared:
            yield f"{kind} {name} is in the namespace {namespace!r}, which is not declared"


def _selectors(cluster: Cluster) -> Iterator[str]:
    for made in cluster.of("Deployment", "StatefulSet"):
        own = Workload(made)
        spreads = [each["labelSelector"] for each in own.pod.get("topologySpreadConstraints", [])]
        affinity = own.pod.get("affinity", {}).get("podAntiAffinity", {})
        apart = [each["labelSelector"] for each in affinity.get("requiredDuringSchedulingIgnoredDuringExecution", [])]
        for selector in [made["spec"]["selector"], *spreads, *apart]:
            if not selector.get("matchLabels") or not matches(selector, own.labels):
                yield f"{made['kind']} {own.name} selects {selector}, which are not the labels of its pods"
    for made in cluster.of("Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor"):
        spec = made["spec"]
        selector = spec.get("podSelector", spec.get("selector"))
        selector = {"matchLabels": selector} if made["kind"] == "Service" else selector
        meant = cluster.selected(made["metadata"]["namespace"], selector)
        everybody = made["kind"] == "NetworkPolicy" and not selector
        if not everybody and [each.name for each in meant] != [
            made["metadata"]["labels"].get(NAME, meant and meant[0].name)
        ]:
            yield f"{made['kind']} {made['metadata']['name']} selects {[each.name for each in meant] or 'nothing'}"


def _services(cluster: Cluster) -> Iterator[str]:
    for made in cluster.of("Service"):
        name = made["metadata"]["name"]
        for workload in cluster.selected(made["metadata"]["namespace"], {"matchLabels": made["spec"]["selector"]}):
            for port in made["spec"]["ports"]:
                if port["targetPort"] not in workload.ports:
                    yield f"Service {name}: {workload.name} has no port {port['targetPort']!r}"
        if made["spec"].get("clusterIP") == "None":
            for port in made["spec"]["ports"]:
                if port["port"] != PORTS[name].get(port["targetPort"]):
                    yield f"Service {name} is headless, so {port['port']} must be the pods' own {port['targetPort']}"


def _one_way_in(cluster: Cluster) -> Iterator[str]:
    for made in cluster.of("Service"):
        spec = made["spec"]
        published = spec.get("type", "ClusterIP") != "ClusterIP" or "externalIPs" in spec
        ports = [port["targetPort"] for port in spec["ports"]]
        if published and (made["metadata"]["name"] != "gateway" or ports != ["https"]):
            yield f"Service {made['metadata']['name']} publishes {ports}: only the gateway's https may be reached"
    for made in cluster.of("Ingress", "Gateway", "HTTPRoute"):
        yield f"{made['kind']} {made['metadata']['name']} is a second way in"
    for workload in cluster.workloads:
        if any("hostPort" in port for port in workload.main.get("ports", [])):
            yield f"{workload.name} has a hostPort"


def _network(cluster: Cluster) -> Iterator[str]:
    pods = [
        Party(each.name, f"10.244.1.{number}", tuple(each.ports.values()), each.namespace, each.labels)
        for number, each in enumerate(cluster.workloads, 1)
    ]
    parties, wanted = [*pods, *NEIGHBOURS], set(WANTED_FLOWS)
    docker = urlsplit(cluster.workload("worker").environment.get("MAYFLY_DOCKER_HOST", ""))
    if docker.scheme == "tcp":
        parties.append(Party("engine", str(docker.hostname), (22, docker.port or 0)))
        wanted |= {("worker", "engine", docker.port or 0), ("engine", "gateway", 9443)}
    present = {
        flow for flow in flows(cluster.of("NetworkPolicy"), parties) if not {flow[0], flow[1]} <= {*OUTSIDERS, "engine"}
    }
    for source, target, port in sorted(present - wanted):
        yield f"{source} can reach {target} at {port}, and should not"
    for source, target, port in sorted(wanted - present):
        yield f"{source} cannot reach {target} at {port}"


def _default_deny(cluster: Cluster) -> Iterator[str]:
    nothing = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    refused = {made["metadata"]["namespace"] for made in cluster.of("NetworkPolicy") if made["spec"] == nothing}
    for made in cluster.of("Namespace"):
        if made["metadata"]["name"] not in refused:
            yield f"{made['metadata']['name']} has no policy that refuses everything that no other allows"


def _disruption_budgets(cluster: Cluster) -> Iterator[str]:
    budgets = {made["metadata"]["name"]: made["spec"]["maxUnavailable"] for made in cluster.of("PodDisruptionBudget")}
    for workload in cluster.workloads:
        if not workload.serves:
            continue
        fewest, allowed = cluster.smallest(workload), budgets.get(workload.name)
        if allowed is None:
            yield f"{workload.name} has no PodDisruptionBudget"
            continue
        out = -(-fewest * int(allowed.removesuffix("%")) // 100) if isinstance(allowed, str) else allowed
        if not 0 < out < fewest:
            yield f"{workload.name}: of {fewest} pods {out} may be away, so a drain never ends or takes all of them"
        if workload.name == "nats" and fewest - out <= fewest // 2:
            yield f"nats: of {fewest} servers {out} may be away, which leaves no quorum"


def _probes(cluster: Cluster) -> Iterator[str]:
    for workload in cluster.workloads:
        if not workload.serves:
            continue
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = workload.main.get(kind)
            if probe is None:
                yield f"{workload.name} has no {kind}"
            elif "httpGet" in probe and probe["httpGet"]["port"] not in workload.ports:
                yield f"{workload.name}: {kind} asks the port {probe['httpGet']['port']!r}, which it does not have"
            elif "httpGet" in probe and (probe["httpGet"]["port"] == "https") != ("scheme" in probe["httpGet"]):
                yield f"{workload.name}: {kind} speaks the wrong one of HTTP and HTTPS"


def _monitors(cluster: Cluster) -> Iterator[str]:
    for made in cluster.of("PodMonitor"):
        for workload in cluster.selected(made["metadata"]["namespace"], made["spec"]["selector"]):
            for endpoint in made["spec"]["podMetricsEndpoints"]:
                if endpoint.keys() != {"port", "path", "interval"} or endpoint["port"] not in workload.ports:
                    yield f"PodMonitor {made['metadata']['name']} asks {endpoint}, which {workload.name} does not have"


# --- pods ---------------------------------------------------------------------------------------------------------


def _names(cluster: Cluster) -> Iterator[str]:
    for workload in cluster.workloads:
        images = {container["image"] for container in workload.containers}
        if images != {IMAGES[workload.name]}:
            yield f"{workload.name} runs {sorted(images)} instead of {IMAGES[workload.name]}"
        if workload.ports != PORTS[workload.name]:
            yield f"{workload.name} has the ports {workload.ports} instead of {PORTS[workload.name]}"
    if missing := IMAGES.keys() - {workload.name for workload in cluster.workloads}:
        yield f"there is no {sorted(missing)}"


def _settings(cluster: Cluster) -> Iterator[str]:
    for workload in cluster.workloads:
        ours = {name: value for name, value in workload.environment.items() if name.startswith("MAYFLY_")}
        for name in ours.keys() - known_names():
            yield f"{workload.name}: {name} is not a setting"
        role = ROLES.get({"operator": "bootstrap"}.get(workload.name, workload.name))
        if role is None:
            continue
        given = {name.removeprefix("MAYFLY_").lower(): value for name, value in ours.items()}
        for name in given.keys() - role.model_fields.keys():
            yield f"{workload.name}: MAYFLY_{name.upper()} is no setting of its role"
        try:
            role(**{name: value for name, value in given.items() if name in role.model_fields})  # type: ignore[arg-type]
        except ValidationError as error:
            yield f"{workload.name}: {error}"


def _volumes(cluster: Cluster) -> Iterator[str]:
    for workload in cluster.workloads:
        volumes = {volume["name"]: volume for volume in workload.pod.get("volumes", [])}
        claimed = {claim["metadata"]["name"] for claim in workload.made["spec"].get("volumeClaimTemplates", [])}
        mounted = {mount["name"] for container in workload.containers for mount in container.get("volumeMounts", [])}
        for name in mounted ^ (volumes.keys() | claimed):
            yield f"{workload.name}: the volume {name!r} is mounted and not there, or there and not mounted"
        for mount in workload.main.get("volumeMounts", []):
            if "secret" in volumes.get(mount["name"], {}) and ("subPath" in mount or not mount.get("readOnly")):
                yield f"{workload.name}: the Secret at {mount['mountPath']} must be a whole directory, read-only"


def _secrets(cluster: Cluster) -> Iterator[str]:
    for workload in cluster.workloads:
        for volume in workload.pod.get("volumes", []):
            for name, wanted in _wanted_of(volume):
                present = cluster.secret(workload.namespace, name)
                if present is None:
                    yield f"{workload.name}: there is no Secret {name} in {workload.namespace}"
                elif missing := wanted - present.keys():
                    yield f"{workload.name}: the Secret {name} has no {sorted(missing)}"
    used = {
        (each.namespace, name)
        for each in cluster.workloads
        for volume in each.pod.get("volumes", [])
        for name, _ in _wanted_of(volume)
    }
    for made in cluster.of("Secret"):
        if identity(made)[1:] not in used:
            yield f"the Secret {made['metadata']['name']} is used by nobody"


def _wanted_of(volume: Object) -> Iterator[tuple[str, set[str]]]:
    """The Secrets of a volume, each with the keys that must be in it."""
    if "secret" in volume:
        yield volume["secret"]["secretName"], set()
    for source in volume.get("projected", {}).get("sources", []):
        yield source["secret"]["name"], {item["key"] for item in source["secret"]["items"]}


def files_of(cluster: Cluster, workload: Workload, pod_name: str) -> dict[str, bytes]:
    """Return the files that a pod of *workload* finds where Secrets are mounted, by path."""
    volumes = {volume["name"]: volume for volume in workload.pod.get("volumes", [])}
    found: dict[str, bytes] = {}
    for mount in workload.main.get("volumeMounts", []):
        volume = volumes.get(mount["name"], {})
        if "secret" in volume:
            content = cluster.secret(workload.namespace, volume["secret"]["secretName"]) or {}
            found |= {f"{mount['mountPath']}/{key}": value for key, value in content.items()}
        below = mount.get("subPathExpr", "").replace("$(POD_NAME)", pod_name)
        for source in volume.get("projected", {}).get("sources", []):
            content = cluster.secret(workload.namespace, source["secret"]["name"]) or {}
            paths = {item["path"]: content.get(item["key"], b"") for item in source["secret"]["items"]}
            here = {
                path.removeprefix(f"{below}/"): value for path, value in paths.items() if path.startswith(f"{below}/")
            }
            found |= {f"{mount['mountPath']}/{path}": value for path, value in here.items()}
    return found


def _secret_files(cluster: Cluster) -> Iterator[str]:
    """What settings and commands name must be among the files."""
    for workload in cluster.workloads:
        files = files_of(cluster, workload, f"{workload.name}-0")
        said = [value for name, value in workload.environment.items() if re.fullmatch(r"MAYFLY_\w+_(FILE|DIR)", name)]
        if workload.name == "api":
            said += ["/run/secrets/mayfly/api.crt", "/run/secrets/mayfly/api.key"]  # the defaults of its settings
        words = [word for each in workload.containers for part in each.get("command", []) for word in part.split()]
        for path in [*said, *(word for word in words if word.startswith("/run/secrets/"))]:
            if not any(file == path or file.startswith(f"{path}/") for file in files):
                yield f"{workload.name}: {path} is in no Secret that it mounts"


def _grace(cluster: Cluster) -> Iterator[str]:
    for name in ("gateway", "api", "worker", "nats"):
        workload = cluster.workload(name)
        grace = workload.pod["terminationGracePeriodSeconds"]
        sleep = workload.main.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        needed = {
            "gateway": sleep + GATEWAY_SHUTDOWN_S,
            "api": float(workload.environment.get("MAYFLY_DRAIN_S", 0)) + API_GRACE_S,
            "worker": float(workload.environment.get("MAYFLY_STOP_GRACE_S", 0)),
            "nats": NATS_LAME_DUCK_S,
        }[name]
        if name != "nats" and needed <= TIMEOUT_MAX_S:
            yield f"{name} stops after {needed} s, but a call may take {TIMEOUT_MAX_S}"
        if grace <= needed:
            yield f"{name} has {grace} s to stop and may need {needed}"


def _privileges(cluster: Cluster) -> Iterator[str]:
    for workload in cluster.workloads:
        pod = workload.pod
        if pod.get("automountServiceAccountToken") is not False or pod.get("enableServiceLinks") is not False:
            yield f"{workload.name} gets a token of the cluster, or variables that name its Services"
        if any(pod.get(each) for each in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{workload.name} is in a namespace of the node"
        for container in workload.containers:
            context = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
            yield from _privileges_of(workload, context)
            yield from _resources_of(workload, container.get("resources", {}))


def _privileges_of(workload: Workload, context: Object) -> Iterator[str]:
    if context.get("runAsUser") != USERS[workload.name]:
        yield f"{workload.name} runs as {context.get('runAsUser')} instead of {USERS[workload.name]}"
    if context.get("readOnlyRootFilesystem") is not True or context.get("privileged"):
        yield f"{workload.name} can write to its root, or is privileged"
    capabilities = context.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"]:
        yield f"{workload.name} keeps capabilities"
    added, seccomp = set(capabilities.get("add", [])), context.get("seccompProfile", {}).get("type")
    needed: set[str] = set()
    if workload.name == "worker":
        needed = UNPACK_CAPABILITIES if _has_daemon(workload) else WORKER_CAPABILITIES
    if added != needed:
        yield f"{workload.name} has {sorted(added)} and needs {sorted(needed)}"
    confined = seccomp == "RuntimeDefault" and context.get("allowPrivilegeEscalation") is False
    if needed == WORKER_CAPABILITIES:
        confined = seccomp in {"Unconfined", "Localhost"}  # RuntimeDefault lets no container start
    if not confined:
        yield f"{workload.name} is not confined: seccomp {seccomp}"


def _has_daemon(workload: Workload) -> bool:
    """Whether a Docker daemon runs this worker's containers."""
    return workload.environment.get("MAYFLY_RUNTIME") == "docker"


def _resources_of(workload: Workload, resources: Object) -> Iterator[str]:
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    if not {"cpu", "memory"} <= requests.keys() or "memory" not in limits:
        yield f"{workload.name} lacks a request for cpu or memory, or a limit for memory"


def _pod_security(cluster: Cluster) -> Iterator[str]:
    """What a namespace enforces must let its pods in."""
    enforced = {
        made["metadata"]["name"]: made["metadata"]["labels"].get("pod-security.kubernetes.io/enforce")
        for made in cluster.of("Namespace")
    }
    for workload in cluster.workloads:
        level, needed = enforced[workload.namespace], _pod_security_of(workload)
        if level != needed:
            yield f"{workload.namespace} enforces {level}, and {workload.name} needs {needed}"


def _pod_security_of(workload: Workload) -> str:
    """The strictest level that lets a workload's pods in."""
    contexts = [each["securityContext"] for each in workload.containers]
    added = {name for context in contexts for name in context["capabilities"].get("add", [])}
    profiles = [context.get(kind, {}) for context in contexts for kind in ("seccompProfile", "appArmorProfile")]
    on_node = any("hostPath" in volume for volume in workload.pod["volumes"])
    if on_node or added - BASELINE_CAPABILITIES or any(profile.get("type") == "Unconfined" for profile in profiles):
        return "privileged"
    own_user = workload.pod.get("securityContext", {}).get("runAsNonRoot")
    return "restricted" if own_user and added <= {"NET_BIND_SERVICE"} else "baseline"


def _image_room(cluster: Cluster) -> Iterator[str]:
    worker = cluster.workload("worker")
    volume = next(each for each in worker.pod["volumes"] if each["name"] == "images")
    room = int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi")) << 30
    cache = int(worker.environment["MAYFLY_IMAGE_CACHE_BYTES"])
    largest = int(ROLES["worker"].model_fields["image_max_bytes"].default)
    limit = int(worker.main["resources"]["limits"]["ephemeral-storage"].removesuffix("Gi")) << 30
    if not cache + largest <= room <= limit:
        yield f"worker: a cache of {cache} and an image of {largest} must fit into {room}, and that into {limit}"


# --- scaling, and NATS --------------------------------------------------------------------------------------------


def _scaling(cluster: Cluster) -> Iterator[str]:
    for made in cluster.of("HorizontalPodAutoscaler", "ScaledObject"):
        target = made["spec"]["scaleTargetRef"]
        meant = [
            each
            for each in cluster.workloads
            if (each.made["kind"], each.namespace, each.name)
            == (target["kind"], made["metadata"]["namespace"], target["name"])
        ]
        if not meant:
            yield f"{made['kind']} {made['metadata']['name']} scales {target['name']}, which is not there"
        elif "replicas" in meant[0].made["spec"]:
            yield f"{target['name']} has a number of replicas and is scaled: each apply would undo the scaling"
    for made in cluster.of("ScaledObject"):
        yield from _keda(cluster, made)


def _keda(cluster: Cluster, made: Object) -> Iterator[str]:
    worker, spec = cluster.workload("worker"), made["spec"]
    (trigger,) = spec["triggers"]
    said = trigger["metadata"]
    if unknown := said.keys() - SCALER_FIELDS:
        yield f"KEDA: the scaler knows no {sorted(unknown)}"
    if trigger["type"] != "nats-jetstream" or said.get("useHttps") != "false":
        yield "KEDA: the trigger is not nats-jetstream by plain HTTP, which is what the port speaks"
    meant = (said["account"], said["stream"], said["consumer"])
    if meant != (ACCOUNT, subjects.ACT, subjects.ACT_CONSUMER):
        yield f"KEDA: asks for {meant}, which is not the consumer of the work stream"
    slots = worker.environment["MAYFLY_SLOTS"]
    if said["lagThreshold"] != slots:
        yield f"KEDA: lagThreshold is {said['lagThreshold']}, a worker has {slots} slots"
    limit = int(cluster.workload("bootstrap").environment["MAYFLY_MAX_ACTIVATIONS"])
    if spec["maxReplicaCount"] != -(-limit // int(slots)):
        yield f"KEDA: {spec['maxReplicaCount']} workers of {slots} slots are not what {limit} activations can fill"
    if spec["minReplicaCount"] < 2:
        yield "KEDA: fewer than two workers, so one that goes takes the service with it"
    service = next(each for each in cluster.of("Service") if each["metadata"]["name"] == "nats")
    address = f"nats.{service['metadata']['namespace']}.svc.cluster.local:{PORTS['nats']['monitor']}"
    if said["natsServerMonitoringEndpoint"] != address or service["spec"].get("clusterIP") != "None":
        yield f"KEDA: asks {said['natsServerMonitoringEndpoint']}; it finds a server's name below {address} only"


def _nats(cluster: Cluster) -> Iterator[str]:
    nats = cluster.workload("nats")
    hosts = [
        f"nats-{number}.nats.{nats.namespace}.svc.cluster.local" for number in range(nats.made["spec"]["replicas"])
    ]
    urls = ",".join(f"tls://{host}:{PORTS['nats']['nats']}" for host in hosts)
    for name in ("api", "worker", "bootstrap", "operator"):
        if cluster.workload(name).environment["MAYFLY_NATS_URL"] != urls:
            yield f"{name}: MAYFLY_NATS_URL does not name the servers that there are"
        if cluster.workload(name).environment["MAYFLY_NATS_USER"] != {"bootstrap": "admin", "operator": "admin"}.get(
            name, name
        ):
            yield f"{name}: is another user of NATS"
    if int(cluster.workload("bootstrap").environment["MAYFLY_NATS_REPLICAS"]) > len(hosts):
        yield "bootstrap: wants more copies than there are servers"
    service = next(each for each in cluster.of("Service") if each["metadata"]["name"] == "nats")
    if nats.made["spec"]["serviceName"] != "nats" or not service["spec"].get("publishNotReadyAddresses"):
        yield "nats: its servers cannot find each other before they are ready"
    if nats.made["spec"].get("podManagementPolicy") != "Parallel":
        yield "nats: the first server waits to be ready for a second one, which waits for the first"
    for number, host in enumerate(hosts):
        yield from _nats_server(cluster, nats, number, host)


def _nats_server(cluster: Cluster, nats: Workload, number: int, host: str) -> Iterator[str]:
    name = f"nats-{number}"
    files = files_of(cluster, nats, name)
    config: Object = json.loads(files["/run/secrets/mayfly/nats.conf"])
    ports = {
        "nats": config["listen"].rpartition(":"),
        "routes": config["cluster"]["listen"].rpartition(":"),
        "monitor": config["http"].rpartition(":"),
    }
    for port, (address, _, value) in ports.items():
        if (address, int(value)) != ("0.0.0.0", nats.ports[port]):
            yield f"{name} listens for {port} on {address}:{value}"
    if config["server_name"] != name:
        yield f"{name} is called {config['server_name']}: KEDA finds a leader by its pod's name"
    for key in ("cert_file", "key_file", "ca_file"):
        if config["tls"][key] not in files:
            yield f"{name}: {config['tls'][key]} is not mounted"
    mounts = {mount["mountPath"] for mount in nats.main["volumeMounts"] if mount["name"] == "data"}
    if config["jetstream"]["store_dir"] not in mounts:
        yield f"{name} stores in {config['jetstream']['store_dir']}, which no volume is mounted at"
    if host not in certified(files["/run/secrets/mayfly/nats.crt"]):
        yield f"{name}: its certificate is not for {host}"


def _api_certificate(cluster: Cluster) -> Iterator[str]:
    api = cluster.workload("api")
    host = f"api.{api.namespace}.svc.cluster.local"
    if host not in certified(files_of(cluster, api, "api-0")["/run/secrets/mayfly/api.crt"]):
        yield f"api: its certificate is not for {host}"


def certified(pem: bytes) -> list[str]:
    """Return the host names of a certificate."""
    extension = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return extension.value.get_values_for_type(x509.DNSName)


CHECKS: list[Callable[[Cluster], Iterator[str]]] = [
    _namespaces,
    _selectors,
    _services,
    _one_way_in,
    _network,
    _default_deny,
    _disruption_budgets,
    _probes,
    _monitors,
    _names,
    _settings,
    _volumes,
    _secrets,
    _secret_files,
    _grace,
    _privileges,
    _pod_security,
    _image_room,
    _scaling,
    _nats,
    _api_certificate,
]
