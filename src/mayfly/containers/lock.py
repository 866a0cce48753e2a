"""One worker in a state directory: the lock by which the second one is refused."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from mayfly.domain.errors import RuntimeFailed


def take_lock(path: Path) -> int:
    """
    Lock a file, for as long as the descriptor that this returns is open.

    Raises: RuntimeFailed when another worker has it, or the directory cannot be used.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RuntimeFailed(f"The state directory {path.parent} cannot be used: {error}.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise RuntimeFailed(f"The state directory {path.parent} cannot be locked: {error}.") from error
        raise RuntimeFailed(f"Another worker runs with its state in {path.parent}: give this one its own.") from None
    return lock
