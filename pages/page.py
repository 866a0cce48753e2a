"""One page, and the tables in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

WIDTH = 120
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Page:
    """
    A page that is made from the code, as a whole or between marks.

    `made` is given what the page has now ("" if there is none) and returns what it is to have.
    """

    path: str
    made: Callable[[str], str]

    def text(self, root: Path = ROOT) -> str:
        """Return what the page of the project in *root* has now."""
        path = root / self.path
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def is_current(self, root: Path = ROOT) -> bool:
        """Say whether the page is what the code says."""
        there = self.text(root)
        return bool(there) and self.made(there) == there

    def write(self, root: Path = ROOT) -> bool:
        """Write it if it is not; return whether it was written."""
        there = self.text(root)
        made = self.made(there)
        if made != there:
            (root / self.path).write_text(made, encoding="utf-8")
        return made != there


def whole(make: Callable[[], str]) -> Callable[[str], str]:
    """Make a page as a whole, whatever it has now."""
    return lambda _there: make()


def prose(text: str) -> str:
    """Write paragraphs as lines of at most 120 columns."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))
    return "\n\n".join(fill(each, WIDTH, break_long_words=False, break_on_hyphens=False) for each in paragraphs)


def wrapped(text: str) -> str:
    """Break the long lines of a page that are prose: not those of tables, headings and blocks."""
    lines, inside = [], False
    for line in text.split("\n"):
        inside ^= line.startswith("```")
        if len(line) > WIDTH and not inside and not line.startswith(("|", "#", "<")):
            indent = "  " if line.startswith(("- ", "  ")) else ""
            line = fill(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)  # noqa: PLW2901
        lines.append(line)
    return "\n".join(lines)


def table(head: tuple[str, ...], rows: Iterable[Iterable[object]]) -> str:
    """Write a table; a cell is one line, and a bar in it stays one."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *(map(cell, row) for row in rows))]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def cell(value: object) -> str:
    """Write what stands in one cell."""
    return " ".join(str(value).split()).replace("|", "\\|")


def code(value: object) -> str:
    """Write a value as it would be set."""
    if value in (None, (), "", [], {}):
        return "none"
    if isinstance(value, bool):
        value = str(value).lower()
    return f"`{','.join(map(str, value)) if isinstance(value, tuple | list) else value}`"
