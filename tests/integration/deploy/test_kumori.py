"""
Mistakes in the files of deploy/kumori, each made in a copy, and what CUE or the graph then says.

What the graph alone can see is planted in the exported deployment, by tests/unit/deploy/test_kumori.py.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.kumori import Cue, faults, module

pytestmark = pytest.mark.D5


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
    Typed("unknown connector", SERVICE, 'as: "full"', 'as: "all"', "cluster1.as: .*disjunction"),
    Typed("channel as text", SERVICE, "api: rest: _", 'api: "rest"', "requests.to.api: conflicting values"),
    Typed("unknown component", SERVICE, "w.#Artifact", "x.#Artifact", 'reference "x" not found'),
    Typed("no secret", DEPLOYMENT, 'apiSecrets: secret:       "mayfly_api"', "", "apiSecrets.*incomplete", whole=True),
    Typed("secret as volume", DEPLOYMENT, "Store: volume", "Store: secret", "nats1Store: field secret not", whole=True),
    Typed(
        "socket of the node", DEPLOYMENT, "tcp://engine.example.org:2376", "unix:///run/d", "dockerHost: ", whole=True
    ),
    Typed("unknown choice", DEPLOYMENT, '"open"', '"ajar"', "registration: .*disjunction", whole=True),
]


# With a second of CUE's for each, all of them are looked for only with --long.
SHORT = ("privileged", "unknown unit", "no secret")


@pytest.mark.parametrize(
    "mistake", [each if str(each) in SHORT else pytest.param(each, marks=pytest.mark.long) for each in TYPED], ids=str
)
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


@pytest.mark.parametrize(
    ("file", "old", "new", "why"),
    [
        (SERVICE, 'as: "full"', 'as: "lb"', "nats1 calls set.0.next:6222, which asks for a full connector"),
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
