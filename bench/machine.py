"""Where figures come from: the machine, and the versions of everything that takes part."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from mayfly import __version__
from mayfly.ops.up import bundled_nats_server


def machine() -> dict[str, Any]:
    """Describe this machine. Its load is what others did on it when the bench began."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "kernel": platform.release(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """The versions of what Mayfly and the floors consist of. Of dockerd `bench.daemon` says it."""
    return {
        "Mayfly": __version__,
        "Python": platform.python_version(),
        "nats-server": _version(str(bundled_nats_server()), "--version"),
        "crun": _version("crun", "--version"),
        "unshare": _version("unshare", "--version"),
    }


def _version(*command: str) -> str:
    """The first thing in the output that looks like a version."""
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+\.\d[\w.+~-]*", said)
    if found is None:
        raise RuntimeError(f"{command[0]} does not say its version: {said[:100]!r}")
    return found[0]


def _processor() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else platform.machine()
