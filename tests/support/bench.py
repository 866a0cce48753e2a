"""Figures of the bench that nobody measured: round ones, from which tests can tell what must stand on the page."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bench.figures import Block, Figures
from bench.plan import AT_ONCE, OTHERS_AT_ONCE, SHORT
from bench.summary import summary

HOT_MS = {"crun": 10.0, "native": 5.0}
OTHERS_MS = {"unshare": 1.0, "crun": 8.0, "engine": 150.0, "docker": 200.0}
KINDS = {"1 B": 1.0, "64 KiB": 1.1, "1 MiB": 3.0, "Python": 5.0, "1 s": 110.0, "egress": 1.2}
"""Each as a multiple of the hot call."""


def figures(ms: float, at_once: int = 1, **cpu_ms: float) -> dict[str, Any]:
    """A hundred calls of three rounds that took *ms* each, so many at once."""
    cpu_s = {whose: each / 10 for whose, each in cpu_ms.items()}
    return asdict(Figures.of([Block([ms] * 100, 100 * ms / 1e3 / at_once, cpu_s)] * 3))


def found(*runtimes: str, docker: bool = True) -> dict[str, Any]:
    """What a run finds, as it goes into the file. A rate grows with how many there are at once up to 4."""
    others = {name: ms for name, ms in OTHERS_MS.items() if docker or name in {"unshare", "crun"}}
    memory = {role: {"rss_mib": 80.0, "pss_mib": 60.0} for role in ("api", "nats", "worker")}
    cpu_ms = {"client": 0.25, "api": 2.0, "nats": 1.5, "worker": 3.0, "containers": 4.0}
    made: dict[str, Any] = {
        "machine": {
            "cores": 2,
            "processor": "a processor",
            "memory_mib": 8192,
            "kernel": "6.1",
            "load_before": 0.25,
        },
        "versions": {"Mayfly": "0.1.0", "crun": "1.8.1"},
        "plan": asdict(SHORT),
        "runtimes": dict.fromkeys(runtimes, "1.8.1"),
        "slots": 8,
        "at_rest": {
            name: {"memory": memory, "cpu_ms_per_s": {"api": 2.0, "nats": 4.0, "worker": 3.0, "containers": 0.0}}
            for name in runtimes
        },
        "cold": {name: figures(HOT_MS[name] * 1.5) for name in runtimes},
        "contenders": {
            **{
                name: {str(n): figures(ms, n, **{"programs": ms, "docker run": ms / 8}) for n in OTHERS_AT_ONCE}
                for name, ms in others.items()
            },
            **{
                f"mayfly-{name}": {str(n): figures(HOT_MS[name], min(n, 4), **cpu_ms) for n in AT_ONCE}
                for name in runtimes
            },
        },
        "kinds": {
            f"mayfly-{name}": {kind: figures(HOT_MS[name] * times) for kind, times in KINDS.items()}
            for name in runtimes
        },
        "steps": {
            name: {"admit": 1.0, "image": HOT_MS[name] - 4, "start": 0.5, "run": 1.0, "the rest": 2.0}
            for name in runtimes
        },
        "engine_known_p50_ms": 100.0 if docker else None,
        "memory_after": dict.fromkeys(runtimes, memory),
        "also": {},
        "took_s": 60.0,
    }
    return made | {"summary": summary(made)}
