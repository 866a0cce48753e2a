"""
A directory that belongs to a role, in which root writes.

The role may have put anything into it: a link to another role's key, which root could read and would hand on; a link
to a file whose mode root would change; a pipe that nobody writes to. So only plain files of a bounded size are read, by
names that are not followed, and modes and owners are set on what was opened. Rows: D7.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from mayfly.ops.certificates import write_secret
from mayfly.settings import SettingsError

FILE_MAX_BYTES = 256 * 1024  # a chain of certificates has some 10 000


class SecretsUnusable(SettingsError):
    """What lies in the secrets directory cannot be used, and only a person can say what was meant."""


class Folder:
    """One directory of one owner: writes what differs, and notes it."""

    def __init__(self, path: Path, owner: int, done: list[str], *, public: bool = False) -> None:
        """Make it if it is not there; *public* files may be read by everybody."""
        self.path = path
        self._owner = owner if os.geteuid() == 0 else None
        self._mode = 0o444 if public else 0o400
        self._done = done
        if path.is_symlink():
            raise SecretsUnusable(f"{path} is a symbolic link: secrets are written into real directories only.")
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._set(path, 0o755 if public else 0o700, os.O_DIRECTORY)

    def folder(self, name: str) -> Folder:
        """Return a directory in it, of the same owner."""
        return Folder(self.path / name, os.geteuid() if self._owner is None else self._owner, self._done)

    def read(self, name: str) -> bytes | None:
        """
        Read a file; None if it is not there.

        Raises: SecretsUnusable when it is a link, no plain file, or too large.
        """
        return read_plain(self.path / name)

    def put(self, name: str, content: bytes, why: str = "") -> bytes:
        """See to it that a file has this content, owner and mode."""
        path = self.path / name
        before = self.read(name)
        if before == content:
            self._set(path, self._mode)
            return content
        verb = "made" if before is None else "changed"
        write_secret(path, content, mode=self._mode, owner=self._owner)
        self._done.append(f"{verb} {path}{f': the old one {why}' if why else ''}")
        return content

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self.path / name).unlink()
        self._done.append(f"removed {self.path / name}")

    def names(self, pattern: str) -> list[str]:
        """List the files whose names match, sorted."""
        return sorted(path.name for path in self.path.glob(pattern) if not path.name.startswith("."))

    def _set(self, path: Path, mode: int, kind: int = 0) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | kind)
        try:
            found = os.fstat(descriptor)
            if stat.S_IMODE(found.st_mode) != mode:
                os.fchmod(descriptor, mode)
            if self._owner is not None and (found.st_uid, found.st_gid) != (self._owner, self._owner):
                os.fchown(descriptor, self._owner, self._owner)
        finally:
            os.close(descriptor)


def read_plain(path: Path) -> bytes | None:
    """
    Read a plain file of at most `FILE_MAX_BYTES`; None if it is not there.

    Raises: SecretsUnusable when it is something else; OSError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:  # a link; a socket
            raise _not_plain(path) from None
        raise
    return _read(descriptor, path)


def read_followed(path: Path) -> bytes:
    """
    Read a plain file of at most `FILE_MAX_BYTES`, through links that root or we have made, and nobody else's.

    Raises: SecretsUnusable when it is something else; OSError.
    """
    refuse_foreign_link(path)
    return _read(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), path)


def refuse_foreign_link(path: Path) -> None:
    """
    Refuse to follow a link that the owner of a directory put into it, for whoever works there as root.

    Raises: SecretsUnusable.
    """
    if path.is_symlink() and path.lstat().st_uid not in {0, os.geteuid()}:
        raise SecretsUnusable(f"{path} is a symbolic link that another user made, so it is not followed. Remove it.")


def _read(descriptor: int, path: Path) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _not_plain(path)
        content = file.read(FILE_MAX_BYTES + 1)
    if len(content) > FILE_MAX_BYTES:
        raise SecretsUnusable(f"{path} has more than {FILE_MAX_BYTES} bytes: it is not what it should be. Remove it.")
    return content


def _not_plain(path: Path) -> SecretsUnusable:
    return SecretsUnusable(f"{path} is a symbolic link or no plain file: secrets are plain files. Remove it.")
