"""
Vets deploy/kumori: by CUE against a stand-in for Kumori's model, then as a graph.

`module` copies the folder beside the stand-in (kumori_model/), as Kumori's own tool would lay it out; `Cue` runs CUE
there. CUE sees fields and types, not what is joined to what: `faults` looks for that in the exported deployment.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mayfly import settings
from mayfly.ops import bundle
from mayfly.ops.nats_config import Node

ROOT = Path(__file__).resolve().parent.parent.parent
KUMORI = ROOT / "deploy/kumori"
MODEL = Path(__file__).parent / "kumori_model"
PACKAGES = ("api", "bootstrap", "gateway", "nats", "worker")
"""The folders of the components."""

OURS = ("api", "worker", "bootstrap")
"""The roles that run `mayfly`."""

STORE = Node("nats", ()).store
"""Where nats-server has its data."""

SECRET = re.compile("PASSWORD|SECRET|TOKEN|KEY")
"""What is in the name of a variable that holds a secret, unless it ends in _FILE or _DIR."""

PLATFORM_GRACE_S = 30.0
"""What Kubernetes, beneath the platform, gives a container to end in; Kumori has no field for it."""

ADDRESS = re.compile(r"(?<![\w.])(set\.)?0\.([a-z]\w*):(\d+)")
"""What a channel's name resolves to: one instance by turns, or with `set.` all of them."""

Tree = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What one run of CUE said."""

    code: int
    stdout: str
    stderr: str


class Cue:
    """One process of node that runs CUE as often as it is asked to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Talk to *process*."""
        self._process = process

    def run(self, folder: Path, *args: str) -> Answer:
        """Run `cue ARGS` in *folder*."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"cwd": str(folder), "args": args}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "node ended"
        return Answer(**json.loads(line))

    def vet(self, folder: Path, package: str) -> Answer:
        """Check one package, written as Kumori's tools take it: `./api:component`."""
        return self.run(folder, "vet", "-c=false", package)

    def export(self, folder: Path) -> Answer:
        """Export the deployment, with everything that it is made of, as JSON."""
        return self.run(folder, "export", "./deployment:deployment", "-e", "#Deployment", "--out", "json")


@contextmanager
def cue() -> Iterator[Cue]:
    """Start CUE's process, and end it."""
    command = ["node", str(Path(__file__).with_name("cue.mjs")), str(ROOT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Cue(process)


def module(folder: Path) -> Path:
    """Lay the module out in *folder*, beside the stand-in for the model, so that CUE finds everything."""
    shutil.copytree(KUMORI, folder, dirs_exist_ok=True)
    packages = folder / "cue.mod/pkg"
    for source, target in {
        "model.cue": packages / "kumori.systems/kumori/model.cue",
        "inbound.cue": packages / "kumori.systems/builtins/inbound/inbound.cue",
        "deploymentref.cue": folder / "deploymentref.cue",
    }.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(MODEL / source, target)
    (folder / "cue.mod/module.cue").write_text('module: "mayfly.example/mayfly"\n')
    (packages / "mod.local").symlink_to("../..")
    return folder


def faults(deployment: Tree) -> list[str]:
    """Say what is wrong with an exported deployment, beyond what types can say: a sentence for each fault."""
    service = deployment["artifact"]["description"]
    return [
        *_topology(service),
        *_ways_in(service),
        *(sentence for name, role in components(deployment).items() for sentence in _component(name, role)),
        *_resources(deployment),
        *_numbers(deployment),
        *_queue(deployment),
        *_ring(deployment),
        *_stores(deployment),
        *_stopping(deployment),
    ]


def components(deployment: Tree) -> dict[str, Tree]:
    """Return the description of each role that is a component of ours, by the role's name."""
    roles = deployment["artifact"]["description"]["role"]
    return {name: role["artifact"]["description"] for name, role in roles.items() if not _is_builtin(role)}


def environment(component: Tree) -> dict[str, str]:
    """Return the variables of a component's container as it will see them; a secret's value is its resource's name."""
    values = component["config"]["parameter"]
    found: dict[str, str] = {}
    for container in component["code"].values():
        for name, source in container["mapping"]["env"].items():
            found[name] = source.get("value") or values.get(source.get("parameter")) or source.get("secret", "")
    return found


def parts(deployment: Tree, component: str) -> dict[str, Tree]:
    """Return the roles that are made of a component, by their names: three of `nats`, one of every other."""
    roles = deployment["artifact"]["description"]["role"]
    ours = components(deployment)
    return {name: ours[name] for name in ours if roles[name]["artifact"]["ref"]["name"] == component}


def instances(deployment: Tree, role: str) -> int:
    """Return how many of a role the deployment starts."""
    return int(deployment["config"]["scale"]["detail"].get(role, {}).get("hsize", 0))


def sizes(deployment: Tree) -> tuple[int, int]:
    """Return what all instances reserve together: memory in MB, processor in thousandths."""
    counts = deployment["config"]["scale"]["detail"]
    memory = processor = 0
    for name, component in components(deployment).items():
        for container in component["code"].values():
            amount = container["size"]["memory"]
            memory += counts[name]["hsize"] * amount["size"] * {"M": 1, "G": 1000}[amount["unit"]]
            processor += counts[name]["hsize"] * container["size"]["mincpu"]
    return memory, processor


def known_variables(role: str) -> set[str]:
    """Return the `MAYFLY_` variables that mean something to a role: its settings, and what its secrets come in."""
    if role not in OURS:  # APISIX and nats-server read none of our settings
        return {"MAYFLY_SECRETS_ARCHIVE"}
    return {settings.PREFIX + field.upper() for field in settings.ROLES[role].model_fields} | {bundle.VARIABLE}


def _is_builtin(role: Tree) -> bool:
    return bool(role["artifact"]["description"].get("builtin"))


def _channel(service: Tree, role: str, channel: str, kinds: tuple[str, ...]) -> Tree | None:
    """Find a channel of a role, or of the service itself, among those *kinds*."""
    # what comes into the service goes on as if from a client, so for `self` the two are exchanged
    swap = {"client": "server", "server": "client", "duplex": "duplex"}
    if role == "self":
        srv, kinds = service["srv"], tuple(swap[kind] for kind in kinds)
    elif role in service["role"]:
        srv = service["role"][role]["artifact"]["description"]["srv"]
    else:
        return None
    return next((cast("Tree", srv[kind][channel]) for kind in kinds if channel in srv.get(kind, {})), None)


def _topology(service: Tree) -> Iterator[str]:
    """Follow the connectors: both ends are there, point the right way, and speak the same protocol."""
    begun: set[tuple[str, str]] = set()
    for name, connector in service["connect"].items():
        sources = list(connector["from"].items())
        targets = [(role, channel) for role, channels in connector["to"].items() for channel in channels]
        protocols = set()
        for ends, kinds, word in ((sources, ("client", "duplex"), "from"), (targets, ("server", "duplex"), "to")):
            for role, channel in ends:
                found = _channel(service, role, channel, kinds)
                if found is None:
                    yield f"connector {name}: {word} {role}.{channel}, which is no {' or '.join(kinds)} channel"
                    continue
                protocols.add(found["protocol"])
                duplex = _channel(service, role, channel, ("duplex",)) is not None
                if duplex and connector["as"] != "full":
                    yield f"connector {name}: {role}.{channel} is duplex, which asks for a full connector"
        begun |= set(sources)
        if len(protocols) > 1:
            yield f"connector {name}: joins {' and '.join(sorted(protocols))}"
    for role, description in {name: role["artifact"]["description"] for name, role in service["role"].items()}.items():
        for channel in {**description["srv"]["client"], **description["srv"]["duplex"]}:
            if (role, channel) not in begun:
                yield f"{role}.{channel} leads nowhere"


def _ways_in(service: Tree) -> Iterator[str]:
    """Only the gateway is reached from outside, by an inbound that ends TLS."""
    builtin = [name for name, role in service["role"].items() if _is_builtin(role)]
    for name in builtin:
        if service["role"][name]["config"]["parameter"]["type"] != "https":
            yield f"{name}: calls would come in without TLS"
    for name, connector in service["connect"].items():
        if set(builtin) & connector["from"].keys() and connector["to"].keys() != {"gateway"}:
            yield f"connector {name}: leads from outside to {', '.join(sorted(connector['to']))}, past the gateway"
    yield from (f"the service has the channel {name} of its own" for kind in service["srv"].values() for name in kind)


def _component(name: str, component: Tree) -> Iterator[str]:
    """Look into one component: what its containers refer to is declared, and its ports are open."""
    resources = component["config"]["resource"]
    used = set()
    for label, container in component["code"].items():
        yield from _variables(name, label, container["mapping"]["env"], component["config"]["parameter"])
        for what, resource in _resources_of(container):
            used.add(resource)
            if resource not in resources:
                yield f"{name}.{label}: {what} takes the resource {resource}, which is not declared"
    yield from (f"{name}: the resource {resource} is used by no container" for resource in resources.keys() - used)
    ports = {channel["port"] for kind in ("server", "duplex") for channel in component["srv"][kind].values()}
    yield from _probes(name, component, ports)
    yield from _addresses(name, component, ports)


def _variables(name: str, label: str, variables: Tree, parameters: Tree) -> Iterator[str]:
    """Check each variable of a container: it means something, what it takes is there, and no secret is in the open."""
    for variable, source in variables.items():
        if "parameter" in source and not isinstance(parameters.get(source["parameter"]), str):
            yield f"{name}.{label}: {variable} takes the parameter {source['parameter']}, which is no string there"
        if "secret" not in source and SECRET.search(variable) and not variable.endswith(("_FILE", "_DIR")):
            yield f"{name}.{label}: {variable} is a secret, and so is given as one"
        if variable.startswith("MAYFLY_") and variable not in known_variables(name):
            yield f"{name}.{label}: {variable} is no setting"


def _resources_of(container: Tree) -> Iterator[tuple[str, str]]:
    """Return what of a container takes a resource, and which."""
    if container["image"]["hub"]["secret"]:
        yield "hub", container["image"]["hub"]["secret"]
    mapping = container["mapping"]
    yield from ((variable, source["secret"]) for variable, source in mapping["env"].items() if "secret" in source)
    yield from ((path, file["volume"]) for path, file in mapping["filesystem"].items() if "volume" in file)


def _probes(name: str, component: Tree, ports: set[int]) -> Iterator[str]:
    """Check that each probe asks a container that there is, on a port that is open."""
    for label, probes in component["probe"].items():
        if label not in component["code"]:
            yield f"{name}: a probe of {label}, which is no container"
        for kind, probe in probes.items():
            port = probe["protocol"]["http"]["port"]
            if port not in ports:
                yield f"{name}.{label}: {kind} asks port {port}, which is no server channel"


def _addresses(name: str, component: Tree, ports: set[int]) -> Iterator[str]:
    """Check addresses in parameters and files, `0.<channel>:80` and `set.0.<channel>:<port>`, and those listened on."""
    texts = [value for value in component["config"]["parameter"].values() if isinstance(value, str)]
    for container in component["code"].values():
        files = container["mapping"]["filesystem"].values()
        texts += [str(file["data"]["value"]) for file in files if "data" in file]
    for prefix, channel, port in ADDRESS.findall("\n".join(texts)):
        kind = "duplex" if prefix else "client"
        declared = component["srv"][kind].get(channel)
        if declared is None:
            yield f"{name}: {prefix}0.{channel} is no {kind} channel of it"
        elif int(port) != (declared["port"] if prefix else 80):
            yield f"{name}: {prefix}0.{channel} does not answer on port {port}"
    for variable, value in environment(component).items():
        if variable.endswith("LISTEN") and int(value.rpartition(":")[2]) not in ports:
            yield f"{name}: {variable} is {value}, which is no server channel"


def _numbers(deployment: Tree) -> Iterator[str]:
    """Check how many there are of each role, and how many there may be."""
    counts = deployment["config"]["scale"]["detail"]
    roles = deployment["artifact"]["description"]["role"]
    ours = components(deployment)
    yield from (f"scale: {name} is no role of ours" for name in counts.keys() - ours.keys())
    for name in ours:
        if name not in counts:
            yield f"scale: {name} has no entry"
            continue
        hpa = roles[name].get("meta", {}).get("hpa")
        if hpa and hpa["minReplicas"] > hpa["maxReplicas"]:
            yield f"scale: {name} has {hpa['minReplicas']} at least and {hpa['maxReplicas']} at most"
        elif hpa and not hpa["minReplicas"] <= counts[name]["hsize"] <= hpa["maxReplicas"]:
            yield f"scale: {name} starts with {counts[name]['hsize']}, outside of its bounds"
    survived = deployment["config"]["resilience"]
    for name in ("gateway", "api", "worker"):
        if name in counts and counts[name]["hsize"] <= survived:
            yield f"scale: {counts[name]['hsize']} of {name} do not survive {survived} failures"


def _resources(deployment: Tree) -> Iterator[str]:
    """Check that all parameters and resources get to a role, and that no two roles have one secret."""
    service = deployment["artifact"]["description"]
    passed_on = {name for role in service["role"].values() for name in role["config"]["parameter"]}
    yield from (
        f"the parameter {name} is that of no role" for name in deployment["config"]["parameter"].keys() - passed_on
    )
    held: dict[str, list[str]] = {}
    for name, role in service["role"].items():
        for resource in role["config"]["resource"].values():
            held.setdefault(json.dumps(resource), []).append(name)
    for label, resource in deployment["config"]["resource"].items():
        holders = held.get(json.dumps(resource), [])
        if not holders:
            yield f"the resource {label} is that of no role"
        elif len(holders) > 1 and "secret" in resource:
            yield f"the secret {resource['secret']} is that of {' and of '.join(holders)}"


def _queue(deployment: Tree) -> Iterator[str]:
    """Check that there are as many nats-servers as streams have copies, and an odd number of them."""
    servers = sum(instances(deployment, name) for name in parts(deployment, "nats"))
    copies = environment(components(deployment)["bootstrap"]).get("MAYFLY_NATS_REPLICAS", "1")
    if str(servers) != copies:
        yield f"scale: there are {servers} nats-servers, and streams of {copies} copies"


def _ring(deployment: Tree) -> Iterator[str]:
    """Check that each nats-server calls one other, by an address that leads to nobody else, and so all in turn."""
    names = list(parts(deployment, "nats"))
    called: dict[str, list[str]] = {name: [] for name in names}
    for label, connector in deployment["artifact"]["description"]["connect"].items():
        for name in (name for name in names if connector["from"].get(name) == "next"):
            called[name] += connector["to"]
            if connector["as"] != "full":
                yield f"connector {label}: {name} calls set.0.next:6222, which asks for a full connector"
    yield from (f"{name} would call itself, and then nobody else" for name in names if name in called[name])
    reached, here = [], names[0]
    while here not in reached:
        reached.append(here)
        here = next(iter(called[here]), here)
    if set(reached) != set(names) or here != names[0] or any(len(others) != 1 for others in called.values()):
        said = ", ".join(f"{name} calls {' and '.join(others) or 'nobody'}" for name, others in called.items())
        yield f"the nats-servers are joined in no ring: {said}"


def _stopping(deployment: Tree) -> Iterator[str]:
    """Check that a worker itself ends what it runs, on an engine that would not notice its death."""
    default = str(settings.WorkerSettings.model_fields["stop_grace_s"].default)
    grace_s = float(environment(components(deployment)["worker"]).get("MAYFLY_STOP_GRACE_S", default))
    if grace_s + 2 > PLATFORM_GRACE_S:
        yield f"worker: it would take {grace_s:g} s to stop, and is killed after {PLATFORM_GRACE_S:g} s"


def _stores(deployment: Tree) -> Iterator[str]:
    """Check that what must last does, and that no two instances write to one volume."""
    for name, component in parts(deployment, "nats").items():
        files = component["code"]["nats"]["mapping"]["filesystem"]
        if "volume" not in files.get(STORE, {}):
            yield f"{name}: {STORE} is no volume, so all of the system's state is lost with the instance"
    seen: dict[str, str] = {}
    for name, component in components(deployment).items():
        for label, resource in component["config"]["resource"].items():
            if "volume" not in resource:
                continue
            volume = resource["volume"]
            if not isinstance(volume, str):
                yield f"{name}: {label} is not a registered volume, so it is lost with its instance"
                continue
            if volume in seen:
                yield f"{name}: the volume {volume} is that of {seen[volume]}"
            seen[volume] = name
            if instances(deployment, name) > 1:
                yield f"{name}: several instances would share the name and the store of one nats-server"
