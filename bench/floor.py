"""
The floors: what a container costs that nobody queues, limits, records or answers.

    crun       bare `crun run` of the same root file system, in a user namespace, without a seccomp filter, limits or a
               cgroup of its own: the floor for whoever uses a container runtime
    unshare    `unshare` (util-linux) with user, pid, mount, network, ipc and uts namespaces, and busybox's `cat`: no
               root file system of its own. The floor for whoever uses namespaces

Run as a program it enters namespaces of its own, as a worker does, and then measures what it is asked for on its stdin:
a JSON object a line in, one a line out. So it can take turns with what is measured elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

from bench import spawn
from bench.containers import make_bundle, make_rootfs
from bench.figures import Block
from mayfly.containers.host import enter_namespaces, prepare_host
from mayfly.domain.ids import new_ulid

NAMES = ("crun", "unshare")
NAMESPACES = ("--user", "--map-root-user", "--pid", "--fork", "--mount", "--net", "--ipc", "--uts")
LINE_MAX_BYTES = 16 << 20  # a block's times, one a call


class Floor:
    """The program, as the bench sees it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """*process* is the program."""
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def block(self, name: str, at_once: int, seconds: float) -> Block:
        """
        Let so many run at once, for so long.

        Raises: RuntimeError when the program has ended; what it says about that went to stderr.
        """
        assert self._process.stdin
        assert self._process.stdout
        asked = {"name": name, "at_once": at_once, "seconds": seconds}
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"bench.floor has ended with {await self._process.wait()} when asked for {name}.")
        return Block(**json.loads(line))


@asynccontextmanager
async def running_floor() -> AsyncIterator[Floor]:
    """Start the program; it ends with its stdin."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.floor", stdin=pipe, stdout=pipe, limit=LINE_MAX_BYTES
    )
    try:
        yield Floor(process)
    finally:
        assert process.stdin
        process.stdin.close()
        await process.wait()


def commands(place: Path) -> dict[str, Callable[[], tuple[str, ...]]]:
    """What each floor runs; all that it needs is made in *place*."""
    bundle, state = make_bundle(place / "bundle", make_rootfs(place / "rootfs")), place / "state"
    crun, unshare = _program("crun"), _program("unshare")
    alone = (crun, f"--root={state}", "--cgroup-manager=disabled", "run", f"--bundle={bundle}")
    return {
        "crun": lambda: (*alone, new_ulid()),
        "unshare": lambda: (unshare, *NAMESPACES, "/bin/busybox", "cat"),
    }


def answer(asked: Iterable[str], place: Path) -> None:
    """Measure what each line asks for."""
    known = commands(place)
    for line in asked:
        wanted = json.loads(line)
        found = spawn.block(known[wanted["name"]], wanted["at_once"], wanted["seconds"])
        print(json.dumps(asdict(found)), flush=True)


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is not installed: scripts/setup")
    return found


if __name__ == "__main__":
    enter_namespaces()
    prepare_host()
    folder = Path(tempfile.mkdtemp(prefix="mayfly-floor-"))
    folder.chmod(0o711)
    try:
        answer(sys.stdin, folder)
    finally:
        shutil.rmtree(folder)
