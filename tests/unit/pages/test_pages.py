"""scripts/docs: the pages that are made from the code are what the code says, and a page that is not is named."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pages.all import PAGES
from pages.page import ROOT, Page, table, wrapped


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_the_page_is_what_the_code_says(page: Page) -> None:
    """scripts/docs would write the page just as it is."""
    assert page.is_current(), f"run scripts/docs {page.path}"


def test_a_page_that_is_out_of_date_is_named_with_what_mends_it(tmp_path: Path) -> None:
    """With --check a changed page ends in status 1 and the command that mends it, which then does."""
    path = "docs/reference/scripts.md"
    page = tmp_path / path
    page.parent.mkdir(parents=True)
    shutil.copy(ROOT / path, page)
    assert scripts_docs("--check", "--root", str(tmp_path), path).returncode == 0
    page.write_text(page.read_text().replace("| `scripts/check` |", "| `scripts/czech` |"))

    checked = scripts_docs("--check", "--root", str(tmp_path), path)
    written = scripts_docs("--root", str(tmp_path), path)

    assert (checked.returncode, checked.stderr) == (1, f"{path} is not what the code says: run scripts/docs {path}\n")
    assert (written.returncode, written.stdout) == (0, f"{path}: written\n")
    assert page.read_text() == (ROOT / path).read_text()


def test_a_page_that_nothing_makes_is_refused() -> None:
    """A name that is no page of the code's ends in status 2, with those that are."""
    refused = scripts_docs("docs/reference/promise.md")

    assert refused.returncode == 2
    assert (
        "docs/reference/promise.md is not made from the code; these are: docs/reference/openapi.json" in refused.stderr
    )


def test_every_page_that_says_it_is_made_is_made() -> None:
    """A page with the mark of a generator is in the list, and each in the list that is Markdown has the mark."""
    marked = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "docs").rglob("*.md")
        if re.search(
            r"<!-- (made|Drawn) by scripts/docs\b|^`?scripts/docs` makes the tables anew",
            path.read_text(),
            re.MULTILINE,
        )
    }
    made = {page.path for page in PAGES if page.path.endswith(".md")}

    assert len(marked) > 8
    assert marked ^ made <= {"docs/explanation/capacity.md"}, "its mark is a sentence of its own"


def test_long_lines_are_broken_where_they_are_prose() -> None:
    """Sentences and list items are wrapped at 120 columns; tables, headings and blocks stay as they are."""
    long = "word " * 30
    text = f"{long}\n- {long}\n| {long} |\n# {long}\n```\n{long}\n```\n"

    lines = wrapped(text).splitlines()

    assert [len(line) for line in lines if len(line) > 120] == [154, 152, 150]
    assert lines[3].startswith("  word")


def test_a_bar_in_a_cell_stays_one_cell() -> None:
    """What stands in a table cannot make a column of its own, nor a second row."""
    assert table(("a", "b"), [("x|y", "two\nlines")]).splitlines()[-1] == "| x\\|y | two lines |"


def scripts_docs(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run([str(ROOT / "scripts/docs"), *arguments], capture_output=True, text=True, check=False)
