"""What this machine must have for confined calls: looked at before the first of them, and said in one sentence."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from mayfly.containers.confined.users import BLOCKS, CALLS, FIRST
from mayfly.domain.errors import RuntimeFailed

LANDLOCK_MIN = 6
"""The first that keeps abstract sockets apart, which have no owner; Linux 6.12."""

CAPABILITIES = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "SYS_CHROOT": 18,
    "MKNOD": 27,
}
"""All of them are Docker's default; CRI-O gives less."""

_CREATE_RULESET, _VERSION = 444, 1

_libc = ctypes.CDLL(None, use_errno=True)


def landlock_version() -> int:
    """The version of Landlock's interface; 0 where there is none, or it is not allowed."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, 0, _VERSION)))


def check() -> None:
    """
    See that confined calls can be had here.

    Raises: RuntimeFailed with the remedy.
    """
    if os.geteuid() != 0:
        raise RuntimeFailed(
            "The confined runtime gives each call a user of its own, which needs root: let the worker run as root in "
            "its container (runAsUser: 0, no further privileges)."
        )
    if (version := landlock_version()) < LANDLOCK_MIN:
        raise RuntimeFailed(
            f"The confined runtime needs Landlock's version {LANDLOCK_MIN}, and finds {version or 'none'}: a kernel "
            "from 6.12 on, with landlock in its `lsm=` list, and a seccomp profile that allows landlock_create_ruleset."
        )
    if missing := _missing_capabilities(_status("CapEff")):
        raise RuntimeFailed(
            f"The confined runtime needs {', '.join(f'CAP_{name}' for name in missing)}, which Docker gives by "
            "default: add what your engine or pod leaves out."
        )
    _require_users(Path("/proc/self/uid_map").read_text(encoding="ascii"))


def _missing_capabilities(effective: str) -> list[str]:
    return [name for name, bit in CAPABILITIES.items() if not int(effective, 16) >> bit & 1]


def _require_users(uid_map: str) -> None:
    last = FIRST + BLOCKS * 2 * CALLS - 1
    ranges = [tuple(map(int, line.split())) for line in uid_map.splitlines()]
    if not any(first <= FIRST and last < first + count for first, _, count in ranges):
        raise RuntimeFailed(
            f"The confined runtime gives calls users {FIRST} to {last}, and this container is in a user namespace that "
            "does not have them: run it without one (hostUsers: true)."
        )


def _status(name: str) -> str:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))
