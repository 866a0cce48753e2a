"""
What is in memory: an API server and a worker at rest, a call that waits or runs, a container that is held.

    sudo scripts/bench footprint [--json FILE]

A call that waits is in the queue; one that runs sleeps, and does not read its parameter: what a role has grown by,
from when each caller was connected and had been answered one such call, by the number of calls. A held container is one
that has been created and whose command has not been started. It is measured in a process of its own, as a worker would
have it: several are made, and each costs its processes' proportional set size, the kernel's memory that its cgroup is
charged for, and what the one who made it has grown by.
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
from bench.also import show
from bench.callers import TOGETHER_S, User, cat_pushed, register
from bench.containers import CALL, make_rootfs, spec
from mayfly.containers import cgroups
from mayfly.containers.choose import choose_runtime, group_name
from mayfly.containers.host import enter_namespaces, prepare_host
from tests.support.up import Up, running_up

HELD, REST_S = 20, 5.0
WAITING, RUNNING, TIMEOUT_S, ADMITTED_S = 100, 32, 15, 8
ROOM = {"max_activations": 2 * WAITING, "max_activations_per_user": 2 * WAITING}
PARAMETERS = (b"x", b"x" * (1 << 20))
RUNTIMES = ("crun", "native")
GOAL_REST, GOAL_HELD = 120 << 20, 5 << 20


def measure() -> dict[str, Any]:
    """Return bytes: of each role at rest, of one call by its parameter's size, and of one held container."""
    with cat_pushed() as (registry, image):
        with running_up(registry, slots=1, log_level="warning", **ROOM) as up:
            user = users_with_functions(up, image)
            fresh = at_rest(up)
            with user.connection() as connection:
                for _ in range(200):
                    connection.call()
            used = at_rest(up)
            waiting = {str(len(each)): bytes_a_call(up, user, each, at_once=WAITING) for each in PARAMETERS}
        with running_up(registry, slots=RUNNING, log_level="warning", **ROOM) as up:
            user = users_with_functions(up, image)
            running = {str(len(each)): bytes_a_call(up, user, each, at_once=RUNNING) for each in PARAMETERS}
    return {
        "fresh": fresh,
        "rest": used,
        "waiting": waiting,
        "running": running,
        "held": {runtime: measure_apart(runtime) for runtime in RUNTIMES},
    }


def users_with_functions(up: Up, image: str) -> User:
    """Register a user, with a function that outlasts its time beside the usual one."""
    user = asyncio.run(register(up, image))
    asyncio.run(register_sleep(user, image))
    return user


def at_rest(up: Up) -> dict[str, dict[str, int]]:
    """Wait a little; then look what each role has in memory."""
    time.sleep(REST_S)
    found = {role: roles.memory(pids) for role, pids in roles.processes(up).items()}
    return {role: {"rss": memory.rss, "pss": memory.pss} for role, memory in found.items()}


def measure_apart(runtime: str) -> dict[str, Any]:
    """Measure containers that a runtime holds, in a process of its own."""
    command = [sys.executable, "-m", "bench.footprint", "--held", runtime]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


async def register_sleep(user: User, image: str) -> None:
    """Register a function that outlasts its time."""
    limits = {"timeout_s": TIMEOUT_S}
    function = {"name": "sleep", "image": image, "command": ["/bin/sleep", "60"], "limits": limits}
    async with user.up.client(user.token) as client:
        (await client.post("/v1/functions", json=function)).raise_for_status()


def bytes_a_call(up: Up, user: User, parameter: bytes, *, at_once: int) -> dict[str, float]:
    """What each role has in memory for one of so many calls that wait, or run; all time out in the end."""
    connected, began = (threading.Barrier(at_once + 1, timeout=TOGETHER_S) for _ in range(2))

    def work(_: int) -> int:
        with user.connection() as connection:
            connection.call(parameter)
            connected.wait()
            began.wait()
            return connection.ask("POST", "/v1/functions/sleep/activations", parameter)[0]

    with ThreadPoolExecutor(at_once) as pool:
        calls = pool.map(work, range(at_once))
        connected.wait()
        before = {role: roles.memory(pids).pss for role, pids in roles.processes(up).items()}
        began.wait()
        time.sleep(ADMITTED_S)
        after = {role: roles.memory(pids).pss for role, pids in roles.processes(up).items()}
        if (statuses := set(calls)) != {504}:
            raise RuntimeError(f"calls were to last until they time out, and were answered {statuses}")
    return {role: (after[role] - before[role]) / at_once for role in after}


async def measure_held(name: str, place: Path) -> dict[str, Any]:
    """Hold some containers, look, and run them, so that it is certain that they were such."""
    runtime = choose_runtime(name, state_dir=place)
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
    calls = [each for kind in ("waiting", "running") for each in found[kind].values()]
    return "\n".join(
        [
            *rows,
            "",
            "| one more adds | waiting, 1 byte | waiting, 1 MiB | running, 1 byte | running, 1 MiB |",
            "|---|---|---|---|---|",
            *(_row(role, [each[role] for each in calls]) for role in found["rest"]),
            "",
            f"| held (goal {GOAL_HELD >> 10} KiB) | in all | its processes (PSS) | the kernel | beside: the worker |",
            "|---|---|---|---|---|",
            *(_row(name, _parts(held)) for name, held in found["held"].items()),
        ]
    )


def _parts(held: dict[str, Any]) -> list[float]:
    return [held["processes"] + held["kernel"], held["processes"], held["kernel"], held["worker"]]


def _row(name: str, parts: list[float]) -> str:
    return f"| {name} | " + " | ".join(f"{part / 1024:.0f} KiB" for part in parts) + " |"


def hold(name: str) -> None:
    """Measure held containers in namespaces of our own, and print that as JSON."""
    enter_namespaces()
    prepare_host()
    folder = Path(tempfile.mkdtemp(prefix="mayfly-footprint-"))
    folder.chmod(0o711)
    try:
        print(json.dumps(uvloop.run(measure_held(name, folder))))
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog="scripts/bench footprint")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--held", metavar="RUNTIME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.held:
        hold(options.held)
        return
    found = measure()
    show(found, markdown(found), write=options.json)


if __name__ == "__main__":
    main()
