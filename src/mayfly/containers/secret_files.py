"""
Secrets as files: a small tmpfs beside the container's root, which the runtime mounts read-only over /run/secrets.

The worker writes there, before the command starts, into a directory that it made itself; so no link of an image, nor
anything a function does, can lead a write elsewhere. It ends with the container. Rows: F4.
"""

from __future__ import annotations

import os
from pathlib import Path

from mayfly.containers import mounts
from mayfly.containers.ids import IdRange
from mayfly.domain.image import ProcessConfig
from mayfly.domain.secret import FILES_MAX_BYTES, SECRETS_MAX

PAGE_BYTES = 4096
SIZE_BYTES = FILES_MAX_BYTES + SECRETS_MAX * PAGE_BYTES  # each file takes whole pages
INODES = SECRETS_MAX + 2
FLAGS = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC


def make_room(directory: Path) -> None:
    """
    Make the tmpfs; a container's root can look into it.

    Raises: OSError.
    """
    directory.mkdir(mode=0o700)
    mounts.mount("mayfly", directory, "tmpfs", flags=FLAGS, data=f"mode=755,size={SIZE_BYTES},nr_inodes={INODES}")


def write(directory: Path, files: tuple[tuple[str, bytes], ...], process: ProcessConfig, ids: IdRange) -> None:
    """
    Write files that only the user of *process*, the image's, can read; who that is outside, *ids* say.

    Raises: OSError.
    """
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name, content in files:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(name, flags, 0o400, dir_fd=place), "wb") as file:
                file.write(content)
                os.fchown(file.fileno(), ids.host_id(process.uid), ids.host_id(process.gid))
    finally:
        os.close(place)
