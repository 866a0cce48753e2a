"""Files that one process of this machine has to itself, as long as it lives: for what several workers do in turn."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

ASKED_AGAIN_S = 0.05  # what is waited for takes seconds, or moments


@asynccontextmanager
async def alone(path: Path) -> AsyncIterator[None]:
    """
    Wait until nobody else has the file *path*, and have it. It is there only while somebody has it, or had it when it
    died: the kernel lets go of what a dead process had.

    Raises: OSError.
    """
    while (descriptor := _try(path)) is None:  # noqa: ASYNC110 - no other process says when it is done
        await asyncio.sleep(ASKED_AGAIN_S)
    try:
        yield
    finally:
        os.unlink(path)  # noqa: PTH108 - does not block
        os.close(descriptor)


@contextmanager
def held(directory: Path, *, how: int) -> Iterator[None]:
    """
    Have a directory's lock for a few steps that wait for nothing; *how* is flock's LOCK_SH or LOCK_EX.

    Raises: OSError.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def lock_directory(directory: Path, *, how: int) -> int | None:
    """
    Lock a directory for as long as the descriptor that this returns is open; None if somebody's lock stands against
    it, or there is no directory, or it was replaced in this moment.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if _has_locked(descriptor, directory, how):
            return descriptor
        os.close(descriptor)
    return None


def _try(path: Path) -> int | None:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    if _has_locked(descriptor, path, fcntl.LOCK_EX):
        return descriptor
    os.close(descriptor)
    return None


def _has_locked(descriptor: int, path: Path, how: int) -> bool:
    """Lock it; then see that it is still what *path* leads to, as who had it before may have removed it."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
