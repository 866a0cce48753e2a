"""
Two kinds of plots as SVG: dots and lines, on logarithmic axes, since what is compared differs by a factor of a hundred.
There are no bars: on such an axis their length would mean nothing.

Text is text, in one size for people and not smaller than the page's. Nothing is cut off or smoothed: an axis begins and
ends at a power of ten around the values, and each point of a line is a measured one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

WIDTH = 860
FONT = "font-family='sans-serif' font-size='14'"
INK, GRID = "#222222", "#d8d8d8"
OURS, OTHERS = ("#0072b2", "#d55e00", "#009e73"), ("#555555", "#8c6d1f", "#882255", "#666699")
"""Colours that people with any colour vision can tell apart; ours are the strong ones."""


@dataclass(frozen=True, slots=True)
class Dot:
    """A dot at *value*, with a whisker to *upto*."""

    label: str
    value: float
    upto: float
    ours: bool


@dataclass(frozen=True, slots=True)
class Line:
    """One line through measured points."""

    label: str
    points: Sequence[tuple[float, float]]
    ours: bool


@dataclass(slots=True)
class Drawing:
    """Elements, and the SVG that they make."""

    title: str
    height: int
    elements: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, *, anchor: str = "start", colour: str = INK, more: str = "") -> None:
        """Write words whose base line is at *y*."""
        place = f"x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='{colour}'"
        self.elements.append(f"<text {place} {more}>{escape(words)}</text>")

    def line(
        self, x1: float, y1: float, x2: float, y2: float, *, colour: str = INK, width: float = 1, dashes: str = "none"
    ) -> None:
        """Draw a straight line."""
        ends = f"x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}'"
        look = f"stroke='{colour}' stroke-width='{width:g}' stroke-dasharray='{dashes}'"
        self.elements.append(f"<line {ends} {look}/>")

    def dot(self, x: float, y: float, radius: float, *, colour: str) -> None:
        """Mark a place."""
        self.elements.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{radius:g}' fill='{colour}'/>")

    def path(self, points: Sequence[tuple[float, float]], *, colour: str, dashes: str = "none") -> None:
        """Draw a line through points, and mark each."""
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        look = f"fill='none' stroke='{colour}' stroke-width='2.5' stroke-dasharray='{dashes}'"
        self.elements.append(f"<polyline points='{places}' {look}/>")
        for x, y in points:
            self.dot(x, y, 4, colour=colour)

    def svg(self) -> str:
        """The whole, on white, whatever the page is on."""
        size = f"width='{WIDTH}' height='{self.height}' viewBox='0 0 {WIDTH} {self.height}'"
        opening = (
            f"<svg xmlns='http://www.w3.org/2000/svg' {size} role='img' aria-label={quoteattr(self.title)} {FONT}>"
        )
        background = f"<rect width='{WIDTH}' height='{self.height}' fill='#ffffff'/>"
        return "\n".join([opening, background, *self.elements, "</svg>", ""])


@dataclass(frozen=True, slots=True)
class Axis:
    """A logarithmic axis from one place of the drawing to another."""

    lowest: float
    highest: float
    begins: float
    ends: float

    @classmethod
    def around(cls, values: Sequence[float], *, begins: float, ends: float) -> Axis:
        """From the power of ten at or below all values to the one above."""
        lowest, highest = math.floor(math.log10(min(values))), math.floor(math.log10(max(values))) + 1
        return cls(10.0**lowest, 10.0**highest, begins, ends)

    def at(self, value: float) -> float:
        """Where a value is."""
        share = math.log(value / self.lowest) / math.log(self.highest / self.lowest)
        return self.begins + share * (self.ends - self.begins)

    def ticks(self) -> Iterator[float]:
        """1, 2 and 5 of each power of ten."""
        power = self.lowest
        while power < self.highest:
            yield from (power, 2 * power, 5 * power)
            power *= 10
        yield self.highest


def dots(title: str, unit: str, rows: Sequence[Dot], *, upto: str) -> str:
    """Draw dots below each other, each with its value beside it, and that at the end of its whisker, called *upto*."""
    left, right, top, step = 230, WIDTH - 170, 56, 38
    bottom = top + step * len(rows)
    drawing = Drawing(title, bottom + 62)
    axis = Axis.around([value for row in rows for value in (row.value, row.upto)], begins=left, ends=right)
    drawing.text(16, 28, title, more="font-weight='bold' font-size='16'")
    for tick in axis.ticks():
        drawing.line(axis.at(tick), top, axis.at(tick), bottom, colour=GRID)
        drawing.text(axis.at(tick), bottom + 20, f"{tick:g}", anchor="middle")
    drawing.text((left + right) / 2, bottom + 46, unit, anchor="middle")
    for number, row in enumerate(rows):
        y = top + step * number + step / 2
        colour = OURS[0] if row.ours else OTHERS[0]
        drawing.text(left - 12, y + 5, row.label, anchor="end", more="font-weight='bold'" if row.ours else "")
        drawing.line(axis.at(row.value), y, axis.at(row.upto), y, colour=colour, width=2)
        drawing.line(axis.at(row.upto), y - 6, axis.at(row.upto), y + 6, colour=colour, width=2)
        drawing.dot(axis.at(row.value), y, 7, colour=colour)
        drawing.text(axis.at(row.upto) + 8, y + 5, f"{row.value:.3g} ({upto} {row.upto:.3g})")
    return drawing.svg()


def lines(title: str, *, across: str, upwards: str, rows: Sequence[Line]) -> str:
    """Draw lines, each with its name at its end."""
    left, right, top, bottom = 80, WIDTH - 220, 56, 436
    drawing = Drawing(title, bottom + 66)
    ys = Axis.around([y for row in rows for _, y in row.points], begins=bottom, ends=top)
    numbers = sorted({x for row in rows for x, _ in row.points})
    xs = Axis(numbers[0], numbers[-1], left, right)
    drawing.text(16, 28, title, more="font-weight='bold' font-size='16'")
    for tick in ys.ticks():
        drawing.line(left, ys.at(tick), right, ys.at(tick), colour=GRID)
        drawing.text(left - 10, ys.at(tick) + 5, f"{tick:g}", anchor="end")
    for number in numbers:
        drawing.line(xs.at(number), top, xs.at(number), bottom, colour=GRID)
        drawing.text(xs.at(number), bottom + 22, f"{number:g}", anchor="middle")
    drawing.text((left + right) / 2, bottom + 50, across, anchor="middle")
    middle = (top + bottom) / 2
    drawing.text(22, middle, upwards, anchor="middle", more=f"transform='rotate(-90 22 {middle:.1f})'")
    colours = _colours(rows)
    ends = _apart({row.label: ys.at(row.points[-1][1]) for row in rows})
    for row in rows:
        colour = colours[row.label]
        drawing.path([(xs.at(x), ys.at(y)) for x, y in row.points], colour=colour, dashes="none" if row.ours else "6 4")
        x, y = xs.at(row.points[-1][0]), ys.at(row.points[-1][1])
        drawing.line(x + 8, y, right + 16, ends[row.label], colour=colour, dashes="1 5")
        look = "font-weight='bold'" if row.ours else ""
        drawing.text(right + 20, ends[row.label] + 5, row.label, colour=colour, more=look)
    return drawing.svg()


def _colours(rows: Sequence[Line]) -> dict[str, str]:
    ours, others = iter(OURS * len(rows)), iter(OTHERS * len(rows))
    return {row.label: next(ours if row.ours else others) for row in rows}


def _apart(places: Mapping[str, float], least: float = 20) -> dict[str, float]:
    """Move names down until none stands on another."""
    moved: dict[str, float] = {}
    lowest = -math.inf
    for name, place in sorted(places.items(), key=lambda each: each[1]):
        lowest = moved[name] = max(place, lowest + least)
    return moved
