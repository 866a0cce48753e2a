"""
Let a program connect to a few TCP ports and no other: what Landlock can do where no namespace can be made.

It takes no privileges, but a kernel from 6.7 on. It knows ports and no addresses, so another address at an allowed port
can be reached as well; and it says nothing of UDP. This file is also a script, which imports nothing of ours: it
restricts itself and becomes the program. Rows: F6.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls, on every architecture
VERSION_FLAG, FIRST_WITH_PORTS = 1, 4
NET_PORT = 2  # kind of a rule
BIND_TCP, CONNECT_TCP = 1, 2
PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


def knows_ports() -> bool:
    """Whether this kernel, and the profile this process is under, let us."""
    return bool(_libc.syscall(CREATE_RULESET, None, 0, VERSION_FLAG) >= FIRST_WITH_PORTS)


def only_ports(ports: Iterable[int], argv: list[str]) -> list[str]:
    """Say how to run a program that shall connect to these ports only."""
    return [sys.executable, "-I", "-S", __file__, ",".join(map(str, sorted(set(ports)))), *argv]


def restrict(ports: Iterable[int]) -> None:
    """
    Take all other ports from this process and what it becomes.

    Raises: OSError.
    """
    handled = struct.pack("=QQ", 0, BIND_TCP | CONNECT_TCP)
    ruleset = _checked(_libc.syscall(CREATE_RULESET, handled, len(handled), 0))
    for port in ports:
        _checked(_libc.syscall(ADD_RULE, ruleset, NET_PORT, struct.pack("=QQ", CONNECT_TCP, port), 0))
    _checked(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(_libc.syscall(RESTRICT_SELF, ruleset, 0))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


if __name__ == "__main__":
    restrict(map(int, sys.argv[1].split(",")))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - an argument list, no shell
