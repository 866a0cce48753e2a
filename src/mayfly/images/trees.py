"""
The unpacked images in one directory, which the workers of a machine may share.

    <hex>/rootfs        the unpacked image, ownership shifted
    <hex>/image.json    its configuration and size
    <hex>/owners/<id>   this user has pulled it from the registry named in a registration of their own

Guarantees, whoever else uses the directory:
- a tree appears whole, by a rename, and leaves by one;
- one in use is never removed: who uses it has its directory locked, and so has who removes it, alone. What a dead
  process had locked the kernel lets go of;
- what another process has brought in, given to somebody or removed is seen when it is asked for. Rows: F4, F6.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from mayfly.domain.errors import ImageUnavailable
from mayfly.domain.ids import Digest, new_id
from mayfly.domain.image import ProcessConfig
from mayfly.images.locks import lock_directory

log = structlog.get_logger()

EVERYBODY = "everybody"  # as an owner: the operator's own images
USE_NOTED_EVERY_S = 60.0  # for other processes, in the directory's time; this one knows it to the moment


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImage:
    """An image that can be run now."""

    digest: Digest
    rootfs: Path
    config: ProcessConfig
    size_bytes: int


class _Saved(msgspec.Struct, frozen=True, kw_only=True):
    """What image.json holds."""

    digest: Digest
    config: ProcessConfig
    size_bytes: int


@dataclass(slots=True)
class Tree:
    """A tree as this process knows it."""

    image: PreparedImage
    status: os.stat_result  # of its directory, when it was read
    owners: set[str]
    used_at: float


@dataclass(slots=True)
class _Lease:
    """How many here use a tree, and the descriptor that keeps it."""

    descriptor: int
    users: int = 0


class Trees:
    """The trees in a directory."""

    def __init__(self, directory: Path, *, leaving: Path) -> None:
        """Nothing is read yet. Trees on their way out are in *leaving*, on the same file system."""
        self._directory = directory
        self._leaving = leaving
        self._known: dict[Digest, Tree] = {}
        self._leases: dict[Digest, _Lease] = {}

    @property
    def usage_bytes(self) -> int:
        """What all trees take that are known here."""
        return sum(tree.image.size_bytes for tree in self._known.values())

    def __len__(self) -> int:
        """How many are known here."""
        return len(self._known)

    def __iter__(self) -> Iterator[PreparedImage]:
        """Those that are known here."""
        return iter([tree.image for tree in self._known.values()])

    def read_all(self) -> list[Path]:
        """Find out what is there. Those that cannot be read leave; return where they are."""
        left: list[Path] = []
        names = {directory.name for directory in self._directory.iterdir()}
        self._known = {digest: tree for digest, tree in self._known.items() if _name(digest) in names}
        for name in names:
            try:
                self._read_if_new(Digest(f"sha256:{name}"))
            except (OSError, msgspec.MsgspecError) as error:  # as a power cut leaves it
                if out := self._take_out(self._directory / name):
                    log.warning("image.unreadable", tree=name, error=str(error))
                    left.append(out)
        return left

    def usable(self, digest: Digest, owner: str) -> PreparedImage | None:
        """Return an image that *owner* may run, and note that it is used; None if there is none."""
        tree = self.find(digest)
        if tree is not None and not tree.owners & {owner, EVERYBODY}:
            del self._known[digest]
            tree = self.find(digest)  # another process may have given it to him
        if tree is None or not tree.owners & {owner, EVERYBODY}:
            return None
        self._note_use(tree)
        return tree.image

    def find(self, digest: Digest) -> Tree | None:
        """Return a tree, whosever it is; None if there is none, whoever has removed it."""
        with suppress(OSError, msgspec.MsgspecError):
            return self._read_if_new(digest)
        self._known.pop(digest, None)
        return None

    @contextmanager
    def lease(self, digest: Digest) -> Iterator[None]:
        """
        Keep a tree from being removed, by whomever.

        Raises: ImageUnavailable when it is gone.
        """
        lease = self._leases.get(digest)
        if lease is None:
            descriptor = lock_directory(self._at(digest), how=fcntl.LOCK_SH)
            if descriptor is None:
                raise _just_removed()
            lease = self._leases[digest] = _Lease(descriptor)
        lease.users += 1
        try:
            yield
        finally:
            lease.users -= 1
            if not lease.users:
                del self._leases[digest]
                os.close(lease.descriptor)

    def add(self, bundle: Path, *, digest: Digest, config: ProcessConfig, size_bytes: int) -> None:
        """Take over a directory with a fresh `rootfs`. Only for who is alone in adding, and has found none."""
        saved = _Saved(digest=digest, config=config, size_bytes=size_bytes)
        (bundle / "image.json").write_bytes(msgspec.json.encode(saved))
        (bundle / "owners").mkdir()
        bundle.chmod(0o700)
        bundle.rename(self._at(digest))

    def give(self, digest: Digest, owner: str) -> PreparedImage:
        """
        Note that *owner* may run it, as he has proved access to it.

        Raises: ImageUnavailable when it is gone.
        """
        with suppress(FileNotFoundError):
            (self._at(digest) / "owners" / owner).touch()
            tree = self._read_if_new(digest)
            tree.owners.add(owner)
            self._note_use(tree)
            return tree.image
        raise _just_removed()

    def take_out_unused(self, needed: int, *, most: int) -> Iterator[Path]:
        """
        Take out the longest unused, one by one, until *needed* bytes fit below *most*: none in use, and none that was
        imported. Give where each is now, to be removed.
        """
        for digest, tree in sorted(self._known.items(), key=lambda item: self._used_at(item[1])):
            if self.usage_bytes + needed <= most:
                return
            directory = self._at(digest)
            if not (directory / "owners" / EVERYBODY).exists() and (out := self._take_out(directory)):
                log.info("image.evicted", digest=digest, size_bytes=tree.image.size_bytes)
                del self._known[digest]
                yield out

    def _take_out(self, directory: Path) -> Path | None:
        """Rename a tree out of the way; None if somebody uses it, or somebody else has done so."""
        descriptor = lock_directory(directory, how=fcntl.LOCK_EX)
        if descriptor is None:
            return None
        try:
            return directory.rename(self._leaving / f"leaving-{new_id()}")
        finally:
            os.close(descriptor)

    def _read_if_new(self, digest: Digest) -> Tree:
        """Return a tree as it is known, unless its directory is another one by now."""
        directory = self._at(digest)
        status = directory.stat()
        tree = self._known.get(digest)
        return tree if tree is not None and os.path.samestat(tree.status, status) else self._read(directory, status)

    def _read(self, directory: Path, status: os.stat_result) -> Tree:
        saved = msgspec.json.decode((directory / "image.json").read_bytes(), type=_Saved)
        image = PreparedImage(
            digest=saved.digest, rootfs=directory / "rootfs", config=saved.config, size_bytes=saved.size_bytes
        )
        owners = {entry.name for entry in (directory / "owners").iterdir()}
        tree = self._known[saved.digest] = Tree(image, status, owners, used_at=status.st_mtime)
        return tree

    def _note_use(self, tree: Tree) -> None:
        now = time.time()
        if now - tree.used_at >= USE_NOTED_EVERY_S:
            with suppress(FileNotFoundError):  # then whoever wants it finds out at the lease
                os.utime(self._at(tree.image.digest))
        tree.used_at = now

    def _used_at(self, tree: Tree) -> float:
        with suppress(FileNotFoundError):
            return max(tree.used_at, self._at(tree.image.digest).stat().st_mtime)
        return 0.0

    def _at(self, digest: Digest) -> Path:
        return self._directory / _name(digest)


def _name(digest: Digest) -> str:
    return digest.removeprefix("sha256:")


def _just_removed() -> ImageUnavailable:
    return ImageUnavailable("The image was removed to make room just now; try again.")
