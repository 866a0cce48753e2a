"""
The page docs/explanation/capacity.md: below each command that it shows stands what this command prints, so that the
page says nothing that the model does not. Its curves (capacity-overload.svg) are drawn from one of these tables.
`scripts/docs` writes both.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from bench.capacity.command import parser, simulated
from bench.capacity.plot import overload, read

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "capacity.md"
CURVES = PAGE.with_name("capacity-overload.svg")
OVERLOADED_SLOTS, OVERLOADED_S = 24, 0.31  # slots of the command whose table is drawn, and what a call holds one for
NAMES = {
    "24": "M = 24, the slots",
    "48": "M = 48, twice the slots",
    "none": "M = none",
}
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


def curves(text: str) -> str:
    """Draw what the page's table of an overload says."""
    title = f"{OVERLOADED_SLOTS} slots, a function of 300 ms: what M does when more calls come than can run"
    return overload(title, read(text), NAMES, full_per_s=OVERLOADED_SLOTS / OVERLOADED_S)
