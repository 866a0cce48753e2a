"""The docs name what is there."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mayfly.domain.activation import TRANSITIONS

ROOT = Path(__file__).parent.parent.parent
LIFE = (ROOT / "docs/explanation/life-of-an-activation.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])


def test_a_call_is_followed_in_under_ten_hops() -> None:
    """The page names fewer than ten functions, in order, and each exists."""
    hops = re.findall(r"^\| (\d+) \| `(mayfly[\w.]+)` \|", LIFE, re.MULTILINE)

    assert [int(number) for number, _ in hops] == list(range(1, len(hops) + 1))
    assert 5 < len(hops) < 10
    for _, name in hops:
        assert callable(resolve(name)), name


def test_every_name_of_the_code_in_the_docs_exists() -> None:
    """What the pages call by its full name can be imported."""
    for page in PAGES:
        for name in re.findall(r"`(mayfly(?:\.\w+){2,})`", page.read_text()):
            resolve(name)


def test_the_transitions_are_those_of_the_code() -> None:
    """The table of states in the docs is the table in the code."""
    rows = re.findall(r"^\| `([a-z-]+)` \| ((?:`[a-z-]+`(?:, )?)+) \|$", LIFE, re.MULTILINE)
    documented = {state: set(re.findall(r"`([a-z-]+)`", after)) for state, after in rows}

    assert documented == {str(state): {str(one) for one in after} for state, after in TRANSITIONS.items() if after}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link of a page leads to a file or folder of the project."""
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_settings_page_is_made_from_the_code() -> None:
    """Every setting is on the page, as the code has it."""
    check = subprocess.run(
        [sys.executable, "scripts/docs-settings", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert check.returncode == 0, check.stderr


def resolve(name: str) -> object:
    """Import what a dotted name means: a module, or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"{name} is not there")
