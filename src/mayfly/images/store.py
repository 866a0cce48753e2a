"""
The store of unpacked images: one tree per digest, run by whoever has proved access to it.

Layout of the directory, which is root's alone:
    trees/<hex>/rootfs        the unpacked image, ownership shifted
    trees/<hex>/image.json    its configuration and size
    trees/<hex>/owners/<id>   this user has pulled it from the registry named in a registration of their own
    pulls/                    what is under way; emptied at a start

Guarantees:
- a user's function runs from a tree only after that user's own pull of every blob of it: a digest is no secret, so
  knowing it, or a registry that serves somebody else's manifest, gives nobody another's private image;
- a user's own credentials for a registry are shown to that registry, in that user's own pulls;
- a tree appears whole, by a rename, or not at all;
- one pull per user and digest at a time, whoever asks; a tree in use is never removed. Rows: F4, F6.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import tarfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import structlog

from mayfly.domain.errors import ImageUnavailable, InvalidRequest
from mayfly.domain.ids import Digest, UserId, new_id
from mayfly.domain.image import ProcessConfig
from mayfly.domain.registry import OpenedCredentials
from mayfly.images.login import login_file
from mayfly.images.policy import RegistryPolicy
from mayfly.images.proxy import Enclosure, RegistryProxy, best_enclosure
from mayfly.images.pull import Pulled, Source, fetch, inspect, pull
from mayfly.images.reference import LOCAL, ImageReference, parse_reference
from mayfly.images.tree import remove, too_large

log = structlog.get_logger()

FindCredentials = Callable[[UserId, str], Awaitable[OpenedCredentials | None]]

EVERYBODY = "everybody"  # as an owner: the operator's own images
PULL_OUTCOMES = ("pulled", "failed")


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


@dataclass
class _Tree:
    """A tree as this process knows it."""

    image: PreparedImage
    owners: set[str] = field(default_factory=set)
    used_at: float = 0.0


class ImageStore:
    """The store; an async context manager. One process at a time may pull into a directory, several may read it."""

    def __init__(
        self,
        *,
        directory: Path,
        policy: RegistryPolicy,
        auth_file: Path | None = None,
        credentials: FindCredentials | None = None,
        pull_timeout_s: float = 120.0,
        max_unpacked_bytes: int = 2 << 30,
        cache_bytes: int = 20 << 30,
        may_evict: bool = True,
    ) -> None:
        """
        Nothing is touched before the context is entered. *credentials* finds a user's own for a registry, which go
        before those of *auth_file*. *may_evict* is for the worker alone, which knows what is in use; anybody else
        refuses what does not fit.
        """
        self._may_evict = may_evict
        self._directory = directory
        self._policy = policy
        self._auth_file = auth_file
        self._credentials = credentials
        self._pull_timeout_s = pull_timeout_s
        self._max_unpacked_bytes = max_unpacked_bytes
        self._cache_bytes = cache_bytes
        self.enclosure = Enclosure.NAMESPACE
        self._trees: dict[Digest, _Tree] = {}
        self._leases: Counter[Digest] = Counter()
        self._flights: dict[tuple[str, str], asyncio.Task[PreparedImage]] = {}
        self.pulls: Counter[str] = Counter()  # by outcome

    async def __aenter__(self) -> ImageStore:
        """Find what is there; remove what an earlier process left half-done."""
        for directory in (self._directory, self._trees_dir, self._pulls_dir, self._names_dir):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self._pulls_dir.iterdir():
            if not _is_held(left):
                await asyncio.to_thread(remove, left)
        for tree in self._trees_dir.iterdir():
            try:
                self._load(tree)
            except (OSError, msgspec.MsgspecError) as error:  # as a power cut leaves it
                log.warning("image.unreadable", tree=tree.name, error=str(error))
                await self._discard(tree)
        self.enclosure = await best_enclosure()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop pulling, and leave nothing half-done."""
        for flight in self._flights.values():
            flight.cancel()
        await asyncio.gather(*self._flights.values(), return_exceptions=True)

    @property
    def usage_bytes(self) -> int:
        """What all trees take."""
        return sum(tree.image.size_bytes for tree in self._trees.values())

    def list(self) -> list[PreparedImage]:
        """List the images that are here."""
        return [tree.image for tree in self._trees.values()]

    async def resolve(self, reference: ImageReference, *, owner: UserId) -> PreparedImage:
        """
        Ask the registry what *reference* is now, have it here, and note that *owner* may run it.

        Raises: ImageUnavailable, with the registry's own words.
        """
        if reference.is_local:
            return self._local(reference)
        await self._policy.check(reference)
        async with self._pull_directory() as work, self._in_time(), self._source(reference, owner) as source:
            digest, manifest = await inspect(source, work)
        if manifest.compressed_bytes > self._max_unpacked_bytes:
            raise too_large(self._max_unpacked_bytes)
        return await self.prepare(reference, digest, owner=owner)

    async def prepare(self, reference: ImageReference, digest: Digest, *, owner: UserId) -> PreparedImage:
        """
        Have the image at *digest* here; at once when *owner* had it before.

        Raises: ImageUnavailable, with the registry's own words.
        """
        if image := self._usable(digest, owner):
            return image
        if reference.is_local:
            return self._local(reference.pinned(digest))
        await self._policy.check(reference)
        return await self._single_flight(reference, digest, owner)

    @contextmanager
    def lease(self, digest: Digest) -> Iterator[None]:
        """Keep a tree from being removed."""
        self._leases[digest] += 1
        try:
            yield
        finally:
            self._leases[digest] -= 1

    async def import_image(self, source: str, name: str) -> Digest:
        """
        Bring in an image as `local/NAME`, for everybody: a docker or OCI archive, or `docker-daemon:REFERENCE`.

        Raises: InvalidRequest for a name or source that cannot be; ImageUnavailable.
        """
        reference = parse_reference(f"{LOCAL}/{name}")
        if reference.digest:
            raise InvalidRequest("An imported image is named NAME or NAME:TAG.", field="name")
        async with self._pull_directory() as work, self._in_time():
            pulled = await pull(Source(name=_import_source(source)), None, work, max_bytes=self._max_unpacked_bytes)
            image = await self._keep(pulled, EVERYBODY)
        self._name_file(reference).write_text(image.digest)
        return image.digest

    def _usable(self, digest: Digest, owner: UserId) -> PreparedImage | None:
        tree = self._trees.get(digest)
        if tree is None or not tree.owners & {owner, EVERYBODY}:
            return None
        tree.used_at = time.time()
        return tree.image

    def _local(self, reference: ImageReference) -> PreparedImage:
        digest = reference.digest
        if digest is None and self._name_file(reference).exists():
            digest = Digest(self._name_file(reference).read_text())
        tree_dir = self._tree_dir(digest) if digest else None
        tree = self._trees.get(digest) if digest else None
        if tree_dir and tree_dir.exists() and (tree is None or EVERYBODY not in tree.owners):
            tree = self._load(tree_dir)  # imported while this process runs
        if tree is None or EVERYBODY not in tree.owners:
            raise ImageUnavailable(
                f"There is no imported image {reference.repository!r} on this worker: the operator's "
                "`mayfly images import FILE NAME` makes local/NAME."
            )
        tree.used_at = time.time()
        return tree.image

    async def _fetch(self, reference: ImageReference, digest: Digest, owner: UserId) -> PreparedImage:
        """Pull for one owner. A tree that is here already is not unpacked again, but every blob is fetched."""
        pinned = reference.pinned(digest)
        async with self._pull_directory() as work, self._in_time(), self._source(pinned, owner) as source:
            if digest in self._trees:
                await fetch(source, digest, work, max_bytes=self._max_unpacked_bytes)
                return self._grant(digest, owner)
            pulled = await pull(source, digest, work, max_bytes=self._max_unpacked_bytes)
            return await self._keep(pulled, owner)

    async def _keep(self, pulled: Pulled, owner: str) -> PreparedImage:
        """Move a fresh tree into the store, whole."""
        target = self._tree_dir(pulled.digest)
        if not target.exists():
            await self._make_room(pulled.size_bytes)
        if not target.exists():  # nobody was quicker meanwhile
            saved = _Saved(digest=pulled.digest, config=pulled.config, size_bytes=pulled.size_bytes)
            bundle = pulled.rootfs.parent
            (bundle / "image.json").write_bytes(msgspec.json.encode(saved))
            (bundle / "owners").mkdir()
            bundle.chmod(0o700)
            bundle.rename(target)
        self._load(target)
        return self._grant(pulled.digest, owner)

    def _grant(self, digest: Digest, owner: str) -> PreparedImage:
        tree = self._trees.get(digest)
        if tree is None:
            raise ImageUnavailable("The image was removed to make room just now; try again.")
        (self._tree_dir(digest) / "owners" / owner).touch()
        tree.owners.add(owner)
        tree.used_at = time.time()
        return tree.image

    async def _make_room(self, needed: int) -> None:
        """Remove the longest unused trees until *needed* bytes fit; none in use, and none that was imported."""
        for digest, tree in sorted(self._trees.items(), key=lambda item: item[1].used_at):
            if self.usage_bytes + needed <= self._cache_bytes:
                return
            if self._may_evict and self._leases[digest] <= 0 and EVERYBODY not in tree.owners:
                log.info("image.evicted", digest=digest, size_bytes=tree.image.size_bytes)
                del self._trees[digest]
                await self._discard(self._tree_dir(digest))
        if self.usage_bytes + needed > self._cache_bytes:
            raise ImageUnavailable("This worker's image cache is full of images in use; try again later.")

    async def _discard(self, tree: Path) -> None:
        """Take a tree out at once, and remove its files without holding anybody up."""
        leaving = self._pulls_dir / f"leaving-{new_id()}"
        os.rename(tree, leaving)  # noqa: PTH104 - a rename does not block
        await asyncio.to_thread(remove, leaving)

    def _load(self, tree: Path) -> _Tree:
        saved = msgspec.json.decode((tree / "image.json").read_bytes(), type=_Saved)
        image = PreparedImage(
            digest=saved.digest, rootfs=tree / "rootfs", config=saved.config, size_bytes=saved.size_bytes
        )
        owners = {entry.name: entry.stat().st_mtime for entry in (tree / "owners").iterdir()}
        loaded = self._trees[saved.digest] = _Tree(image, set(owners), max(owners.values(), default=0.0))
        return loaded

    @asynccontextmanager
    async def _source(self, reference: ImageReference, owner: UserId) -> AsyncIterator[Source]:
        """
        Say where *reference* is, by which way, and how *owner* gets in: by credentials of his own, or else the
        operator's.
        """
        name = f"{reference.registry}/{reference.repository}"
        name += f"@{reference.digest}" if reference.digest else f":{reference.tag}"
        plain_http = self._policy.is_plain_http(reference)
        own = await self._credentials(owner, reference.registry.lower()) if self._credentials else None
        proxy = RegistryProxy(self._policy, reference, max_bytes=self._max_unpacked_bytes, enclosure=self.enclosure)
        async with proxy:
            source = Source(name=f"docker://{name}", plain_http=plain_http, auth_file=self._auth_file, proxy=proxy)
            if own is None:
                yield source
                return
            with login_file(reference.registry, own) as descriptor:
                yield replace(source, login=descriptor)

    async def _single_flight(self, reference: ImageReference, digest: Digest, owner: UserId) -> PreparedImage:
        """Let all who want the same wait for one pull, which goes on when one of them leaves."""
        key = (owner, str(reference.pinned(digest)))
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.create_task(self._fetch(reference, digest, owner), name=f"pull-{digest}")
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(flight)

    def _landed(self, key: tuple[str, str], flight: asyncio.Task[PreparedImage]) -> None:
        self._flights.pop(key, None)
        if not flight.cancelled():
            failed = flight.exception()  # whoever still waits has it; nobody else needs to know
            self.pulls["pulled"] += failed is None

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._pull_timeout_s):
                yield
        except ImageUnavailable:
            self.pulls["failed"] += 1
            raise
        except TimeoutError:
            self.pulls["failed"] += 1
            raise ImageUnavailable(
                f"The image did not arrive within {self._pull_timeout_s:g} s (the operator's MAYFLY_PULL_TIMEOUT_S)."
            ) from None

    @asynccontextmanager
    async def _pull_directory(self) -> AsyncIterator[Path]:
        work = self._pulls_dir / new_id()
        work.mkdir(mode=0o700)
        held = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)  # so that another process that opens the store leaves it alone
            yield work
        finally:
            os.close(held)
            await asyncio.to_thread(remove, work)

    @property
    def _trees_dir(self) -> Path:
        return self._directory / "trees"

    @property
    def _pulls_dir(self) -> Path:
        return self._directory / "pulls"

    @property
    def _names_dir(self) -> Path:
        return self._directory / "names"

    def _tree_dir(self, digest: Digest) -> Path:
        return self._trees_dir / digest.removeprefix("sha256:")

    def _name_file(self, reference: ImageReference) -> Path:
        return self._names_dir / f"{reference.repository}:{reference.tag}".replace("/", "%")


def _is_held(directory: Path) -> bool:
    """Whether a living process works in a pull's directory."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _import_source(source: str) -> str:
    """Say in skopeo's words where to import from: a file, whose kind is looked at, or the docker daemon."""
    if source.startswith("docker-daemon:"):
        return source if ":" in source.removeprefix("docker-daemon:") else f"{source}:latest"
    path = Path(source)
    if not path.is_file():
        raise InvalidRequest(f"{source!r} is neither a file nor docker-daemon:REFERENCE.", field="source")
    return f"{_archive_kind(path)}:{path.resolve()}"


def _archive_kind(path: Path) -> str:
    try:
        with tarfile.open(path) as archive:
            names = set(archive.getnames())
    except (tarfile.TarError, OSError) as error:
        raise InvalidRequest(f"{path.name} is not a tar archive: {error}.", field="source") from None
    return "docker-archive" if "manifest.json" in names else "oci-archive"
