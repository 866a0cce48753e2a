"""
The floor with a runtime: bare `crun run` of the same root file system, in a user namespace, without a seccomp filter,
limits, or anybody who reads results, in a cgroup made outside. Prints one JSON object.

Enters namespaces of its own, as a worker does, so it is a program of its own.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from bench.containers import bare, make_bundle, make_rootfs, rate
from mayfly.containers.host import enter_namespaces, prepare_host


async def measure(place: Path, calls: int) -> dict[str, object]:
    """Latency of one at a time, and calls a second with 1, 2 and 4 at once."""
    bundle = make_bundle(place / "bundle", make_rootfs(place / "rootfs"))
    state = place / "state"
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        await bare(bundle, state)
        times.append((time.perf_counter() - began) * 1e3)
    per_s = {}
    for at_once in (1, 2, 4):
        per_s[at_once] = await rate(lambda: bare(bundle, state), calls=calls, at_once=at_once)
        await asyncio.sleep(0)
    return {"p50_ms": statistics.median(times), "p95_ms": sorted(times)[int(calls * 0.95)], "per_s": per_s}


if __name__ == "__main__":
    enter_namespaces()
    prepare_host()
    folder = Path(tempfile.mkdtemp(prefix="mayfly-floor-"))
    folder.chmod(0o711)
    try:
        print(json.dumps(uvloop.run(measure(folder, int(sys.argv[1])))))
    finally:
        shutil.rmtree(folder)
