"""
The page docs/explanation/capacity.md: below each command that it shows stands what this command prints, so that the
page says nothing that the model does not.

    scripts/docs-capacity [--check]
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from bench.capacity.command import parser, simulated

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "capacity.md"
SHOWN = re.compile(r"^```sh\nscripts/simulate (?P<arguments>[^`]*)```\n\n(?P<table>(?:\|.*\n)+)", re.MULTILINE)
BEGIN, END = "<!-- Measured by scripts/simulate --validate. -->\n", "<!-- Measured until here. -->\n"


def refreshed(text: str) -> str:
    """Put below each command of a page that has a table the table that it prints now."""
    return SHOWN.sub(_refreshed, text)


def _refreshed(found: re.Match[str]) -> str:
    arguments = shlex.split(found["arguments"].replace("\\\n", " "))
    return found[0].removesuffix(found["table"]) + simulated(parser().parse_args(arguments)) + "\n"


def with_measured(text: str, measured: str) -> str:
    """
    Put what was measured between the marks of a page.

    Raises: ValueError when it has none.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        raise ValueError(f"The page has no place for what is measured: {BEGIN.strip()} ... {END.strip()}")
    return f"{head}{begin}\n{measured}\n\n{end}{tail}"


if __name__ == "__main__":
    there = PAGE.read_text(encoding="utf-8")
    if "--check" not in sys.argv:
        PAGE.write_text(refreshed(there), encoding="utf-8")
    elif there != refreshed(there):
        sys.exit(f"{PAGE.name} is not what its commands print: run scripts/docs-capacity")
