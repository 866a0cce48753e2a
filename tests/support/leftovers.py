"""Looks at what containers of an installation on this machine have left: processes, mounts, cgroups, directories."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from mayfly.containers.choose import group_name
from mayfly.domain.sandbox import FIRST_HOST_ID
from tests.support.files import directories_below
from tests.support.processes import descendants, is_alive
from tests.support.up import Up


async def seconds_until_nothing_is_left(up: Up) -> float:
    """From now on. What stays for good fails."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(20):
        while leftovers(up):
            await asyncio.sleep(0.05)
    return loop.time() - began


def leftovers(up: Up) -> dict[str, list[str]]:
    """List what a container could leave on this machine: processes, mounts, cgroups and directories."""
    groups = {group_name(state) for state in state_directories(up)}  # others may be busy on this machine
    found = {
        "processes": function_processes(up),
        "mounts": function_mounts(up),
        "cgroups": [str(path) for path in directories_below(Path("/sys/fs/cgroup")) if groups & set(path.parent.parts)],
        "directories": [
            str(path)
            for pid in worker_pids(up)
            for state in state_directories(up)
            for path in directories_below(Path(f"/proc/{pid}/root/{state}/containers"))
            if _is_a_container(path)
        ],
    }
    return {kind: names for kind, names in found.items() if names}


def _is_a_container(path: Path) -> bool:
    """Containers have ids of their own form."""
    return bool(re.fullmatch(r"[a-z0-9]{24}", path.name))


def state_directories(up: Up) -> list[Path]:
    """Where a worker has its state, and each of several."""
    return [up.data_dir / "run", *(up.data_dir / "run").glob("[0-9]*")]


def worker_pids(up: Up) -> list[int]:
    """The worker's processes, from `up` downwards."""
    return [pid for pid in descendants(up.process.pid if up.process else 0) if b"worker" in cmdline(pid)]


def function_processes(up: Up) -> list[str]:
    """Processes below the worker that are no part of the worker itself."""
    return [
        f"{pid} {cmdline(pid)!r}"
        for pid in descendants(up.process.pid if up.process else 0)
        if is_alive(pid) and (owner(pid) or 0) >= FIRST_HOST_ID
    ]


def function_mounts(up: Up) -> list[str]:
    """Overlay mounts in the worker's mount namespace."""
    mounts: set[str] = set()
    for pid in worker_pids(up):
        try:
            lines = Path(f"/proc/{pid}/mounts").read_text().splitlines()
        except OSError:
            continue
        mounts |= {line for line in lines if line.split()[2] == "overlay"}
    return sorted(mounts)


def cmdline(pid: int) -> bytes:
    """A process's command line; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def owner(pid: int) -> int | None:
    """A process's user; None if it is gone."""
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None
