"""
One line for each row of the mission: its id, what it is, how many tests carry it, and where it is implemented.

The rows and their words are the markers in pyproject.toml. A test carries a row by its marker; a file implements one
by saying `Rows: ` with the ids, separated by commas and ended by a full stop, in its docstring or a comment at its
head. Run it by scripts/rows; the status is 1 when a row lacks either.
"""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PLACES = ("src/mayfly/**/*.py", "src/mayfly/**/*.c", "deploy/**/*", "docs/**/*.md")
ROW = re.compile(r"[FAD][1-9][0-9]?")
CLAIM = re.compile(r"\bRows:\s+([FAD]\d+(?:,\s+[FAD]\d+)*)\.")


class Collected:
    """A plugin for pytest that counts the tests of each row instead of running them."""

    def __init__(self) -> None:
        """Nothing is collected yet."""
        self.rows: dict[str, str] = {}
        self.tests: Counter[str] = Counter()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Say what cannot be collected: its tests are missing from the counts."""
        if report.failed:
            print(f"{report.nodeid}: {report.longreprtext}", file=sys.stderr)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count."""
        registered = (line.partition(":") for line in session.config.getini("markers"))
        self.rows = {name: words.strip() for name, _, words in registered if ROW.fullmatch(name)}
        for item in session.items:
            self.tests.update({marker.name for marker in item.iter_markers()} & self.rows.keys())


def claims(text: str) -> list[str]:
    """Return the ids of the rows that a file says it implements."""
    return [row for claim in CLAIM.finditer(text) for row in re.split(r",\s+", claim[1])]


def implemented(root: Path = ROOT) -> dict[str, list[str]]:
    """Return the files of each row, as paths below *root*."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted({path for pattern in PLACES for path in root.glob(pattern) if path.is_file()}):
        for row in claims(path.read_text(encoding="utf-8", errors="replace")):
            found[row].append(str(path.relative_to(root)))
    return found


def main() -> int:
    """Print the rows."""
    collected = Collected()
    silent = ("--override-ini=addopts=--strict-markers", "-p", "no:terminal")
    status = pytest.main([*silent, "--collect-only", "--long", str(ROOT / "tests")], plugins=[collected])
    places = implemented()
    for row, words in collected.rows.items():
        where = ", ".join(path.removeprefix("src/mayfly/") for path in places[row]) if row in places else "nowhere"
        print(f"{row:<4}{words:<40}{collected.tests[row]:>5} tests  {where}")
    lacking = [row for row in collected.rows if not (collected.tests[row] and row in places)]
    for row in lacking:
        print(f"{row} has no test or is implemented nowhere", file=sys.stderr)
    return 1 if status or lacking else 0


if __name__ == "__main__":
    sys.exit(main())
