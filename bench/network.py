"""
A network namespace for the bench and all that it starts, with a loopback and nothing else.

So the rules that functions with `network: egress` need, and the forwarding of packets, are switched on for the bench
only, and no rule of this machine's is in the way of what is measured.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

from mayfly.containers.host import CLONE_NEWNET

_libc = ctypes.CDLL(None, use_errno=True)


def enter_own_network() -> None:
    """
    Leave the machine's network, for good: call it before anything is started, from a process with one thread.

    Raises: OSError without root.
    """
    if _libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"unshare: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")
