"""docs/reference/configuration.md: every point of configuration, read from what it describes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from mayfly.bus import subjects
from mayfly.settings import known_names
from pages import configuration

pytestmark = pytest.mark.D7

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs/reference/configuration.md"
DEPLOY = ROOT / "deploy"


def part(text: str, heading: str) -> str:
    """Return one part of the page."""
    found = re.search(rf"^## {heading}\n.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[0]


def test_every_setting_is_on_the_page() -> None:
    """Each role's variables stand among the services."""
    services = part(PAGE.read_text(), "The services")

    assert [name for name in known_names() if f"| `{name}` |" not in services] == []


def test_every_variable_of_compose_is_on_the_page() -> None:
    """Each ${VARIABLE} in compose's files, and each variable that they set, stands in the part on compose."""
    described = part(PAGE.read_text(), "Compose")
    texts = [path.read_text() for path in (DEPLOY / "compose").glob("compose*.yaml")]
    variables = {name for text in texts for name in re.findall(r"(?<!\$)\$\{(\w+)", text)}
    set_by_us = {name for text in texts for name in re.findall(r"^\s*(MAYFLY_\w+):", text, re.MULTILINE)}

    assert len(variables) >= 5
    assert len(set_by_us) >= 10
    assert [name for name in variables if f"| `{name}` |" not in described] == []
    assert [name for name in set_by_us if name not in described] == []


@pytest.mark.parametrize(
    ("heading", "pattern", "name"),
    [
        ("Kumori", "kumori/*/component.cue", r"\b(MAYFLY_[A-Z0-9_]+):"),
        ("Kubernetes", "kubernetes/**/*.yaml", r"name: (MAYFLY_[A-Z0-9_]+)\b"),
    ],
)
def test_every_variable_of_a_platform_is_on_the_page(heading: str, pattern: str, name: str) -> None:
    """What the files for Kumori and Kubernetes set for our roles stands in their part."""
    described = part(PAGE.read_text(), heading)
    found = {match for path in DEPLOY.glob(pattern) for match in re.findall(name, path.read_text())}

    assert len(found) >= 10
    assert [each for each in found if f"`{each}`" not in described and f".{each}" not in described] == []


def test_every_file_of_a_platform_is_read() -> None:
    """Each service of compose, component of Kumori and workload of Kubernetes has its row."""
    text = PAGE.read_text()
    main = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())

    assert [name for name in main["services"] if f"\n| {name} | " not in part(text, "Compose")] == []
    components = [path.parent.name for path in (DEPLOY / "kumori").glob("*/component.cue")]
    assert [name for name in components if f"\n| {name} | " not in part(text, "Kumori")] == []
    workloads = [each for each in configuration.manifests(ROOT) if each["kind"] in ("Deployment", "StatefulSet", "Job")]
    names = [f"{each['kind']} {each['metadata']['name']}" for each in workloads]
    assert len(names) >= 4
    assert [name for name in names if f"\n| {name} | " not in part(text, "Kubernetes")] == []


def test_every_stream_and_bucket_is_on_the_page() -> None:
    """Each of them has its row with its limits."""
    described = part(PAGE.read_text(), "NATS")
    names = [subjects.ACT, subjects.RESPONSES, subjects.AUDIT, *map(subjects.kv_stream, subjects.BUCKETS)]

    assert [name for name in names if f"| `{name}` |" not in described] == []


def test_the_gateways_routes_and_limits_are_on_the_page() -> None:
    """Each object of apisix.yaml stands there by its id, and no private key or secret does."""
    described = part(PAGE.read_text(), "The gateway")
    tree = yaml.safe_load((DEPLOY / "apisix/apisix.yaml").read_text())
    ids = [each["id"] for objects in tree.values() for each in objects if "id" in each]

    assert len(ids) >= 3
    assert [name for name in ids if f"[{name}]" not in described] == []
    assert "PRIVATE KEY" not in described


@pytest.mark.parametrize(
    ("file", "before", "planted", "row"),
    [
        ("compose/compose.yaml", "MAYFLY_DRAIN_S:", "MAYFLY_NEW: ${PLANTED:-7}", "| `PLANTED` | `7` |"),
        ("kumori/worker/component.cue", "MAYFLY_SLOTS:", 'MAYFLY_NEW: value: "7"', "| worker | `MAYFLY_NEW` | `7` |"),
        ("kumori/deployment/deployment.cue", "slots:", 'planted: "7"', "| parameter | `planted` | `7` |"),
        (
            "kubernetes/base/worker.yaml",
            "- {name: MAYFLY_SLOTS",
            '- {name: MAYFLY_NEW, value: "7"}',
            "| worker | `MAYFLY_NEW` | `7` |",
        ),
    ],
)
def test_what_is_added_to_a_file_comes_to_the_page(
    tmp_path: Path, file: str, before: str, planted: str, row: str
) -> None:
    """A variable that somebody adds to compose, Kumori or Kubernetes changes the page, so the first test fails."""
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    assert row not in configuration.page(tmp_path)
    path = tmp_path / "deploy" / file
    pattern, with_it = rf"^(\s*){re.escape(before)}", rf"\g<1>{planted}\n\g<0>"
    changed, times = re.subn(pattern, with_it, path.read_text(), count=1, flags=re.MULTILINE)
    assert times == 1
    path.write_text(changed)

    assert row in configuration.page(tmp_path)
