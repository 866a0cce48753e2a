"""
Which user ids are a worker's to give to containers: blocks of ranges, each of one worker of this machine at a time.

A block is a file in a directory that the workers have in common, locked by the one that has it. The kernel lets go of
what a dead one had. Workers that have no directory in common begin at random places, which seldom are the same.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections import deque
from contextlib import suppress
from pathlib import Path

BLOCK = 64  # ranges; more than the slots of most workers


class Blocks:
    """The blocks of one worker."""

    def __init__(self, directory: Path, firsts: range) -> None:
        """Have none yet of those that *firsts* is divided into."""
        self._directory = directory
        self._firsts = firsts
        count = -(-len(firsts) // BLOCK)
        begin = secrets.randbelow(count)
        self._untried = deque((begin + number) % count for number in range(count))
        self._held: list[tuple[Path, int]] = []

    def take(self) -> range:
        """
        Have one more; return where its ranges begin.

        Raises: OSError, also when there is none left.
        """
        while self._untried:
            number = self._untried.popleft()
            file = self._directory / str(number)
            descriptor = self._lock(file)
            if descriptor is not None:
                self._held.append((file, descriptor))
                return self._firsts[number * BLOCK : (number + 1) * BLOCK]
        raise OSError(
            "There are no user ids left: all ranges are other workers', or taken by containers that could not be "
            "removed."
        )

    def close(self) -> None:
        """Let others have them. Idempotent."""
        while self._held:
            file, descriptor = self._held.pop()
            file.unlink(missing_ok=True)
            os.close(descriptor)
        with suppress(OSError):  # others have some, or there is no directory
            self._directory.rmdir()

    def _lock(self, file: Path) -> int | None:
        """Lock a block's file; None when another worker has it, or has just given it back."""
        descriptor = self._open(file)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def _open(self, file: Path) -> int:
        while True:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            with suppress(FileNotFoundError):  # the last one that had some has just removed the directory
                return os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
