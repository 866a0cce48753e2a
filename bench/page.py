"""docs/reference/performance.md and its plots, made of the figures of one run and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import also, plot, tables
from bench.labels import OURS, labels

TEMPLATE = Path(__file__).with_name("page.template.md")
LATENCY, RATE = "performance-latency.svg", "performance-rate.svg"


def write(found: Mapping[str, Any], path: Path) -> None:
    """Write the page, and its plots beside it."""
    for name, content in files(found, path.name).items():
        (path.parent / name).write_text(content, encoding="utf-8")


def files(found: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return what the page consists of, by file name; the page itself is *name*."""
    return {name: page(found), LATENCY: latency_plot(found), RATE: rate_plot(found)}


def markdown(found: Mapping[str, Any]) -> str:
    """All tables, as they are printed when a run has ended."""
    every = (tables.alone, tables.many, tables.waiting, tables.kinds, tables.steps, tables.processor, tables.memory)
    tail = (tables.aims(found), also.sections(found).rstrip(), tables.where(found))
    return "\n\n".join([*(each(found) for each in every), *filter(None, tail)])


def page(found: Mapping[str, Any]) -> str:
    """The page."""
    made = {
        name: getattr(tables, name)(found)
        for name in (
            "where",
            "alone",
            "engine_known",
            "docker_program",
            "many",
            "waiting",
            "kinds",
            "steps",
            "processor",
            "memory",
            "aims",
        )
    }
    return TEMPLATE.read_text(encoding="utf-8").format(
        latency=LATENCY, rate=RATE, rounds=found["plan"]["rounds"], also=also.sections(found), **made
    )


def latency_plot(found: Mapping[str, Any]) -> str:
    """How long one call takes, of each contender."""
    ones = {name: found["contenders"][name]["1"] for name in labels(found)}
    rows = [
        plot.Dot(label, ones[name]["p50_ms"], ones[name]["p99_ms"], name.startswith(OURS))
        for name, label in labels(found).items()
    ]
    unit = "milliseconds, logarithmic: the dot is the p50, the whisker ends at the p99"
    return plot.dots("One call at a time", unit, rows, upto="p99")


def rate_plot(found: Mapping[str, Any]) -> str:
    """How many calls there are a second, of each contender, by how many at once."""
    rows = [
        plot.Line(
            label,
            [(int(at_once), each["per_s"]) for at_once, each in found["contenders"][name].items()],
            name.startswith(OURS),
        )
        for name, label in labels(found).items()
    ]
    return plot.lines("Many calls at once", across="calls at once", upwards="calls a second, logarithmic", rows=rows)
