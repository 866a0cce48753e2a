"""mount(2) and its relatives, umount(2) and unshare(2), which Python does not have, and what is mounted now."""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from pathlib import Path

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE, MS_RELATIME = 32, 4096, 16384, 1 << 18, 1 << 21
MNT_DETACH = 2
CLONE_NEWNS = 0x20000
SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_MOUNT_SETATTR = 428, 429, 442  # on every architecture
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH, AT_EMPTY_PATH, AT_FDCWD = 1, 4, 0x1000, -100
MOUNT_ATTR_IDMAP = 0x100000
_MOUNT_ATTR = struct.Struct("=4Q")  # set, clear, propagation, user namespace

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.unshare.argtypes = [ctypes.c_int]


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/self/mountinfo."""

    point: Path
    kind: str
    options: frozenset[str]
    super_options: frozenset[str]


def mount(source: str, target: Path, kind: str | None, *, flags: int = 0, data: str = "") -> None:
    """
    Mount as mount(2) does.

    Raises: OSError, naming the target.
    """
    kind_bytes = None if kind is None else kind.encode()
    if _libc.mount(os.fsencode(source), os.fsencode(target), kind_bytes, flags, os.fsencode(data)):
        raise _error(target)


def unmount(target: Path, *, detach: bool = False) -> bool:
    """
    Unmount what is topmost on *target*; False if nothing is mounted there, or the target is not there.

    With *detach* also what is still in use: it vanishes from here now, and altogether when its last user ends.

    Raises: OSError when it is in use.
    """
    if not _libc.umount2(os.fsencode(target), MNT_DETACH if detach else 0):
        return True
    error = _error(target)
    if error.errno in (22, 2):  # EINVAL: not a mount point
        return False
    raise error


def unshare_mounts() -> None:
    """
    Give this thread, and those it starts, a mount namespace of their own from which nothing propagates.

    Raises: OSError without the privilege.
    """
    if _libc.unshare(CLONE_NEWNS):
        raise _error(Path("/"))
    make_private()


def make_private() -> None:
    """
    Stop mounts from propagating to and from other mount namespaces.

    Raises: OSError without the privilege.
    """
    mount("none", Path("/"), None, flags=MS_REC | MS_PRIVATE)


def mounts(mountinfo: str | None = None) -> list[Mount]:
    """List what is mounted in this namespace, in order; *mountinfo* stands in for the kernel's file."""
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8") if mountinfo is None else mountinfo
    return [_parse(line) for line in text.splitlines()]


def mount_overlay(target: Path, *, lower: Path, upper: Path, work: Path, flags: int) -> None:
    """
    Mount an overlay; its layers are named by descriptors, as the names show in the container's /proc/mounts.

    Raises: OSError.
    """
    layers = {"lowerdir": lower, "upperdir": upper, "workdir": work}
    descriptors: list[int] = []
    try:
        descriptors.extend(os.open(path, os.O_PATH | os.O_CLOEXEC) for path in layers.values())
        named = zip(layers, descriptors, strict=True)
        data = ",".join(f"{name}=/proc/self/fd/{descriptor}" for name, descriptor in named)
        mount("mayfly", target, "overlay", flags=flags, data=data)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def bind_shifted(source: Path, target: Path, *, user_namespace: int) -> None:
    """
    Show *source* at *target* as well, where each owner is the one that the namespace's maps have for it outside.

    Raises: OSError where the kernel (before 5.12) or the file system cannot do that.
    """
    tree = _call(SYS_OPEN_TREE, AT_FDCWD, source, OPEN_TREE_CLONE | os.O_CLOEXEC)
    try:
        shifted = _MOUNT_ATTR.pack(MOUNT_ATTR_IDMAP, 0, 0, user_namespace)
        _call(SYS_MOUNT_SETATTR, tree, "", AT_EMPTY_PATH, shifted, _MOUNT_ATTR.size)
        _call(SYS_MOVE_MOUNT, tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)


def _call(number: int, *arguments: int | str | bytes | Path) -> int:
    """
    Make a system call that the C library may have no function for.

    Raises: OSError, naming the paths.
    """
    words = [ctypes.c_long(each) if isinstance(each, int) else os.fsencode(each) for each in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise _error(Path(*(each for each in arguments if isinstance(each, Path))))
    return result


def _parse(line: str) -> Mount:
    before, after = line.split(" - ", 1)
    fields, behind = before.split(), after.split()
    point = fields[4].encode().decode("unicode_escape").encode("latin-1").decode("utf-8", "surrogateescape")
    return Mount(Path(point), behind[0], frozenset(fields[5].split(",")), frozenset(behind[-1].split(",")))


def _error(target: Path) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), str(target))
