"""Where a container's own file systems are mounted: an image must leave those places to them. Rows: F6."""

from __future__ import annotations

from pathlib import Path

from mayfly.domain.errors import ImageUnavailable
from mayfly.domain.sandbox import MOUNTED_DIRECTORIES, MOUNTED_FILES
from mayfly.domain.secret import DIRECTORY


def check_mount_points(rootfs: Path) -> None:
    """
    See that what is mounted on is a directory or an ordinary file, or not there.

    A runtime refuses to mount on a link, rightly; but then each call would fail, and as if by the platform's fault.

    Raises: ImageUnavailable, naming the place.
    """
    for name in MOUNTED_DIRECTORIES:
        path = rootfs / name.lstrip("/")
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise ImageUnavailable(f"The image has no directory at {name} but something else; Mayfly mounts there.")
    for name in MOUNTED_FILES:
        path = rootfs / name.lstrip("/")
        if path.parent.is_symlink():
            continue  # the runtime follows it within the image; here it would lead out of it, to what this machine has
        if path.parent.exists() and not path.parent.is_dir():
            raise ImageUnavailable(f"The image has no directory at {Path(name).parent}, where Mayfly mounts {name}.")
        if path.is_dir() and not path.is_symlink():
            raise ImageUnavailable(f"The image has a directory at {name}; Mayfly mounts a file there.")


def check_secrets_place(rootfs: Path) -> None:
    """
    See the same of the directory for secrets and of that which it is in. Only a function with secrets that are files
    has it, so other functions may have an image that has something else there.

    Raises: ImageUnavailable, naming the place.
    """
    for place in (Path(DIRECTORY).parent, Path(DIRECTORY)):
        path = rootfs / place.relative_to("/")
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise ImageUnavailable(
                f"The image has no directory at {place} but something else; Mayfly mounts the function's secrets at "
                f"{DIRECTORY}. Set them again with `as=environment`, or use an image that has a directory there, or "
                "nothing."
            )
