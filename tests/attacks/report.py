"""The table of docs/explanation/security.md: each attack, how it ended, and what its neighbour had of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.attacks.catalogue import Attack
from tests.attacks.neighbour import Calls

PAGE: Final = Path(__file__).parents[2] / "docs" / "explanation" / "security.md"
BEGIN, END = "<!-- Written by scripts/attacks. -->", "<!-- Written until here. -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One attack as it went."""

    attack: Attack
    alone: Calls
    beside: Calls

    @property
    def ratio(self) -> float:
        """The neighbour's p50 beside the attack, over that without it."""
        return self.beside.p50_ms / self.alone.p50_ms

    def __str__(self) -> str:
        """As a row of the table."""
        attack, alone, beside = self.attack, self.alone, self.beside
        answer = f"{attack.status} `{attack.code}`" if attack.code else str(attack.status)
        calls, errors = len(alone.seconds) + len(beside.seconds), len(alone.errors) + len(beside.errors)
        figures = f"{calls} | {errors} | {alone.p50_ms:.1f} ms | {beside.p50_ms:.1f} ms | {self.ratio:.2f}"
        return f"| {attack.name} | {answer}: {attack.ended} | {figures} |"


def table(rows: Iterable[Row]) -> str:
    """Write it."""
    return "\n".join(_lines(rows))


def _lines(rows: Iterable[Row]) -> Iterator[str]:
    yield "| attack | how it ended | neighbour's calls | errors | p50 without | p50 beside | ratio |"
    yield "|---|---|---|---|---|---|---|"
    yield from map(str, rows)


def written(page: str, text: str) -> str:
    """The page with *text* in the place of what was written there before."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}"


def attacks_on(page: str) -> list[str]:
    """The attacks that have a row on the page."""
    lines = page.partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    return [line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")][1:]
