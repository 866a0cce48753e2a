"""
What a confined call finds in its image's /dev: five device nodes, and a directory of its own, all that it can write to.

Nothing can be mounted over an image, so this is made in the unpacked image itself. /dev is the place for it: an image
must leave that to whoever runs it, and where another driver runs it, it mounts its own there. A directory belongs to
its call's user and to nobody else, and nobody but root can list them. It lies in one of root's, which lets in that user
alone: so whatever a function does to the modes of its own, no other call gets there, not even to a socket, which
Landlock does not look at.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from mayfly.containers.confined.users import User
from mayfly.domain.errors import RuntimeFailed

DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9)}
ROOMS, HOME = "mayfly", "home"

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def furnish(rootfs: Path) -> None:
    """
    See that an image's /dev has what every call needs. Can be done again.

    Raises: RuntimeFailed with the remedy; OSError.
    """
    with _directory(rootfs, "dev") as dev:
        for name, numbers in DEVICES.items():
            _make_device(dev, name, os.makedev(*numbers))
        try:
            os.close(os.open("null", os.O_RDWR | os.O_CLOEXEC, dir_fd=dev))
        except PermissionError:
            raise RuntimeFailed(
                f"No device works below {rootfs}, whose file system is mounted nodev, and functions need /dev/null: "
                "set MAYFLY_IMAGE_DIR to a place where they do."
            ) from None
        with _directory(Path("dev"), ROOMS, within=dev, mode=0o711) as rooms:
            if os.fstat(rooms).st_uid != 0:
                raise RuntimeFailed(f"The image has its own files at /dev/{ROOMS}, where confined calls have theirs.")


def inside(container_id: str) -> Path:
    """Where a call finds its directory."""
    return Path("/dev") / ROOMS / container_id / HOME


def place(rootfs: Path, container_id: str) -> Path:
    """Where the room around it is outside."""
    return rootfs.resolve() / "dev" / ROOMS / container_id


def make(room: Path, user: User) -> None:
    """
    Make a room that lets in a call's user alone, and its directory in it, empty.

    Raises: OSError.
    """
    room.mkdir(mode=0o700)
    os.chown(room, 0, user.uid)
    room.chmod(0o710)
    (room / HOME).mkdir(mode=0o700)
    os.chown(room / HOME, user.uid, user.uid)


def user_of(room: Path) -> int:
    """Whom a room lets in; 0 when it had not come so far, FileNotFoundError when it is not there."""
    return room.stat().st_gid


def is_cleared(room: Path) -> bool:
    """Remove a room that nothing was left in, or was removed before; False if that takes more."""
    try:
        with contextlib.suppress(FileNotFoundError):
            (room / HOME).rmdir()
        room.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def clear(room: Path) -> None:
    """
    Remove a room with whatever a function left in it, and without following any link. It may take its time.

    Raises: OSError, subprocess.CalledProcessError when something is left.
    """
    # Python's own walk is recursive, and a function may nest directories deeper than that can follow.
    subprocess.run([shutil.which("rm") or "/bin/rm", "-rf", "--one-file-system", "--", room], check=True)


@contextlib.contextmanager
def _directory(above: Path, name: str, *, within: int | None = None, mode: int = 0o755) -> Iterator[int]:
    """A directory, made if it is not there, and never reached by a link of the image."""
    outer = os.open(above, _OPEN) if within is None else within
    try:
        try:
            os.mkdir(name, mode, dir_fd=outer)
        except FileExistsError:
            pass
        else:
            os.chmod(name, mode, dir_fd=outer)
        inner = os.open(name, _OPEN, dir_fd=outer)
        try:
            yield inner
        finally:
            os.close(inner)
    finally:
        if within is None:
            os.close(outer)


def _make_device(dev: int, name: str, device: int) -> None:
    try:
        found = os.stat(name, dir_fd=dev, follow_symlinks=False)
    except FileNotFoundError:
        pass
    else:
        if stat.S_ISCHR(found.st_mode) and (found.st_rdev, found.st_uid) == (device, 0):
            return
        os.unlink(name, dir_fd=dev)
    try:
        os.mknod(name, stat.S_IFCHR | 0o666, device, dir_fd=dev)
    except PermissionError:
        raise RuntimeFailed(
            "No device node can be made, and functions need /dev/null: give the worker CAP_MKNOD, which Docker does by "
            "default, and CRI-O does not."
        ) from None
    os.chmod(name, 0o666, dir_fd=dev)  # noqa: S103 - everybody may use them, whatever the umask
