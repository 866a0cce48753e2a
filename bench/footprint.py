"""
What is in memory while nothing is called: an API server and a worker at rest, and a container that is held.

    sudo scripts/bench footprint [--json FILE]

A held container is one that has been created and whose command has not been started. It is measured in a process of its
own, as a worker would have it: several are made, and each costs its processes' proportional set size, the kernel's
memory that its cgroup is charged for, and what the one who made it has grown by.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from bench import roles
from bench.callers import cat_pushed, register
from bench.containers import CALL, make_rootfs, spec
from mayfly.containers import cgroups
from mayfly.containers.choose import choose_runtime, group_name
from mayfly.containers.host import enter_namespaces, prepare_host
from tests.support.up import ROOM, running_up

HELD, REST_S = 20, 5.0
GOAL_REST, GOAL_HELD = 120 << 20, 5 << 20


def measure() -> dict[str, Any]:
    """Return bytes: of each role at rest, and of one held container by its parts."""
    with cat_pushed() as (registry, image), running_up(registry, log_level="warning", **ROOM) as up:
        user = asyncio.run(register(up, image))
        time.sleep(REST_S)
        fresh = {role: roles.memory(pids) for role, pids in roles.processes(up).items()}
        with user.connection() as connection:
            for _ in range(200):
                connection.call()
        time.sleep(REST_S)
        used = {role: roles.memory(pids) for role, pids in roles.processes(up).items()}
    command = [sys.executable, "-m", "bench.footprint", "--held"]
    held = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {
        "fresh": {role: {"rss": memory.rss, "pss": memory.pss} for role, memory in fresh.items()},
        "rest": {role: {"rss": memory.rss, "pss": memory.pss} for role, memory in used.items()},
        "held": held,
        "held_bytes": held["processes"] + held["kernel"],
    }


async def measure_held(place: Path) -> dict[str, Any]:
    """Hold some containers, look, and run them, so that it is certain that they were such."""
    runtime = choose_runtime("auto", state_dir=place)
    rootfs = make_rootfs(place / "rootfs")
    try:
        await (await runtime.create(spec(rootfs))).remove()  # what the first one brings into memory stays there
        before = roles.memory([os.getpid()]).pss
        containers = [await runtime.create(spec(rootfs)) for _ in range(HELD)]
        grown = roles.memory([os.getpid()]).pss - before
        groups = cgroups.open_cgroups(group_name(place)).found().values()
        pids = sorted({pid for directories in groups for pid in cgroups.pids_in(directories)})
        processes = roles.memory(pids).pss
        kernel = sum(kernel_bytes(directories) for directories in groups)
        for container in containers:
            ending = await container.run(CALL, timeout_s=30)
            if ending.stdout != CALL.stdin:
                raise RuntimeError(f"a held container did not run: {ending}")
            await container.remove()
    finally:
        await runtime.close()
    return {
        "runtime": f"{runtime.name} {runtime.version}",
        "containers": HELD,
        "pids": len(pids) / HELD,
        "processes": processes / HELD,
        "kernel": kernel / HELD,
        "worker": grown / HELD,
    }


def kernel_bytes(directories: tuple[Path, ...]) -> int:
    """What a container's cgroup is charged for beside the memory of processes: the kernel's own, and tmpfs."""
    for directory in directories:
        if (kernel := directory / "memory.kmem.usage_in_bytes").exists():  # version 1
            return cgroups.read_int(kernel) + cgroups.read_key(directory / "memory.stat", "shmem")
        if (stat := directory / "memory.stat").exists():
            return cgroups.read_key(stat, "kernel") + cgroups.read_key(stat, "shmem")
    raise RuntimeError("a held container has no cgroup that counts memory")


def markdown(found: dict[str, Any]) -> str:
    """The tables that people read."""
    rows = ["| at rest | RSS | after 200 calls | goal | PSS |", "|---|---|---|---|---|"]
    for role, rest in found["rest"].items():
        goal = "" if role == "nats-server" else f"{GOAL_REST / roles.MIB:.0f} MiB"
        rows.append(
            f"| {role} | {found['fresh'][role]['rss'] / roles.MIB:.1f} MiB | {rest['rss'] / roles.MIB:.1f} MiB "
            f"| {goal} | {rest['pss'] / roles.MIB:.1f} MiB |"
        )
    held, each = found["held"], found["held_bytes"]
    return "\n".join(
        [
            *rows,
            "",
            f"A held container ({held['runtime']}, mean of {held['containers']}): {each / roles.MIB:.2f} MiB "
            f"(goal {GOAL_HELD / roles.MIB:.0f}): its {held['pids']:.0f} processes "
            f"{held['processes'] / roles.MIB:.2f} MiB (PSS), the kernel for it {held['kernel'] / roles.MIB:.2f} MiB; "
            f"beside it the worker has grown by {held['worker'] / roles.MIB:.3f} MiB.",
        ]
    )


def hold() -> None:
    """Measure held containers in namespaces of our own, and print that as JSON."""
    enter_namespaces()
    prepare_host()
    folder = Path(tempfile.mkdtemp(prefix="mayfly-footprint-"))
    folder.chmod(0o711)
    try:
        print(json.dumps(uvloop.run(measure_held(folder))))
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog="scripts/bench footprint")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--held", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.held:
        hold()
        return
    found = measure()
    print(markdown(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
