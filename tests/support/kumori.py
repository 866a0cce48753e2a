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

ROOT = Path(__file__).resolve().parent.parent.parent
KUMORI = ROOT / "deploy/kumori"
MODEL = Path(__file__).parent / "kumori_model"
PACKAGES = ("api", "bootstrap", "gateway", "nats", "worker")
"""The folders of the components."""

OURS = ("api", "worker", "bootstrap")
"""The roles that run `mayfly`."""

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
        *(sentence for name, role in components(deployment).items() for sentence in _component(name, role)),
        *_numbers(deployment),
        *_stores(deployment),
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


def _component(name: str, component: Tree) -> Iterator[str]:
    """Look into one component: what its containers refer to is declared, and its ports are open."""
    parameters, resources = component["config"]["parameter"], component["config"]["resource"]
    ports = {channel["port"] for kind in ("server", "duplex") for channel in component["srv"][kind].values()}
    used = set()
    for label, container in component["code"].items():
        named = [("hub", container["image"]["hub"]["secret"])] if container["image"]["hub"]["secret"] else []
        for variable, source in container["mapping"]["env"].items():
            if "parameter" in source and not isinstance(parameters.get(source["parameter"]), str):
                yield f"{name}.{label}: {variable} takes the parameter {source['parameter']}, which is no string there"
            if "secret" in source:
                named.append((variable, source["secret"]))
        named += [(p, f["volume"]) for p, f in container["mapping"]["filesystem"].items() if "volume" in f]
        used |= {resource for _, resource in named}
        for what, resource in named:
            if resource not in resources:
                yield f"{name}.{label}: {what} takes the resource {resource}, which is not declared"
        for variable in sorted(container["mapping"]["env"]):
            if variable.startswith("MAYFLY_") and variable not in known_variables(name):
                yield f"{name}.{label}: {variable} is no setting"
    yield from (f"{name}: the resource {resource} is used by no container" for resource in resources.keys() - used)
    for label, probes in component["probe"].items():
        if label not in component["code"]:
            yield f"{name}: a probe of {label}, which is no container"
        for kind, probe in probes.items():
            port = probe["protocol"]["http"]["port"]
            if port not in ports:
                yield f"{name}.{label}: {kind} asks port {port}, which is no server channel"
    yield from _addresses(name, component, ports)


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
        if hpa and not hpa["minReplicas"] <= counts[name]["hsize"] <= hpa["maxReplicas"]:
            yield f"scale: {name} starts with {counts[name]['hsize']}, outside of its bounds"


def _stores(deployment: Tree) -> Iterator[str]:
    """Check that what must last does, and that no two instances write to one volume."""
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
            if deployment["config"]["scale"]["detail"].get(name, {}).get("hsize") != 1:
                yield f"{name}: several instances would share the name and the store of one nats-server"
