#!/usr/bin/env python3
"""
How fast containers are, by themselves: held and not held, and calls per second at 1, 2 and 4 at once.

    sudo python bench/containers.py [crun|runc] [CALLS]

The image is busybox and the command `cat`. Beside it, in the same run and interleaved with it, stands bare `crun run`
of the same root file system in a user namespace, with no seccomp filter, limits or reading of results.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from mayfly.containers.bundle import oci_config
from mayfly.containers.choose import choose_runtime
from mayfly.containers.host import enter_namespaces, prepare_host
from mayfly.containers.runtime import Call, ContainerSpec, Runtime
from mayfly.domain.ids import UserId, new_id, new_ulid
from mayfly.domain.image import ProcessConfig
from mayfly.domain.limits import Limits

CALL = Call(argv=("cat",), stdin=b"hello")
ROUNDS = 3
OWNER = UserId(new_id())


def make_rootfs(directory: Path) -> Path:
    """The smallest image that has a `cat`."""
    (directory / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", directory / "bin" / "busybox")
    (directory / "bin" / "cat").symlink_to("busybox")
    for path in (directory, *directory.rglob("*")):
        os.chown(path, 100_000, 100_000, follow_symlinks=False)
    return directory


def spec(rootfs: Path) -> ContainerSpec:
    """A container of the default limits."""
    return ContainerSpec(id=new_ulid(), owner=OWNER, rootfs=rootfs, config=ProcessConfig(), limits=Limits())


async def one(runtime: Runtime, rootfs: Path) -> tuple[float, float, float]:
    """One container, from nothing to nothing: seconds for create, run, remove."""
    times = [time.perf_counter()]
    container = await runtime.create(spec(rootfs))
    times.append(time.perf_counter())
    ending = await container.run(CALL, timeout_s=30)
    times.append(time.perf_counter())
    assert (ending.exit_code, ending.stdout) == (0, CALL.stdin), ending
    await container.remove()
    times.append(time.perf_counter())
    return times[1] - times[0], times[2] - times[1], times[3] - times[2]


async def bare(bundle: Path, state: Path) -> None:
    """One `crun run` of a bundle."""
    command = ("crun", f"--root={state}", "--cgroup-manager=disabled", "run", f"--bundle={bundle}", new_ulid())
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    stdout, stderr = await process.communicate(CALL.stdin)
    assert stdout == CALL.stdin, stderr


def make_bundle(directory: Path, rootfs: Path) -> Path:
    """A bundle for bare crun: our configuration without our own mounts, running `cat` directly."""
    directory.mkdir()
    config = oci_config(spec(rootfs))
    config["root"]["path"] = str(rootfs)
    config["process"]["args"] = list(CALL.argv)
    del config["process"]["rlimits"]
    config["mounts"] = [each for each in config["mounts"] if each["type"] != "bind"]
    (directory / "config.json").write_text(json.dumps(config))
    return directory


async def rate(work: Callable[[], Awaitable[object]], *, calls: int, at_once: int) -> float:
    """Calls per second."""
    left = iter(range(calls))

    async def worker() -> None:
        for _ in left:
            await work()

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return calls / (time.perf_counter() - began)


def milliseconds(values: list[float]) -> str:
    """Median and 95th percentile."""
    ordered = sorted(values)
    return f"p50 {statistics.median(ordered) * 1e3:5.1f} ms   p95 {ordered[int(len(ordered) * 0.95)] * 1e3:5.1f} ms"


async def main(name: str, calls: int, place: Path) -> None:
    """Make what is measured, and take it away again."""
    rootfs = make_rootfs(place / "rootfs")
    bundle = make_bundle(place / "bundle", rootfs)
    runtime = choose_runtime(name, state_dir=place)
    try:
        await measure(runtime, rootfs, bundle, calls)
    finally:
        await runtime.close()


async def measure(runtime: Runtime, rootfs: Path, bundle: Path, calls: int) -> None:
    """Print latencies and rates."""
    print(f"{runtime.name} {runtime.version}, {os.cpu_count()} cores, Linux {platform.release()}")
    for _ in range(10):
        await one(runtime, rootfs)
    times = [await one(runtime, rootfs) for _ in range(calls)]
    print(f"held       {milliseconds([run for _, run, _ in times])}")
    print(f"not held   {milliseconds([create + run for create, run, _ in times])}")
    print(f"remove     {milliseconds([remove for _, _, remove in times])}   (after the answer)")
    for at_once in (1, 2, 4):
        ours, theirs = [], []
        for _ in range(ROUNDS):
            ours.append(await rate(lambda: one(runtime, rootfs), calls=calls, at_once=at_once))
            theirs.append(await rate(lambda: bare(bundle, bundle / "state"), calls=calls, at_once=at_once))
        mine, bares = statistics.median(ours), statistics.median(theirs)
        print(f"at once {at_once}  {mine:5.0f}/s   bare crun {bares:5.0f}/s   ratio {mine / bares:.2f}")


if __name__ == "__main__":
    enter_namespaces()
    prepare_host()
    folder = Path(tempfile.mkdtemp(prefix="mayfly-bench-"))
    folder.chmod(0o711)
    try:
        uvloop.run(
            main(sys.argv[1] if len(sys.argv) > 1 else "auto", int(sys.argv[2]) if len(sys.argv) > 2 else 200, folder)
        )
    finally:
        shutil.rmtree(folder)
