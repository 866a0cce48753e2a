"""
A run beside an earlier one, perhaps of another machine: as ratios to the floor of the same run, never as times.

On a machine half as fast both take twice as long, and the ratio stays. Whether it stayed is for people to judge:
machines that others use as well are too noisy for a program to do it. The ratios of processor time stay even there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RATIOS = {
    "one at a time, p50 / floor's": ("hot_p50_ms", "unshare_p50_ms"),
    "first call, p50 / floor's": ("cold_p50_ms", "unshare_p50_ms"),
    "1 MiB in and out, p50 / floor's": ("mib_p50_ms", "unshare_p50_ms"),
    "Python, p50 / floor's": ("python_p50_ms", "unshare_p50_ms"),
    "`docker run`, p50 / Mayfly's": ("docker_run_p50_ms", "hot_p50_ms"),
    "Docker Engine API, p50 / Mayfly's": ("engine_api_p50_ms", "hot_p50_ms"),
    "bare `crun run`, p50 / floor's": ("crun_run_p50_ms", "unshare_p50_ms"),
    "many at once, rate / floor's": ("saturation_per_s", "unshare_per_s"),
    "many at once, rate / bare `crun run`'s": ("saturation_per_s", "crun_run_per_s"),
    "processor time of a call / floor's": ("hot_cpu_ms", "unshare_cpu_ms"),
    "processor time of a call / bare `crun run`'s": ("hot_cpu_ms", "crun_run_cpu_ms"),
}
"""Each with the names of the summary's two figures."""


def comparison(now: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """Write a table of the ratios of two runs, of which the second is an earlier one."""
    lines = ["| ratio | this run | the committed one | this / that |", "| --- | --- | --- | --- |"]
    for words, names in RATIOS.items():
        mine, theirs = _ratio(now["summary"], *names), _ratio(before["summary"], *names)
        if mine is not None and theirs is not None:
            lines.append(f"| {words} | {mine:.2f} | {theirs:.2f} | {mine / theirs:.2f} |")
    runtimes = [next(iter(each["runtimes"])) for each in (now, before)]
    loads = [each["machine"]["load_before"] for each in (now, before)]
    lines += ["", f"Runtimes: {runtimes[0]}, {runtimes[1]}. Loads of the machines before: {loads[0]:g}, {loads[1]:g}."]
    return "\n".join(lines)


def _ratio(summary: Mapping[str, float | None], one: str, other: str) -> float | None:
    above, below = summary.get(one), summary.get(other)
    return above / below if above is not None and below is not None else None
