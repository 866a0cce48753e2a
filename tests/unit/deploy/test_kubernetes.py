"""
deploy/kubernetes: rendered with secrets made for it, validated against the real schemas, and looked through.

A planted mistake is made in a copy of the files, one each, so every test goes the whole way that the files go.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from tests.support.kubernetes import (
    KUBERNETES,
    ROOT,
    VERSIONS,
    Cluster,
    faults,
    files_of,
    keda_faults,
    schema_faults,
)
from tests.support.kustomize import CannotBuild, Object, build, identity
from tests.support.need import need
from tests.support.page import blocks_of

pytestmark = pytest.mark.D7

OVERLAYS = sorted(path.parent.name for path in KUBERNETES.glob("overlays/*/kustomization.yaml"))
GUIDE = (ROOT / "docs/howto/deploy-on-kubernetes.md").read_text(encoding="utf-8")
README = (KUBERNETES / "README.md").read_text(encoding="utf-8")
KUSTOMIZE_SINCE = 5


COMMAND = re.compile(
    r"^(?:MAYFLY_GATEWAY_.*\\\n *)?mayfly (?:secrets create|gateway render) (?:.*\\\n)*.*$", re.MULTILINE
)
GATEWAY_SETTING = re.compile(r"\b(MAYFLY_GATEWAY_\w+)=(\S+)")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of deploy/kubernetes with the secrets that the README's commands make, a Docker daemon's included."""
    place = tmp_path_factory.mktemp("deploy") / "kubernetes"
    shutil.copytree(KUBERNETES, place, ignore=shutil.ignore_patterns("secrets"))
    commands = README.partition("## First call")[0]
    for command in COMMAND.findall(commands):
        words = shlex.split(command.replace("\\\n", " ").replace("deploy/kubernetes", str(place)))
        settings = dict(GATEWAY_SETTING.findall(command))
        program = [sys.executable, "-m", *words[len(settings) :]]
        subprocess.run(program, check=True, capture_output=True, env=os.environ | settings)
    subprocess.run([place / "list-secrets"], check=True, capture_output=True)
    return place


@pytest.fixture(scope="module")
def with_docker(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with the certificates of a Docker daemon among the secrets."""
    place = tmp_path_factory.mktemp("docker") / "kubernetes"
    shutil.copytree(prepared, place)
    (place / "secrets/docker").mkdir()
    for name in ("ca", "cert", "key"):
        (place / f"secrets/docker/{name}.pem").write_text(name)
    subprocess.run([place / "list-secrets"], check=True, capture_output=True)
    return place


@pytest.fixture(scope="module", params=OVERLAYS)
def objects(request: pytest.FixtureRequest, prepared: Path, with_docker: Path) -> list[Object]:
    """The objects of each overlay."""
    return build((with_docker if request.param == "remote-docker" else prepared) / "overlays" / request.param)


@pytest.fixture(scope="module")
def autoscaled(prepared: Path) -> Cluster:
    """The usual overlay."""
    return Cluster(build(prepared / "overlays/autoscaled"))


def test_every_overlay_holds_together(objects: list[Object]) -> None:
    """Selectors, ports, settings, secrets, certificates, networks, privileges, times and numbers fit each other."""
    assert len(objects) > 30
    assert faults(objects) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_what_kubernetes_knows(objects: list[Object], version: str) -> None:
    """The schemas of the oldest and the newest supported version accept all objects, and know all their fields."""
    assert schema_faults(objects, version) == []


def test_the_scaler_is_what_keda_knows(autoscaled: Cluster) -> None:
    """KEDA's own types accept the ScaledObject, and know all its fields."""
    need_node()

    assert len(autoscaled.of("ScaledObject")) == 1
    assert keda_faults(autoscaled.objects) == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_kubectl_builds_the_same(prepared: Path, with_docker: Path, name: str) -> None:
    """What these tests read is what `kubectl kustomize` makes of the files, to the last hash of a Secret."""
    kubectl = shutil.which("kubectl")
    need(kubectl and kustomize_version() >= KUSTOMIZE_SINCE, f"kubectl with kustomize {KUSTOMIZE_SINCE} or later")
    directory = (with_docker if name == "remote-docker" else prepared) / "overlays" / name

    assert by_kubectl(directory) == {identity(made): made for made in build(directory)}


def test_every_component_can_be_named(prepared: Path, tmp_path: Path) -> None:
    """With what the usual overlay has commented out it holds together as well, and kubectl builds the same."""
    place = tmp_path / "kubernetes"
    shutil.copytree(prepared, place)
    path = place / "overlays/autoscaled/kustomization.yaml"
    path.write_text(path.read_text().replace("  # - ../", "  - ../"))
    made = build(path.parent)
    cluster = Cluster(made)

    assert faults(made) == []
    assert len(cluster.of("PodMonitor")) == 3
    profile = cluster.workload("worker").main["securityContext"]["seccompProfile"]
    assert profile == {"type": "Localhost", "localhostProfile": "mayfly/worker.json"}
    named = {part.name for part in (KUBERNETES / "components").iterdir() if part.name in path.read_text()}
    assert {part.name for part in (KUBERNETES / "components").iterdir()} - named == {"docker-socket", "remote-docker"}
    if shutil.which("kubectl"):
        assert by_kubectl(path.parent) == {identity(each): each for each in made}


@pytest.mark.D3
def test_the_gateway_reads_its_files_where_it_looks_for_them(autoscaled: Cluster) -> None:
    """Both files are links in conf/ to mounted directories, so that a changed Secret arrives without a restart."""
    gateway = autoscaled.workload("gateway")
    links = dict(re.findall(r"ln -sf (\S+) /conf/(\S+)", gateway.pod["initContainers"][0]["command"][-1]))
    mounts = {mount["mountPath"]: mount for mount in gateway.main["volumeMounts"]}

    assert {Path(path).name: name for path, name in links.items()} == {
        name: name for name in ("config.yaml", "apisix.yaml")
    }
    assert set(links) <= files_of(autoscaled, gateway, "gateway").keys()
    assert not any("subPath" in mounts[str(Path(path).parent)] for path in links)
    assert mounts["/usr/local/apisix/conf"]["subPath"] == gateway.pod["initContainers"][0]["volumeMounts"][0]["subPath"]


@pytest.mark.D3
def test_the_gateway_finds_the_api_servers_and_trusts_them(autoscaled: Cluster, prepared: Path) -> None:
    """By the Service's own name, which is in their certificates, and by the authority's, which is mounted there."""
    files = files_of(autoscaled, autoscaled.workload("gateway"), "gateway")
    config, routes = (
        yaml.safe_load((prepared / "secrets/rendered" / name).read_text()) for name in ("config.yaml", "apisix.yaml")
    )
    [api] = routes["upstreams"]
    [service] = [each for each in autoscaled.objects if (each["kind"], each["metadata"]["name"]) == ("Service", "api")]
    names = x509.load_pem_x509_certificate((prepared / "secrets/api/api.crt").read_bytes()).extensions

    assert config["apisix"]["ssl"]["ssl_trusted_certificate"] in files
    assert api["service_name"] == f"api.mayfly.svc.cluster.local:{service['spec']['ports'][0]['port']}"
    assert api["upstream_host"] in names.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.DNSName
    )
    said = GATEWAY_SETTING.findall(README)
    assert set(said) == {("MAYFLY_GATEWAY_API", api["service_name"]), ("MAYFLY_GATEWAY_API_DISCOVERY", "dns")}
    assert len(said) == 2 * README.count("mayfly gateway render --secrets")


def test_no_secret_is_in_the_repository() -> None:
    """The committed files have no Secret and no key, and git ignores the directory that has."""
    for path in KUBERNETES.rglob("*.yaml"):
        if "secrets" not in path.relative_to(KUBERNETES).parts:
            assert not re.search(r"kind: Secret\b|PRIVATE KEY|stringData|password: ", path.read_text()), path
    assert "/secrets/" in (KUBERNETES / ".gitignore").read_text().splitlines()


def test_each_role_gets_its_own_secrets_only(autoscaled: Cluster) -> None:
    """Nobody mounts another role's Secret; workers' are in a namespace of their own; no pod gets a CA's key."""
    holders: dict[str, set[str]] = {}
    for workload in autoscaled.workloads:
        for path, content in files_of(autoscaled, workload, f"{workload.name}-0").items():
            if b"PRIVATE KEY" in content or path.endswith("nats.password"):
                holders.setdefault(f"{workload.namespace}:{content.decode()}", set()).add(workload.name)

    # The gateway's routes; api's certificate, token key and password; worker's password and sealing key; admin's;
    # nats-0's certificate.
    assert len(holders) == 8
    assert {frozenset(names) for names in holders.values()} == {
        frozenset({"gateway"}),
        frozenset({"api"}),
        frozenset({"worker"}),
        frozenset({"bootstrap", "operator"}),
        frozenset({"nats"}),
    }
    assert not any(b"ca.key" in json.dumps(made).encode() for made in autoscaled.of("Secret"))


def test_a_changed_secret_restarts_who_uses_it_and_nobody_else(prepared: Path, tmp_path: Path) -> None:
    """With another password for the workers, the workers' pods are other pods, and all others are the same."""
    place = tmp_path / "kubernetes"
    shutil.copytree(prepared, place)
    before = {identity(made): made for made in build(place / "overlays/fixed") if made["kind"] != "Secret"}
    (place / "secrets/worker/nats.password").unlink()
    (place / "secrets/worker/nats.password").write_text("another")
    after = {identity(made): made for made in build(place / "overlays/fixed") if made["kind"] != "Secret"}

    assert [key for key in before if before[key] != after[key]] == [("Deployment", "mayfly-workers", "worker")]


def test_a_key_that_waits_to_sign_reaches_the_api_servers(prepared: Path, tmp_path: Path) -> None:
    """After the first step of rotating the token key, the API servers' Secret has both."""
    place = tmp_path / "kubernetes"
    shutil.copytree(prepared, place)
    rotate = ["mayfly", "secrets", "rotate", str(place / "secrets"), "token-key"]
    subprocess.run([sys.executable, "-m", *rotate], check=True, capture_output=True)
    subprocess.run([place / "list-secrets"], check=True, capture_output=True)
    cluster = Cluster(build(place / "overlays/fixed"))
    keys = [path for path in files_of(cluster, cluster.workload("api"), "") if "token-keys" in path]

    assert sorted(Path(key).suffix for key in keys) == [".next", ".pem"]


def test_a_sealing_key_reaches_workers_private_and_api_servers_public(prepared: Path, tmp_path: Path) -> None:
    """In the first step of a rotation workers have both, and API servers the public half of the one that seals."""
    place = tmp_path / "kubernetes"
    shutil.copytree(prepared, place)
    rotate = ["mayfly", "secrets", "rotate", str(place / "secrets"), "sealing-key"]
    subprocess.run([sys.executable, "-m", *rotate], check=True, capture_output=True)
    subprocess.run([place / "list-secrets"], check=True, capture_output=True)
    cluster = Cluster(build(place / "overlays/fixed"))
    api, worker = (
        {
            path: content
            for path, content in files_of(cluster, cluster.workload(role), "").items()
            if path.startswith("/run/secrets/mayfly-sealing-keys/")
        }
        for role in ("api", "worker")
    )

    assert (len(api), len(worker)) == (1, 2)
    assert all(b"PUBLIC KEY" in key for key in api.values())
    assert all(b"PRIVATE KEY" in key for key in worker.values())


@pytest.mark.parametrize("missing", ["nats-1/nats.key", "rendered/apisix.yaml", "worker/ca.crt"])
def test_a_secrets_directory_that_lacks_a_file_is_refused(prepared: Path, tmp_path: Path, missing: str) -> None:
    """list-secrets names the file, fails, and leaves its last good list."""
    place = tmp_path / "kubernetes"
    shutil.copytree(prepared, place)
    before = (place / "secrets/kustomization.yaml").read_text()
    (place / "secrets" / missing).unlink()
    ended = subprocess.run([place / "list-secrets"], check=False, capture_output=True, text=True)

    assert ended.returncode == 1
    assert f"{missing} is missing" in ended.stderr
    assert (place / "secrets/kustomization.yaml").read_text() == before


def test_list_secrets_asks_for_the_directory(tmp_path: Path) -> None:
    """Without a secrets directory it says what makes one."""
    ended = subprocess.run(
        [KUBERNETES / "list-secrets", tmp_path / "none"], check=False, capture_output=True, text=True
    )

    assert ended.returncode == 2
    assert "mayfly secrets create" in ended.stderr


def test_without_secrets_nothing_is_built(tmp_path: Path) -> None:
    """An overlay cannot be applied before its secrets have been made."""
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes", ignore=shutil.ignore_patterns("secrets"))

    with pytest.raises(CannotBuild, match="secrets"):
        build(tmp_path / "kubernetes/overlays/autoscaled")


# --- planted mistakes ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mistake:
    """One change of one file, and what must be said about it."""

    name: str
    file: str
    old: str
    new: str
    said: str


MISTAKES = [
    Mistake(
        "selector",
        "base/api.yaml",
        "selector: {app.kubernetes.io/name: api,",
        "selector: {app.kubernetes.io/name: apo,",
        "Service api selects nothing",
    ),
    Mistake(
        "labels",
        "base/worker.yaml",
        "      labels: {app.kubernetes.io/name: worker, ",
        "      labels: {app.kubernetes.io/name: worked, ",
        "which are not the labels of its pods",
    ),
    Mistake(
        "budget",
        "base/api.yaml",
        "matchLabels: {app.kubernetes.io/name: api, app.kubernetes.io/part-of: mayfly}\n$",
        "matchLabels: {app.kubernetes.io/name: gateway, app.kubernetes.io/part-of: mayfly}\n$",
        "PodDisruptionBudget api selects ['gateway']",
    ),
    Mistake("target-port", "base/gateway.yaml", "targetPort: https", "targetPort: htttps", "has no port 'htttps'"),
    Mistake(
        "headless-port",
        "base/api.yaml",
        "port: 8443, targetPort",
        "port: 443, targetPort",
        "must be the pods' own https",
    ),
    Mistake("second-way-in", "base/nats.yaml", "  clusterIP: None  #", "  type: NodePort  #", "publishes"),
    Mistake(
        "image",
        "base/worker.yaml",
        "mayfly/worker:0.1.0",
        "mayfly/wroker:0.1.0",
        "worker runs ['mayfly/wroker:0.1.0']",
    ),
    Mistake(
        "container-port", "base/gateway.yaml", "containerPort: 9443", "containerPort: 9444", "gateway has the ports"
    ),
    Mistake(
        "probe",
        "base/nats.yaml",
        "httpGet: {port: monitor, path: /healthz}",
        "httpGet: {port: health, path: /healthz}",
        "asks the port 'health'",
    ),
    Mistake(
        "probe-scheme",
        "base/api.yaml",
        "path: /readyz, scheme: HTTPS",
        "path: /readyz",
        "the wrong one of HTTP and HTTPS",
    ),
    Mistake(
        "unknown-setting",
        "base/api.yaml",
        "name: MAYFLY_DRAIN_S",
        "name: MAYFLY_DRAIN_SECONDS",
        "MAYFLY_DRAIN_SECONDS is not a setting",
    ),
    Mistake(
        "other-roles-setting",
        "base/api.yaml",
        "name: MAYFLY_DRAIN_S",
        "name: MAYFLY_SLOTS",
        "MAYFLY_SLOTS is no setting of its role",
    ),
    Mistake("value", "base/worker.yaml", 'MAYFLY_SLOTS, value: "8"', 'MAYFLY_SLOTS, value: "eight"', "valid integer"),
    Mistake(
        "secret-name",
        "base/api.yaml",
        "secretName: api-token-keys",
        "secretName: api-keys",
        "there is no Secret api-keys",
    ),
    Mistake(
        "secret-namespace",
        "base/worker.yaml",
        "secretName: worker",
        "secretName: api",
        "there is no Secret api in mayfly-workers",
    ),
    Mistake(
        "secret-key",
        "base/nats.yaml",
        "{key: nats.conf, path: nats-1/nats.conf}",
        "{key: server.conf, path: nats-1/nats.conf}",
        "has no ['server.conf']",
    ),
    Mistake(
        "secret-file",
        "base/api.yaml",
        "/run/secrets/mayfly/gateway.secret",
        "/run/secrets/mayfly/gateway.key",
        "gateway.key is in no Secret that it mounts",
    ),
    Mistake(
        "secret-subpath",
        "base/gateway.yaml",
        "{name: routes, mountPath: /run/secrets/mayfly, readOnly: true}",
        "{name: routes, mountPath: /run/secrets/mayfly, subPath: apisix.yaml, readOnly: true}",
        "must be a whole directory",
    ),
    Mistake(
        "volume",
        "base/worker.yaml",
        "{name: tmp, mountPath: /tmp}",
        "{name: temp, mountPath: /tmp}",
        "the volume 'temp' is mounted and not there",
    ),
    Mistake(
        "worker-grace",
        "base/worker.yaml",
        "terminationGracePeriodSeconds: 360",
        "terminationGracePeriodSeconds: 300",
        "worker has 300 s to stop",
    ),
    Mistake("worker-stops-early", "base/worker.yaml", 'value: "310"', 'value: "30"', "a call may take 300"),
    Mistake(
        "gateway-grace",
        "base/gateway.yaml",
        "seconds: 10}",
        "seconds: 30}",
        "gateway has 360 s to stop and may need 370",
    ),
    Mistake("quorum", "base/nats.yaml", "maxUnavailable: 1  #", "maxUnavailable: 2  #", "leaves no quorum"),
    Mistake("never-drained", "base/gateway.yaml", "replicas: 2", "replicas: 1", "of 1 pods 1 may be away"),
    Mistake(
        "no-default-deny",
        "base/network.yaml",
        "policyTypes: [Ingress, Egress]\n---",
        "policyTypes: [Ingress]\n---",
        "mayfly has no policy that refuses everything",
    ),
    Mistake(
        "open-monitoring",
        "base/network.yaml",
        "    - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: keda}}}, ",
        "    - from: [{namespaceSelector: {}}, ",
        "elsewhere can reach nats at 8222",
    ),
    Mistake(
        "api-past-the-gateway",
        "base/network.yaml",
        "[{podSelector: {matchLabels: {app.kubernetes.io/name: gateway, app.kubernetes.io/part-of: mayfly}}}]",
        "[]",
        "elsewhere can reach api at 8443",
    ),
    Mistake("metadata-service", "base/network.yaml", "169.254.0.0/16, ", "", "worker can reach metadata at 443"),
    Mistake(
        "forgotten-port",
        "base/network.yaml",
        "ports: [{port: 6222, protocol: TCP}]",
        "ports: [{port: 6223, protocol: TCP}]",
        "nats cannot reach nats at 6222",
    ),
    Mistake(
        "wrong-namespace",
        "base/network.yaml",
        "- namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: mayfly-workers}}",
        "- namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: mayfly}}",
        "worker cannot reach nats at 4222",
    ),
    Mistake(
        "privileged",
        "base/worker.yaml",
        "            runAsUser: 0\n",
        "            runAsUser: 0\n            privileged: true\n",
        "is privileged",
    ),
    Mistake(
        "capability",
        "base/worker.yaml",
        "                - KILL",
        "                - NET_ADMIN",
        "worker has ['CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'NET_ADMIN', ",
    ),
    Mistake(
        "capability-of-another",
        "base/api.yaml",
        "capabilities: {drop: [ALL]}",
        "capabilities: {drop: [ALL], add: [CHOWN]}",
        "api has ['CHOWN'] and needs []",
    ),
    Mistake("seccomp", "base/worker.yaml", "{type: Unconfined}", "{type: RuntimeDefault}", "worker is not confined"),
    Mistake(
        "writable-root",
        "base/api.yaml",
        "readOnlyRootFilesystem: true",
        "readOnlyRootFilesystem: false",
        "api can write to its root",
    ),
    Mistake(
        "token",
        "base/api.yaml",
        "automountServiceAccountToken: false",
        "automountServiceAccountToken: true",
        "api gets a token of the cluster",
    ),
    Mistake(
        "service-links",
        "base/gateway.yaml",
        "      enableServiceLinks: false\n",
        "",
        "variables that name its Services",
    ),
    Mistake("user", "base/nats.yaml", "runAsUser: 59801", "runAsUser: 1000", "nats runs as 1000"),
    Mistake(
        "pod-security",
        "base/namespaces.yaml",
        "enforce: restricted",
        "enforce: privileged",
        "mayfly enforces privileged",
    ),
    Mistake(
        "no-memory-limit",
        "base/gateway.yaml",
        'limits: {cpu: "2", memory: 512Mi}',
        'limits: {cpu: "2"}',
        "a limit for memory",
    ),
    Mistake("image-room", "base/worker.yaml", '"8589934592"', '"21474836480"', "must fit into"),
    Mistake(
        "lag",
        "components/keda/worker.yaml",
        'lagThreshold: "8"',
        'lagThreshold: "10"',
        "lagThreshold is 10, a worker has 8 slots",
    ),
    Mistake(
        "lag-misspelt",
        "components/keda/worker.yaml",
        "activationLagThreshold",
        "activationLagTreshold",
        "knows no ['activationLagTreshold']",
    ),
    Mistake(
        "consumer",
        "components/keda/worker.yaml",
        "consumer: workers",
        "consumer: w",
        "not the consumer of the work stream",
    ),
    Mistake(
        "too-many-workers",
        "components/keda/worker.yaml",
        "maxReplicaCount: 32",
        "maxReplicaCount: 100",
        "are not what 256 activations can fill",
    ),
    Mistake("monitoring-by-tls", "components/keda/worker.yaml", 'useHttps: "false"', 'useHttps: "true"', "plain HTTP"),
    Mistake(
        "keda-endpoint",
        "components/keda/worker.yaml",
        "Endpoint: nats.mayfly.svc",
        "Endpoint: nats.svc",
        "it finds a server's name below",
    ),
    Mistake(
        "scaled-and-fixed",
        "base/api.yaml",
        "spec:\n  # no `replicas`",
        "spec:\n  replicas: 2\n  # no `replicas`",
        "each apply would undo the scaling",
    ),
    Mistake(
        "scales-nothing",
        "base/api.yaml",
        "kind: Deployment, name: api}",
        "kind: Deployment, name: apis}",
        "scales apis, which is not there",
    ),
    Mistake(
        "nats-url",
        "base/worker.yaml",
        "tls://nats-2.nats.",
        "tls://nats-3.nats.",
        "worker: MAYFLY_NATS_URL does not name",
    ),
    Mistake(
        "nats-user",
        "base/worker.yaml",
        "MAYFLY_NATS_USER, value: worker",
        "MAYFLY_NATS_USER, value: admin",
        "worker: is another user of NATS",
    ),
    Mistake(
        "copies",
        "base/bootstrap.yaml",
        'REPLICAS, value: "3"',
        'REPLICAS, value: "5"',
        "more copies than there are servers",
    ),
    Mistake("deadlock", "base/nats.yaml", "  podManagementPolicy: Parallel\n", "", "the first server waits"),
    Mistake("store", "base/nats.yaml", "mountPath: /data", "mountPath: /var/lib/nats", "which no volume is mounted at"),
    Mistake(
        "namespace", "base/operator.yaml", "namespace: mayfly", "namespace: mayfly-operators", "which is not declared"
    ),
]


def planted(prepared: Path, tmp_path: Path, mistake: Mistake, overlay: str = "autoscaled") -> list[Object]:
    """Return an overlay, the usual one by default, with a mistake in it."""
    place = tmp_path / "kubernetes"
    shutil.copytree(prepared, place)
    path = place / mistake.file
    text, old, new = path.read_text(), mistake.old.removesuffix("$"), mistake.new.removesuffix("$")
    assert old in text, "the mistake cannot be planted any more"
    at = text.rindex(old) if mistake.old.endswith("$") else text.index(old)
    path.write_text(text[:at] + new + text[at + len(old) :])
    return build(place / "overlays" / overlay)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_found(prepared: Path, tmp_path: Path, mistake: Mistake) -> None:
    """Each is told in a sentence that names it."""
    found = faults(planted(prepared, tmp_path, mistake))

    assert any(mistake.said in sentence for sentence in found), found


DOCKER_MISTAKES = [
    Mistake("nothing-added", "worker.yaml", "      add:\n", "      was:\n", "worker has [] and needs ['CHOWN', "),
    Mistake(
        "one-too-few", "worker.yaml", "        - FOWNER", "        # FOWNER", "and needs ['CHOWN', 'DAC_OVERRIDE', "
    ),
    Mistake(
        "one-too-many", "worker.yaml", "        - FOWNER", "        - KILL\n        - FOWNER", "'KILL', 'SETFCAP'] and"
    ),
    Mistake("seccomp", "worker.yaml", "{type: RuntimeDefault}", "{type: Unconfined}", "not confined: seccomp Unconf"),
    Mistake("gains", "worker.yaml", "allowPrivilegeEscalation: false", "privileged: false", "worker is not confined"),
]


@pytest.mark.parametrize("overlay", ["docker-socket", "remote-docker"])
@pytest.mark.parametrize("mistake", DOCKER_MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_in_a_worker_of_a_docker_daemon_is_found(
    with_docker: Path, tmp_path: Path, mistake: Mistake, overlay: str
) -> None:
    """It has what unpacking needs, no less and no more, and stays confined as everybody else."""
    planted_there = replace(mistake, file=f"components/{overlay}/{mistake.file}")
    found = faults(planted(with_docker, tmp_path, planted_there, overlay))

    assert any(mistake.said in sentence for sentence in found), found


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("value: baseline", "value: privileged", "enforces privileged, and worker needs baseline"),
        ("value: baseline", "value: restricted", "enforces restricted, and worker needs baseline"),
    ],
)
def test_workers_of_a_remote_daemon_get_no_more_than_baseline(
    with_docker: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    """What unpacking needs is among what that level allows, so their namespace enforces it, and nothing laxer."""
    mistake = Mistake("", "components/remote-docker/namespace.yaml", old, new, said)

    assert f"mayfly-workers {said}" in faults(planted(with_docker, tmp_path, mistake, "remote-docker"))


SCHEMA_MISTAKES = [
    Mistake(
        "unknown-field",
        "base/worker.yaml",
        "terminationGracePeriodSeconds",
        "terminationGracePeriod",
        "terminationGracePeriod",
    ),
    Mistake("wrong-type", "base/gateway.yaml", "replicas: 2", 'replicas: "2"', "'2' is not of type"),
    Mistake(
        "missing-field", "base/nats.yaml", "  serviceName: nats\n  replicas: 3", "  replicas: three", "'three' is not"
    ),
    Mistake("unknown-kind", "base/bootstrap.yaml", "apiVersion: batch/v1", "apiVersion: batch/v3", "batch/v3"),
    Mistake(
        "misplaced", "base/api.yaml", "maxUnavailable: 0, maxSurge: 1", "maxUnavailable: 0, maxSurgery: 1", "maxSurgery"
    ),
]


@pytest.mark.parametrize("mistake", SCHEMA_MISTAKES, ids=lambda mistake: mistake.name)
def test_what_kubernetes_does_not_know_is_found(prepared: Path, tmp_path: Path, mistake: Mistake) -> None:
    """The schemas of both versions refuse it."""
    made = planted(prepared, tmp_path, mistake)
    for version in VERSIONS:
        found = schema_faults(made, version)
        assert any(mistake.said in sentence for sentence in found), found


KEDA_MISTAKES = [
    Mistake(
        "unknown-field",
        "components/keda/worker.yaml",
        "minReplicaCount",
        "minReplicas",
        "unknown field /spec/minReplicas",
    ),
    Mistake(
        "deep-unknown-field", "components/keda/worker.yaml", "selectPolicy", "policy", "unknown field /spec/advanced/"
    ),
    Mistake(
        "wrong-type", "components/keda/worker.yaml", "maxReplicaCount: 32", 'maxReplicaCount: "32"', "must be integer"
    ),
    Mistake("number-for-text", "components/keda/worker.yaml", 'lagThreshold: "8"', "lagThreshold: 8", "must be string"),
    Mistake(
        "missing-field",
        "components/keda/worker.yaml",
        "scaleTargetRef",
        "scaleTarget",
        "required property scaleTargetRef",
    ),
]


@pytest.mark.parametrize("mistake", KEDA_MISTAKES, ids=lambda mistake: mistake.name)
def test_what_keda_does_not_know_is_found(prepared: Path, tmp_path: Path, mistake: Mistake) -> None:
    """KEDA's own types refuse it."""
    need_node()
    found = keda_faults(planted(prepared, tmp_path, mistake))

    assert any(mistake.said in sentence for sentence in found), found


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("overlays/autoscaled/kustomization.yaml", "components:", "namePrefix: x-\ncomponents:"),
        ("overlays/autoscaled/kustomization.yaml", "../../components/keda", "../../components/kedar"),
        ("components/keda/no-replicas.yaml", "/spec/replicas", "/spec/replicaz"),
        ("components/keda/kustomization.yaml", "name: worker}", "name: workers}"),
        ("components/keda/kustomization.yaml", "kind: Component", "kind: Kustomization"),
        ("base/kustomization.yaml", "  - api.yaml", "  - api.yaml\n  - api.yaml"),
    ],
    ids=["unknown", "no-directory", "no-path", "no-target", "no-component", "twice"],
)
def test_what_cannot_be_built_is_refused(prepared: Path, tmp_path: Path, file: str, old: str, new: str) -> None:
    """A kustomization that kustomize, or this reading of it, would not follow is an error rather than left out."""
    with pytest.raises(CannotBuild):
        planted(prepared, tmp_path, Mistake("", file, old, new, ""))


def test_secrets_for_other_names_are_found(prepared: Path, tmp_path: Path) -> None:
    """With a secrets directory that was made for compose, certificates and names do not fit, and nothing is built."""
    place = tmp_path / "kubernetes"
    shutil.copytree(prepared, place)
    names = [
        "--api-host",
        "api",
        "--nats-monitor",
        "127.0.0.1",
        *(word for n in range(3) for word in ("--nats", f"nats-{n}")),
    ]
    subprocess.run(
        [sys.executable, "-m", "mayfly", "secrets", "create", place / "secrets", *names],
        check=True,
        capture_output=True,
    )
    subprocess.run([place / "list-secrets"], check=True, capture_output=True)
    found = faults(build(place / "overlays/autoscaled"))

    assert "api: its certificate is not for api.mayfly.svc.cluster.local" in found
    assert "nats-0 listens for monitor on 127.0.0.1:8222" in found


# --- the README ---------------------------------------------------------------------------------------------------


def test_the_readme_says_what_was_not_tried() -> None:
    """Both pages say that no cluster has run the files; the README names the versions that they were validated for."""
    assert "have never run on a cluster" in " ".join(README.split())
    assert "never run on a cluster" in " ".join(GUIDE.split())
    assert all(version in README for version in VERSIONS)


def test_the_readme_links_lead_somewhere() -> None:
    """Each relative link of the README leads to a file or folder of the project."""
    for target in re.findall(r"\]\(([^):#]+)\)", README):
        assert (KUBERNETES / target).exists(), target


def test_it_comes_up_in_five_commands() -> None:
    """The blocks under "Bring it up" have five commands, the files that they name are there, and so is each overlay."""
    blocks = [each for each in blocks_of(KUBERNETES / "README.md") if each.heading == "Bring it up"]
    lines = "".join(each.text for each in blocks if each.language == "sh").replace("\\\n", "").splitlines()

    assert len(lines) == 5
    for overlay in re.findall(r"overlays/([\w-]+)", README):
        assert overlay in OVERLAYS


def test_the_numbers_of_the_readme_are_those_of_the_files(autoscaled: Cluster) -> None:
    """How many of each there are, and how long they have to stop, is what the objects say."""
    (scaled,), (hpa,) = autoscaled.of("ScaledObject"), autoscaled.of("HorizontalPodAutoscaler")
    gateway, nats = autoscaled.workload("gateway").made["spec"], autoscaled.workload("nats").made["spec"]

    assert f"| workers | {scaled['spec']['minReplicaCount']} to {scaled['spec']['maxReplicaCount']} |" in README
    assert f"| API servers | {hpa['spec']['minReplicas']} to {hpa['spec']['maxReplicas']} |" in README
    assert f"| gateway | {gateway['replicas']} |" in README
    assert f"| nats-servers | {nats['replicas']} |" in README
    assert f"have\n{autoscaled.workload('worker').pod['terminationGracePeriodSeconds']} s" in README


def need_node() -> None:
    """Skip where there is no node, or not the package with KEDA's types."""
    packages = ROOT / "node_modules/@kubernetes-models/keda"
    need(shutil.which("node") and packages.exists(), "node 20 or later, and `npm ci`")


def by_kubectl(directory: Path) -> dict[tuple[str, str, str], Object]:
    """Return the objects that kubectl makes of a directory."""
    ended = subprocess.run(["kubectl", "kustomize", directory], check=True, capture_output=True, text=True)
    return {identity(made): made for made in yaml.safe_load_all(ended.stdout)}


def kustomize_version() -> int:
    """Return the major version of kubectl's kustomize."""
    said = subprocess.run(["kubectl", "version", "--client"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"Kustomize Version: v(\d+)", said)
    return int(found[1]) if found else 0
