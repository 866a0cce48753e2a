"""
Starting a child of `mayfly up`: it dies with `up`, and runs as an unprivileged user wherever the project lies.

An `up` that was killed has nobody left to see to its end. So the children with work in hand are killed with it: asked
to stop in order, they would wait for calls that nobody can finish any more, and bar the way of the next `up`.

The API server must not be root, but the code may well lie in a home directory that only root can enter. So, in a
mount namespace of the child's own, each directory that bars the way is covered by an empty one in which only what
the child needs is mounted: the rest of that home stays out of its reach.

Run as `python -m mayfly.ops.child [--uid N] [--show DIR]... -- COMMAND...`, always with the full path of the command.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
from pathlib import Path

CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MS_NOSUID, MS_NODEV = 0x2, 0x4
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38

_libc = ctypes.CDLL(None, use_errno=True)


def main(argv: list[str] | None = None) -> None:
    """Become the child."""
    parser = argparse.ArgumentParser(prog="mayfly.ops.child")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--orphaned", type=int, default=int(signal.SIGKILL), help="the signal when the parent ends")
    parser.add_argument("--uid", type=int)
    parser.add_argument("--show", type=Path, action="append", default=[])
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(argv)
    if options.uid is not None:
        show([path.resolve() for path in options.show])
        drop_to(options.uid)
    die_with(options.parent, options.orphaned)
    os.execv(options.command[0], options.command)  # noqa: S606 - an argument list, no shell


def show(paths: list[Path]) -> None:
    """
    Make *paths* reachable by everybody, in a mount namespace of this process's own.

    Raises: OSError.
    """
    _call("unshare", _libc.unshare(CLONE_NEWNS))
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    covers: dict[Path, list[Path]] = {}
    for path in dict.fromkeys(paths):
        bar = barrier(path)
        if bar is not None:
            covers.setdefault(bar, []).append(path)
    for bar, wanted in covers.items():
        _cover(bar, wanted)


def barrier(path: Path) -> Path | None:
    """Find the outermost directory above *path* that others may not enter; None if the way is clear."""
    return next((parent for parent in reversed(path.parents) if not parent.stat().st_mode & 0o001), None)


def _cover(bar: Path, wanted: list[Path]) -> None:
    """Put an empty directory over *bar*, and in it only *wanted*, where they were."""
    held = {path: os.open(path, os.O_PATH | os.O_DIRECTORY) for path in wanted}
    _mount("tmpfs", str(bar), "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=64k")
    for path, descriptor in sorted(held.items()):
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        _mount(f"/proc/self/fd/{descriptor}", str(path), None, MS_BIND | MS_REC)
        os.close(descriptor)


def drop_to(uid: int) -> None:
    """Become *uid*, its group and no others, for good."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _call("prctl", _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    os.environ["HOME"] = "/"


def die_with(parent: int, number: int) -> None:
    """Ask the kernel for signal *number* when the parent ends; end at once if that has happened already."""
    _call("prctl", _libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0))
    if os.getppid() != parent:
        sys.exit(1)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [text.encode() if text is not None else None for text in (source, target, kind)]
    result = _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), data.encode() if data else None)
    _call(f"mount {target}", result)


def _call(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
