"""
A fresh container for each call by every driver in turn, all in one run, with ratios to the first.

    sudo .venv/bin/python -m bench.drivers [CALLS]

The image is busybox and the command `cat`; dockerd is the bench's own, on this machine, reached by its socket. The
drivers take turns, so that what else the machine does falls on all of them.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import uvloop

from bench.containers import make_rootfs, one, rate
from mayfly.containers.choose import choose_runtime
from mayfly.containers.host import prepare_host
from mayfly.containers.runtime import Runtime
from tests.support.dockerd_bare import Daemon, dockerd

DRIVERS = ("crun", "native", "runc", "docker", "confined")
ROUNDS, WARM = 5, 5
AT_ONCE = (1, 2, 4, 8)


async def main(calls: int, place: Path, daemon: Daemon) -> None:
    """Open all, measure in turns, print."""
    rootfs = make_rootfs(place / "rootfs")
    docker = daemon.unix
    runtimes = [choose_runtime(name, state_dir=place / name, docker=docker) for name in DRIVERS]
    try:
        versions = ", ".join(f"{runtime.name} {runtime.version}" for runtime in runtimes)
        print(f"{versions}; {os.cpu_count()} cores, Linux {platform.release()}, load {os.getloadavg()[0]:.1f}")
        await show_steps(runtimes, rootfs, calls)
        for at_once in AT_ONCE:
            await show_rates(runtimes, rootfs, calls, at_once)
    finally:
        for runtime in runtimes:
            await runtime.close()


async def show_steps(runtimes: list[Runtime], rootfs: Path, calls: int) -> None:
    """Medians of each step, one call at a time."""
    times: dict[str, list[tuple[float, float, float]]] = {runtime.name: [] for runtime in runtimes}
    for runtime in runtimes:
        for _ in range(WARM):
            await one(runtime, rootfs)
    for _ in range(calls):
        for runtime in runtimes:
            times[runtime.name].append(await one(runtime, rootfs))
    first = 0.0
    for runtime in runtimes:
        create, run, remove = (statistics.median(step) * 1e3 for step in zip(*times[runtime.name], strict=True))
        first = first or create + run
        steps = f"create {create:6.1f} ms   run {run:5.1f} ms   remove {remove:5.1f} ms"
        print(f"{runtime.name:8} {steps}   to the answer {create + run:6.1f} ms = {(create + run) / first:5.1f} x")


async def show_rates(runtimes: list[Runtime], rootfs: Path, calls: int, at_once: int) -> None:
    """Calls per second, medians of rounds in turn."""
    rates: dict[str, list[float]] = {runtime.name: [] for runtime in runtimes}
    for _ in range(ROUNDS):
        for runtime in runtimes:
            made = await rate(lambda: one(runtime, rootfs), calls=calls, at_once=at_once)  # noqa: B023 - awaited here
            rates[runtime.name].append(made)
    medians = {name: statistics.median(each) for name, each in rates.items()}
    first = medians[DRIVERS[0]]
    words = "   ".join(f"{name} {each:6.1f}/s = {each / first:.3f}" for name, each in medians.items())
    print(f"{at_once} at once   {words}")


if __name__ == "__main__":
    prepare_host()
    folder = Path(tempfile.mkdtemp(prefix="mayfly-bench-"))
    folder.chmod(0o711)
    try:
        with dockerd() as daemon:
            uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 40, folder, daemon))
    finally:
        shutil.rmtree(folder)
