"""
Trees of files that strangers made: measured, disarmed, watched while they grow, removed.

None of it recurses: an image may nest directories deeper than Python's own walks can follow.
"""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import TypeVar

from mayfly.domain.errors import ImageUnavailable

MAX_ENTRIES = 1_000_000
ENTRY_BYTES = 256  # what an inode takes, so that a million empty files are not nothing
WATCH_EVERY_S = 0.1
WATCH_SHARE = 5  # at most a fifth of a processor is spent on looking
CAPABILITY = "security.capability"
T = TypeVar("T")


def tree_bytes(root: Path) -> int:
    """
    Count what a tree takes on disk; a hard link counts once, and what vanishes meanwhile not at all.

    Raises: ImageUnavailable when it holds more files than any image may.
    """
    seen: set[int] = set()
    total = entries = 0
    for entry in _walk(root):
        entries += 1
        if entries > MAX_ENTRIES:
            raise ImageUnavailable(f"The image has more than {MAX_ENTRIES} files, the most that is allowed.")
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if status.st_ino in seen:
                continue
            seen.add(status.st_ino)
        total += status.st_blocks * 512 + ENTRY_BYTES
    return total


def disarm(root: Path) -> None:
    """
    Take from a tree what would have power on this machine: device nodes, and capabilities of files.

    Containers lose nothing by it: they have their own /dev, and no_new_privs ignores capabilities of files. Set-user-id
    bits stay, as the files belong to shifted users that exist nowhere else.
    """
    for entry in _walk(root):
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
            os.unlink(entry.path)  # noqa: PTH108 - many files
        elif stat.S_ISREG(mode) and CAPABILITY in os.listxattr(entry.path, follow_symlinks=False):
            os.removexattr(entry.path, CAPABILITY, follow_symlinks=False)


def settle(root: Path) -> int:
    """Disarm a tree, see that all of it is on the disk (a power cut later finds it whole), and say how large it is."""
    disarm(root)
    subprocess.run(["sync", "--file-system", "--", root], check=True)
    return tree_bytes(root)


def remove(root: Path) -> None:
    """Remove a tree, whatever is in it. Does nothing if there is none."""
    subprocess.run(["rm", "-rf", "--one-file-system", "--", root], check=True)


async def within(max_bytes: int, root: Path, work: Coroutine[None, None, T]) -> T:
    """
    Do *work* while what it writes to *root* stays under the cap; else stop it.

    Raises: ImageUnavailable.
    """
    working = asyncio.create_task(work, name="image-work")
    pause = WATCH_EVERY_S
    try:
        while not working.done():
            await asyncio.wait((working,), timeout=pause)
            began = time.monotonic()
            if await asyncio.to_thread(tree_bytes, root) > max_bytes:
                raise too_large(max_bytes)
            pause = max(WATCH_EVERY_S, WATCH_SHARE * (time.monotonic() - began))
        return await working
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


def too_large(max_bytes: int) -> ImageUnavailable:
    """Say that an image is over the cap."""
    return ImageUnavailable(
        f"The image is larger than {max_bytes >> 20} MiB unpacked, the most that is allowed here "
        "(the operator's MAYFLY_IMAGE_MAX_BYTES)."
    )


def _walk(root: Path) -> Iterator[os.DirEntry[str]]:
    """Every entry below, never through a link; what vanishes meanwhile is left out."""
    waiting = [str(root)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as directory:
                entries = list(directory)
        except OSError:
            continue
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
