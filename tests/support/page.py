"""
A page of the documents, as the fenced blocks that are in it, and what becomes of each when the page is tried.

    ```sh                        commands: typed in turn, in one shell, by tests/docs or by the test that is named
    ```output                    what the block of commands above it prints
    ```python title="job.py"     a file: written where the reader is, under that name
    ```text, ```json ...         anything else: read, and not typed

A comment in the line above a block of commands says more of it:

    <!-- typed by: tests/a.py::test_b -->    by that test, and not by tests/docs
    <!-- not typed: reason -->               by nobody
    <!-- ends with: 1 -->                    its last command ends with this status, and not with 0
    <!-- terminal: first -->                 in another terminal, of that name: what runs there already is ended by
                                             Ctrl-C, and what is typed goes on; it is there when it has printed the last
                                             line of its output, and is ended with the page

Which pages tests/docs types, and on which installation, stands in tests/docs/test_pages.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(page for folder in ("docs", "deploy", "examples") for page in (ROOT / folder).glob("**/*.md")),
    ]
)

_FENCE = re.compile(r"^( *)```(\w*)(?: title=\"([^\"]+)\")?$")
_REMARK = re.compile(r"^ *<!-- (typed by|not typed|ends with|terminal): (.+?) -->$")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    """Of its first fence, from 1 on."""

    language: str
    title: str
    """The name of the file that it is; empty if it is none."""

    text: str
    remarks: dict[str, str]
    """`typed by`, `not typed`, `ends with` and `terminal`, from the comments above it."""

    heading: str
    """The nearest heading above it of the second level."""

    def __str__(self) -> str:
        """Where it stands."""
        place = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page.name
        return f"{place}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in its order."""
    opened: Block | None = None
    remarks: dict[str, str] = {}
    heading, indent = "", ""
    lines: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if opened is not None:
            if line == f"{indent}```":
                yield Block(page, opened.line, opened.language, opened.title, "".join(lines), opened.remarks, heading)
                opened, remarks = None, {}
            else:
                lines.append(f"{line.removeprefix(indent)}\n")
        elif fence := _FENCE.match(line):
            indent, lines = fence[1], []
            opened = Block(page, number, fence[2], fence[3] or "", "", remarks, heading)
        elif remark := _REMARK.match(line):
            remarks = {**remarks, remark[1]: remark[2]}
        else:
            remarks = {}
            heading = line.removeprefix("## ") if line.startswith("## ") else heading
    assert opened is None, f"{opened}: this block does not end"


def commands(page: str, heading: str) -> list[str]:
    """The blocks of commands below a heading of the second level of a page, which is a path below the project."""
    found = [each for each in blocks_of(ROOT / page) if each.heading == heading and each.language == "sh"]
    return [each.text for each in found if "not typed" not in each.remarks]


def printed(page: str, heading: str) -> list[str]:
    """The blocks below such a heading that say what commands print."""
    return [each.text for each in blocks_of(ROOT / page) if each.heading == heading and each.language == "output"]
