"""
Builds a directory as `kubectl kustomize` does, for the part of kustomize that deploy/kubernetes keeps to.

That part is small on purpose: resources, components, JSON patches, images and Secrets from files. Whatever else a
kustomization says is refused, so nothing is silently read in another way; where kubectl is at hand, a test compares.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

KNOWN = {"apiVersion", "kind", "resources", "components", "patches", "images", "secretGenerator"}
LINE = 70
HASH_LETTERS = str.maketrans({"0": "g", "1": "h", "3": "k", "a": "m", "e": "t"})  # so that no hash spells a word
KINDS = {"Kustomization": "kustomize.config.k8s.io/v1beta1", "Component": "kustomize.config.k8s.io/v1alpha1"}


class CannotBuild(Exception):
    """A kustomization says something that kustomize refuses, or that is not known here."""


@dataclass
class Build:
    """What has been gathered so far; Secrets in *hashed* are renamed at the end, with all that refer to them."""

    objects: list[Object] = field(default_factory=list)
    hashed: list[Object] = field(default_factory=list)

    def add(self, made: Object, *, hashed: bool = False) -> None:
        """Add an object; no two have one name."""
        if any(identity(made) == identity(other) for other in self.objects):
            raise CannotBuild(f"{identity(made)} is there twice")
        self.objects.append(made)
        if hashed:
            self.hashed.append(made)


def identity(made: Object) -> tuple[str, str, str]:
    """Return what no two objects share: kind, namespace and name."""
    metadata = made["metadata"]
    return made["kind"], metadata.get("namespace", ""), metadata["name"]


def load(path: Path) -> list[Any]:
    """Read the documents of a YAML file."""
    try:
        return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]
    except (OSError, yaml.YAMLError) as error:
        raise CannotBuild(f"{path.name}: {error}") from error


def build(directory: Path) -> list[Object]:
    """
    Return all objects of the kustomization in *directory*.

    Raises: CannotBuild.
    """
    gathered = Build()
    _gather(directory, gathered, "Kustomization")
    for secret in gathered.hashed:
        _rename(secret, gathered.objects)
    return gathered.objects


def _gather(directory: Path, into: Build, kind: str) -> None:
    """Do what the kustomization in *directory* says. A component works on what is there; others on their own."""
    path = directory / "kustomization.yaml"
    if not path.is_file():
        raise CannotBuild(f"{directory} has no kustomization.yaml")
    said = load(path)[0]
    if (said["kind"], said["apiVersion"]) != (kind, KINDS[kind]):
        raise CannotBuild(f"{path} is no {kind}")
    if unknown := said.keys() - KNOWN:
        raise CannotBuild(f"{path} says {sorted(unknown)}, which is not known here")
    for name in said.get("resources", []):
        if (directory / name).is_dir():
            _gather(directory / name, into, "Kustomization")
            continue
        for made in load(directory / name):
            into.add(made)
    for name in said.get("components", []):
        _gather(directory / name, into, "Component")
    for wanted in said.get("secretGenerator", []):
        _generate(directory, wanted, into)
    for patch in said.get("patches", []):
        _patch(into.objects, patch["target"], load(directory / patch["path"])[0])
    for image in said.get("images", []):
        _set_image(into.objects, image)


def _generate(directory: Path, wanted: Object, into: Build) -> None:
    names = [Path(name).name for name in wanted["files"]]
    if len(set(names)) != len(names):
        raise CannotBuild(f"Secret {wanted['name']}: two files of one name")
    data = {Path(name).name: _encoded((directory / name).read_bytes()) for name in wanted["files"]}
    metadata = {"name": wanted["name"], "namespace": wanted["namespace"]}
    made = {"apiVersion": "v1", "kind": "Secret", "type": wanted["type"], "metadata": metadata, "data": data}
    into.add(made, hashed=not wanted.get("options", {}).get("disableNameSuffixHash", False))


def _encoded(content: bytes) -> str:
    """Return base64 as kustomize writes it: in lines of 70, where it is longer than that."""
    text = base64.b64encode(content).decode()
    lines = [text[at : at + LINE] for at in range(0, len(text), LINE)]
    return text if len(lines) < 2 else "".join(f"{line}\n" for line in lines)


def _rename(secret: Object, objects: list[Object]) -> None:
    """Put a hash of its content behind a Secret's name, there and where pods of its namespace refer to it."""
    kind, namespace, name = identity(secret)
    content = {"data": secret["data"], "kind": kind, "name": "", "type": secret["type"]}
    hashed = json.dumps(content, separators=(",", ":"), sort_keys=True)
    renamed = f"{name}-{hashlib.sha256(hashed.encode()).hexdigest()[:10].translate(HASH_LETTERS)}"
    for made in objects:
        if made["metadata"].get("namespace", "") == namespace and (pod := pod_spec(made)):
            for volume in pod.get("volumes", []):
                for source, key in _secret_sources(volume):
                    if source[key] == name:
                        source[key] = renamed
    secret["metadata"]["name"] = renamed


def pod_spec(made: Object) -> Object | None:
    """Return the specification of an object's pods, if it has any."""
    spec: Object | None = made.get("spec", {}).get("template", {}).get("spec")
    return spec


def _secret_sources(volume: Object) -> list[tuple[Object, str]]:
    projected = [
        (each["secret"], "name") for each in volume.get("projected", {}).get("sources", []) if "secret" in each
    ]
    return [*projected, *([(volume["secret"], "secretName")] if "secret" in volume else [])]


def _set_image(objects: list[Object], image: Object) -> None:
    for made in objects:
        pod = pod_spec(made) or {}
        for container in [*pod.get("initContainers", []), *pod.get("containers", [])]:
            if container["image"].rpartition(":")[0] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"


def _patch(objects: list[Object], target: Object, operations: list[Object]) -> None:
    """Apply a JSON patch to each object that is meant; one that is meant for nothing is a mistake."""
    meant = [made for made in objects if _is_meant(made, target)]
    if not meant:
        raise CannotBuild(f"a patch is for {target}, which is not there")
    for made in meant:
        for operation in operations:
            _operate(made, operation)


def _is_meant(made: Object, target: Object) -> bool:
    group, _, version = made["apiVersion"].rpartition("/")
    facts = {"group": group, "version": version, "kind": made["kind"], "name": made["metadata"]["name"]}
    return all(facts[key] == value for key, value in target.items())


def _operate(made: Object, operation: Object) -> None:
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    place: Any = made
    try:
        for part in parents:
            place = place[int(part) if isinstance(place, list) else part]
        _change(place, last, operation)
    except (KeyError, IndexError, ValueError) as error:
        raise CannotBuild(f"{identity(made)}: a patch finds nothing at {operation['path']}") from error


def _change(place: Any, last: str, operation: Object) -> None:
    value = copy.deepcopy(operation.get("value"))
    if operation["op"] == "add" and isinstance(place, list):
        place.insert(len(place) if last == "-" else int(last), value)
    elif operation["op"] == "add":
        place[last] = value
    elif operation["op"] in {"replace", "remove"}:
        index = int(last) if isinstance(place, list) else last
        del place[index]
        if operation["op"] == "replace":
            _change(place, last, {**operation, "op": "add"})
    else:
        raise CannotBuild(f"a patch says {operation['op']}")
