"""docs/explanation/security.md names tests that are there, and has the attacks of the suite."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.attacks.catalogue import ATTACKS
from tests.attacks.report import BEGIN, END, PAGE, attacks_on, written

ROOT = Path(__file__).resolve().parents[2]
TEXT = PAGE.read_text(encoding="utf-8")
NAMED = re.findall(r"\[(test_\w+)\]\(\.\./\.\./(tests/[\w/]+\.py)\)", TEXT)


def test_the_table_has_each_attack_of_the_suite() -> None:
    """One row for each, in its order, and none for another: scripts/attacks writes them."""
    assert attacks_on(TEXT) == [attack.name for attack in ATTACKS]


def test_a_table_without_a_row_is_noticed() -> None:
    """What is written is what is read."""
    assert attacks_on(written(TEXT, "| attack | x |\n|---|---|\n| one | x |\n| two | x |")) == ["one", "two"]
    assert attacks_on(f"{BEGIN}\n\n{END}") == []


def test_attacks_have_names_of_their_own() -> None:
    """So have their tests and their functions."""
    assert len({attack.name for attack in ATTACKS}) == len({attack.slug[:63] for attack in ATTACKS}) == len(ATTACKS)


@pytest.mark.parametrize(("name", "file"), sorted(set(NAMED)))
def test_each_test_that_is_named_exists(name: str, file: str) -> None:
    """It is a function of the file that the link leads to."""
    assert re.search(rf"def {name}\(", (ROOT / file).read_text(encoding="utf-8"))


def test_each_line_names_its_attack() -> None:
    """Each row of a table of what stops whom ends in a test, and there are many."""
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and line.count(" | ") == 2]
    heads = [row for row in rows if row.endswith("| the attack |")]
    assert len(rows) - len(heads) > 50
    assert [row for row in rows if row not in heads and "](../../tests/" not in row.rpartition(" | ")[2]] == []


def test_nothing_that_is_named_is_no_link() -> None:
    """A test in the text is a link, so that the above sees it."""
    assert len(re.findall(r"\btest_\w+", re.sub(r"\]\([^)]*\)", "]", TEXT))) == len(NAMED)
