"""
Putting the gateway's files into force: checked first, whole or not at all, and so that APISIX notices.

APISIX looks at the time of change of `apisix.yaml` once a second, in whole seconds, and takes the file if it ends in
`#END`. Hence: a file that says the same is left alone; a new one gets a time of another second than the old one; and it
comes by renaming, or, where that cannot be because the file itself is mounted, is emptied before it is written, so that
what APISIX might read meanwhile has no end. No content of a file is ever in an error or a log. Rows: A1, D3, D7.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mayfly.ops.folder import read_followed, refuse_foreign_link
from mayfly.ops.gateway.check import problems
from mayfly.ops.gateway.render import CONFIG, ROUTES, Rendered
from mayfly.settings import GatewaySettings, SettingsError

SECRET_MODE = 0o600
PUBLIC_MODE = 0o644


class FilesRefused(SettingsError):
    """The files have mistakes: nothing was written, and what was in force before still is."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Time, so that tests need not wait."""

    now: Callable[[], float] = time.time
    wait: Callable[[float], None] = time.sleep


def read_files(directory: Path) -> Rendered:
    """
    Read both files of a directory.

    Raises: SettingsError, naming the file.
    """
    return Rendered(_read(directory / CONFIG), _read(directory / ROUTES))


def install(
    files: Rendered,
    directory: Path,
    *,
    settings: GatewaySettings | None = None,
    template: bool = False,
    clock: Clock | None = None,
) -> list[str]:
    """
    Put *files* into *directory*, and return what was done, one sentence each.

    They are compared with *settings*, the defaults if none are given. A *template* has placeholders for secrets,
    and may be read by everybody. At most one write a second of each file: it waits if need be.

    Raises: FilesRefused, with every mistake; then nothing was written. OSError, when a file cannot be; what was not
    written is as it was.
    """
    if found := problems(files.config, files.routes, settings=settings, template=template):
        listed = "\n".join(f"  {problem}" for problem in found)
        raise FilesRefused(f"nothing was written, since the gateway's files have mistakes:\n{listed}")
    directory.mkdir(mode=0o755 if template else 0o700, parents=True, exist_ok=True)
    mode = PUBLIC_MODE if template else SECRET_MODE
    done = []
    with _alone(directory):
        for name in (ROUTES, CONFIG):
            refuse_foreign_link(directory / name)
        for name, text, remark in (
            (ROUTES, files.routes, ""),
            (CONFIG, files.config, ": read when the gateway starts"),
        ):
            if put(directory / name, text.encode(), mode=mode, clock=clock or Clock()):
                done.append(f"wrote {directory / name}{remark}")
    return done


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep two installations from writing at once; the second waits."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def put(path: Path, content: bytes, *, mode: int = SECRET_MODE, clock: Clock | None = None) -> bool:
    """
    Give a file this content; False if it has it already. Links are followed, what they lead to is replaced; but not
    one that somebody else than root or we made: the gateway owns its directory, and could have root write anywhere.

    As root, the file belongs to whom it belonged to, or a new one to the owner of its directory.

    Raises: SecretsUnusable for such a link; OSError.
    """
    clock = clock or Clock()
    refuse_foreign_link(path)
    path = path.resolve()
    old = path.stat() if path.exists() else None
    if old is not None and path.read_bytes() == content:
        return False
    if old is not None:
        clock.wait(min(1.0, max(0.0, math.floor(old.st_mtime) + 1 - clock.now())))
    stamp = max(clock.now(), math.floor(old.st_mtime) + 1 if old else 0)
    owner = old or path.parent.stat()
    partial = path.with_name(f".{path.name}.new")
    partial.unlink(missing_ok=True)
    try:
        _write(partial, content, mode=mode, owner=owner, stamp=stamp)
        partial.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)
        if old is None or error.errno not in {errno.EBUSY, errno.EROFS, errno.EACCES, errno.EXDEV}:
            raise
        _write_over(path, content, stamp=stamp)
    finally:
        partial.unlink(missing_ok=True)
    return True


def _write(path: Path, content: bytes, *, mode: int, owner: os.stat_result, stamp: float) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(descriptor, mode)
        os.utime(descriptor, (stamp, stamp))
        if os.geteuid() == 0:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.fsync(descriptor)


def _write_over(path: Path, content: bytes, *, stamp: float) -> None:
    """A file that is a mount of its own, or whose directory is read-only, can only be written in place."""
    with path.open("r+b") as file:
        file.truncate(0)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        os.utime(file.fileno(), (stamp, stamp))


def _read(path: Path) -> str:
    try:
        return read_followed(path).decode()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8 at byte {error.start}.") from None
