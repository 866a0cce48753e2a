"""
What is in memory while nothing runs: an API server and a worker at rest, a call that waits, a container that is held.

    sudo scripts/bench footprint [--json FILE]

A call that waits is in the queue: what a role has grown by, from when each caller was connected and had been answered
one such call, by the number of calls. A held container is one that has been created and whose command has not been
started. It is measured in a process of its own, as a worker would have it: several are made, and each costs its
processes' proportional set size, the kernel's memory that its cgroup is charged for, and what the one who made it has
grown by.
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
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvloop

from bench import roles
from bench.callers import User, cat_pushed, register
from bench.containers import CALL, make_rootfs, spec
from mayfly.containers import cgroups
from mayfly.containers.choose import choose_runtime, group_name
from mayfly.containers.host import enter_namespaces, prepare_host
from tests.support.up import Up, running_up

HELD, REST_S = 20, 5.0
WAITING, TIMEOUT_S, ADMITTED_S = 100, 15, 8
LARGE = b"x" * (1 << 20)
GOAL_REST, GOAL_HELD = 120 << 20, 5 << 20


def measure() -> dict[str, Any]:
    """Return bytes: of each role at rest, and of one held container by its parts."""
    room = {"max_activations": 2 * WAITING, "max_activations_per_user": 2 * WAITING}
    with cat_pushed() as (registry, image), running_up(registry, slots=1, log_level="warning", **room) as up:
        user = asyncio.run(register(up, image))
        asyncio.run(register_sleep(user, image))
        time.sleep(REST_S)
        fresh = {role: roles.memory(pids) for role, pids in roles.processes(up).items()}
        with user.connection() as connection:
            for _ in range(200):
                connection.call()
        time.sleep(REST_S)
        used = {role: roles.memory(pids) for role, pids in roles.processes(up).items()}
        waiting = {len(parameter): bytes_a_waiting_call(up, user, parameter) for parameter in (b"x", LARGE)}
    command = [sys.executable, "-m", "bench.footprint", "--held"]
    held = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {
        "fresh": {role: {"rss": memory.rss, "pss": memory.pss} for role, memory in fresh.items()},
        "rest": {role: {"rss": memory.rss, "pss": memory.pss} for role, memory in used.items()},
        "waiting": waiting,
        "held": held,
        "held_bytes": held["processes"] + held["kernel"],
    }


async def register_sleep(user: User, image: str) -> None:
    """Register a function that outlasts its time."""
    limits = {"timeout_s": TIMEOUT_S}
    function = {"name": "sleep", "image": image, "command": ["/bin/sleep", "60"], "limits": limits}
    async with user.up.client(user.token) as client:
        (await client.post("/v1/functions", json=function)).raise_for_status()


def bytes_a_waiting_call(up: Up, user: User, parameter: bytes) -> dict[str, float]:
    """What each role has in memory for one call that waits; all time out in the end."""
    connected, began = threading.Barrier(WAITING + 1), threading.Barrier(WAITING + 1)

    def work(_: int) -> int:
        with user.connection() as connection:
            connection.call(parameter)
            connected.wait()
            began.wait()
            return connection.ask("POST", "/v1/functions/sleep/activations", parameter)[0]

    with ThreadPoolExecutor(WAITING) as pool:
        calls = pool.map(work, range(WAITING))
        connected.wait()
        before = {role: roles.memory(pids).pss for role, pids in roles.processes(up).items()}
        began.wait()
        time.sleep(ADMITTED_S)
        after = {role: roles.memory(pids).pss for role, pids in roles.processes(up).items()}
        if (statuses := set(calls)) != {504}:
            raise RuntimeError(f"calls were to wait until they time out, and were answered {statuses}")
    return {role: (after[role] - before[role]) / WAITING for role in after}


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
    rows += ["", "| a waiting call adds to | with 1 byte | with 1 MiB |", "|---|---|---|"]
    small, large = found["waiting"].values()
    rows += [f"| {role} | {small[role] / 1024:.0f} KiB | {large[role] / 1024:.0f} KiB |" for role in small]
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
