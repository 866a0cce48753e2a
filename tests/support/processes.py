"""Looks at processes that are not ours, and ends those that are, whoever started them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
ENDED_WITHIN_S = 10.0


def is_alive(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def name_of(pid: int) -> str:
    """What a process calls itself; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    """All processes below *pid*."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid="], check=True, capture_output=True, text=True).stdout
    children: dict[int, list[int]] = {}
    for line in listing.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    stack = [pid]
    while stack:
        below = children.get(stack.pop(), [])
        found += below
        stack += below
    return found


def adopt_orphans() -> None:
    """From now on be the parent of whatever loses its own among our descendants, instead of process 1."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def end_all_below(pid: int) -> None:
    """Kill all processes below *pid*, and those that they start meanwhile."""
    until = time.monotonic() + ENDED_WITHIN_S
    while (living := [each for each in descendants(pid) if is_alive(each)]) and time.monotonic() < until:
        for each in living:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.kill(each, signal.SIGKILL)
