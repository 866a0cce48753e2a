"""Where a worker's containers have their files: a tmpfs of its own, which vanishes with its mount namespace."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from mayfly.containers import mounts
from mayfly.domain.errors import RuntimeFailed

SIZE_BYTES = 64 << 20  # some kilobytes a container; what functions write is on tmpfs of their own
# Searchable by all: root inside a container is nobody in particular outside. Listed by us only.
MODE = 0o711


@dataclass(frozen=True, slots=True)
class Place:
    """A directory with a fresh tmpfs on it, locked by this worker."""

    directory: Path
    lock: int

    @classmethod
    def open(cls, directory: Path) -> Place:
        """
        Lock and mount.

        Raises: RuntimeFailed when another worker has it, or it cannot be mounted.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=MODE)
            lock = os.open(directory.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RuntimeFailed(f"No place for containers can be made: {error}.") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            flags = mounts.MS_NOSUID | mounts.MS_NODEV
            mounts.mount("mayfly", directory, "tmpfs", flags=flags, data=f"mode={MODE:o},size={SIZE_BYTES}")
            (directory / "runtime").mkdir(mode=0o700)
        except BlockingIOError:
            os.close(lock)
            raise RuntimeFailed(
                f"Another worker runs with its state in {directory.parent}: give this one its own."
            ) from None
        except OSError as error:
            os.close(lock)
            raise RuntimeFailed(f"No place for containers can be made: {error}. A worker needs root.") from error
        return cls(directory, lock)

    def close(self) -> None:
        """Unmount and unlock. Idempotent as far as unmounting goes."""
        if mounts.unmount(self.directory, detach=True):
            self.directory.rmdir()
        os.close(self.lock)
