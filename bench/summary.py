"""The figures that are quoted, flat, each under a name that stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def summary(found: Mapping[str, Any]) -> dict[str, float | None]:
    """
    Take the quoted figures out of all. Latencies are of one call at a time; rates are the best of any number at once.
    What was not measured is None.
    """
    first, *others = found["runtimes"]
    contenders, kinds = found["contenders"], found["kinds"][f"mayfly-{first}"]
    hot = contenders[f"mayfly-{first}"]["1"]
    made: dict[str, float | None] = {
        "hot_p50_ms": hot["p50_ms"],
        "hot_p95_ms": hot["p95_ms"],
        "hot_p99_ms": hot["p99_ms"],
        "cold_p50_ms": found["cold"][first]["p50_ms"],
        "docker_run_p50_ms": p50_ms(contenders, "docker"),
        "engine_api_p50_ms": p50_ms(contenders, "engine"),
        "crun_run_p50_ms": p50_ms(contenders, "crun"),
        "unshare_p50_ms": p50_ms(contenders, "unshare"),
        "saturation_per_s": best_per_s(contenders, f"mayfly-{first}"),
        "docker_run_per_s": best_per_s(contenders, "docker"),
        "engine_api_per_s": best_per_s(contenders, "engine"),
        "crun_run_per_s": best_per_s(contenders, "crun"),
        "unshare_per_s": best_per_s(contenders, "unshare"),
        "mib_p50_ms": kinds["1 MiB"]["p50_ms"],
        "python_p50_ms": kinds["Python"]["p50_ms"],
        "egress_p50_ms": kinds["egress"]["p50_ms"],
        "hot_cpu_ms": cpu_ms(contenders, f"mayfly-{first}"),
        "docker_run_cpu_ms": cpu_ms(contenders, "docker"),
        "engine_api_cpu_ms": cpu_ms(contenders, "engine"),
        "crun_run_cpu_ms": cpu_ms(contenders, "crun"),
        "unshare_cpu_ms": cpu_ms(contenders, "unshare"),
        "client_cpu_ms": hot["cpu_ms"]["client"],
    }
    for name in others:
        made[f"hot_p50_ms_{name}"] = p50_ms(contenders, f"mayfly-{name}")
        made[f"cold_p50_ms_{name}"] = found["cold"][name]["p50_ms"]
        made[f"hot_cpu_ms_{name}"] = cpu_ms(contenders, f"mayfly-{name}")
        made[f"saturation_per_s_{name}"] = best_per_s(contenders, f"mayfly-{name}")
    return made


def p50_ms(contenders: Mapping[str, Any], name: str) -> float | None:
    """Of one at a time."""
    return contenders[name]["1"]["p50_ms"] if name in contenders else None


def cpu_ms(contenders: Mapping[str, Any], name: str) -> float | None:
    """Processor milliseconds of all programs that take part in one call, of one at a time."""
    return sum(contenders[name]["1"]["cpu_ms"].values()) if name in contenders else None


def best_per_s(contenders: Mapping[str, Any], name: str) -> float | None:
    """The best of any number at once."""
    return max(each["per_s"] for each in contenders[name].values()) if name in contenders else None
