"""Where a call's time goes, by the installation's own word: the header `Server-Timing` of the answers."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence

Told = list[tuple[float, str]]
"""Calls: the milliseconds until the client had the answer, and the answer's `Server-Timing`."""

WITHIN = {"start": "run"}
"""Steps that are a part of another one."""

WHOLE = "total"
"""No step, but what the installation counts in all."""

REST = "the rest"
_STEP = re.compile(r"([\w-]+);dur=([\d.]+)")


def steps_ms(told: Sequence[tuple[float, str]]) -> dict[str, float]:
    """
    Return how long each step took, and the rest, which the installation does not count. It is the mean of the calls
    whose time is in the middle fifth: so the steps that are no part of others, and the rest, add up to the p50, nearly.
    """
    ordered = sorted(told)
    middle = ordered[len(ordered) * 2 // 5 : len(ordered) * 3 // 5] or ordered
    every = [_timing(said) for _, said in middle]
    names = {name: None for each in every for name in each}  # a dict keeps the order
    means = {name: statistics.fmean(each.get(name, 0) for each in every) for name in names}
    whole = statistics.fmean(total for total, _ in middle)
    return means | {REST: whole - sum(value for name, value in means.items() if name not in WITHIN)}


def _timing(header: str) -> dict[str, float]:
    """All steps in a header, in milliseconds, also those that came with a later version."""
    return {name: float(milliseconds) for name, milliseconds in _STEP.findall(header) if name != WHOLE}
