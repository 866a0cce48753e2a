"""
The curve of an overload as SVG: how many calls are refused, and how long the others wait, by how many come.

It is drawn from a table of the page, so the picture says what the table says, and that is what the model says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.plot import GRID, OTHERS, OURS, WIDTH, Drawing

TABLE = re.compile(r"^\| rate_per_s \| max_activations \| refused .*\n\|[-|]+\n(?P<rows>(?:\|.*\n)+)", re.MULTILINE)
COLOURS = (OURS[0], OURS[2], OTHERS[2])
DASHES = ("none", "9 4", "2 5")
TOP, BOTTOM = 84.0, 356.0
LEAST_WAIT_MS, MOST_WAIT_MS = 10.0, 20_000.0
WAITS = "wait for a slot, p95, of those that ran"

Height = Callable[[float], float]


@dataclass(frozen=True)
class Point:
    """One row of the table."""

    rate_per_s: float
    refused_percent: float
    wait_p95_ms: float


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A part of the drawing with axes of its own: rates across, and upwards what *height* places."""

    name: str
    ticks: Mapping[float, str]
    height: Height
    left: float
    right: float
    rates: Sequence[float]

    def at(self, rate_per_s: float) -> float:
        """Where a rate is."""
        lowest, highest = self.rates[0], self.rates[-1]
        return self.left + (rate_per_s - lowest) / (highest - lowest) * (self.right - self.left)


def read(text: str) -> dict[str, list[Point]]:
    """
    Read the table of a page that has rates and M: the points of each M.

    Raises: ValueError when there is no such table.
    """
    found = TABLE.search(text)
    if not found:
        raise ValueError("The page has no table of refusals by rate_per_s and max_activations")
    lines: dict[str, list[Point]] = {}
    for row in found["rows"].splitlines():
        rate, most, refused, _, queue, *_ = (cell.strip() for cell in row.strip("|").split("|"))
        p95 = queue.split(" / ")[1]
        point = Point(_number(rate), _number(refused.removesuffix(" %")), _number(p95))
        lines.setdefault(most, []).append(point)
    return lines


def overload(title: str, lines: Mapping[str, Sequence[Point]], names: Mapping[str, str], *, full_per_s: float) -> str:
    """Draw refusals at the left and waits at the right; *full_per_s* is the rate that the slots can just do."""
    rates = sorted({point.rate_per_s for points in lines.values() for point in points})
    drawing = Drawing(title, 440)
    drawing.text(16, 28, title, more="font-weight='bold' font-size='16'")
    shares: dict[float, str] = {share: f"{share} %" for share in (0, 10, 20, 30)}
    waits: dict[float, str] = {LEAST_WAIT_MS: "0 to 10 ms", 100: "100 ms", 1000: "1 s", 10_000: "10 s"}
    left = Panel(name="refused", ticks=shares, height=_share_at, left=70, right=400, rates=rates)
    right = Panel(name=WAITS, ticks=waits, height=_wait_at, left=510, right=840, rates=rates)
    for panel in (left, right):
        _axes(drawing, panel)
        x = panel.at(full_per_s)
        drawing.line(x, TOP, x, BOTTOM, colour="#777777", width=1.5, dashes="4 4")
        drawing.text(x + 5, TOP - 6, "all slots busy", anchor="start", colour="#555555", more="font-size='12'")
    for (most, points), colour, dashes in zip(lines.items(), COLOURS, DASHES, strict=True):
        refused = [(left.at(point.rate_per_s), _share_at(point.refused_percent)) for point in points]
        waited = [(right.at(point.rate_per_s), _wait_at(point.wait_p95_ms)) for point in points]
        drawing.path(refused, colour=colour, dashes=dashes)
        drawing.path(waited, colour=colour, dashes=dashes)
        x = 70 + 265 * list(lines).index(most)
        drawing.line(x, 424, x + 40, 424, colour=colour, width=2.5, dashes=dashes)
        drawing.text(x + 48, 429, names[most], colour=colour, more="font-weight='bold'")
    drawing.text(WIDTH / 2, BOTTOM + 44, "calls a second that come", anchor="middle")
    return drawing.svg()


def _axes(drawing: Drawing, panel: Panel) -> None:
    drawing.text(panel.left, TOP - 26, panel.name, more="font-weight='bold'")
    for value, label in panel.ticks.items():
        drawing.line(panel.left, panel.height(value), panel.right, panel.height(value), colour=GRID)
        drawing.text(panel.left - 8, panel.height(value) + 5, label, anchor="end")
    for rate in panel.rates:
        drawing.line(panel.at(rate), TOP, panel.at(rate), BOTTOM, colour=GRID)
        drawing.text(panel.at(rate), BOTTOM + 20, f"{rate:g}", anchor="middle")


def _share_at(percent: float) -> float:
    """Where a share is, of 30 percent."""
    return BOTTOM - percent / 30 * (BOTTOM - TOP)


def _wait_at(ms: float) -> float:
    """Where a wait is, on a logarithmic axis whose beginning is no wait worth the name."""
    share = math.log(max(ms, LEAST_WAIT_MS) / LEAST_WAIT_MS) / math.log(MOST_WAIT_MS / LEAST_WAIT_MS)
    return BOTTOM - share * (BOTTOM - TOP)


def _number(words: str) -> float:
    return float(words.replace(",", ""))
