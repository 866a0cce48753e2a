"""
The store of unpacked images: one tree per digest, run by whoever has proved access to it.

Layout of the directory, which is root's alone, and which the workers of a machine may share:
    trees/    the unpacked images: see `images.trees`
    names/    what was imported under which name
    pulls/    what is under way; what is left of that by dead processes is removed at a start
    locks/    what processes do one after the other

Guarantees:
- a user's function runs from a tree only after that user's own pull of every blob of it: a digest is no secret, so
  knowing it, or a registry that serves somebody else's manifest, gives nobody another's private image;
- a user's own credentials for a registry are shown to that registry, in that user's own pulls;
- one pull per user and digest at a time, whoever asks, in whichever process; who comes later finds what was pulled;
- a tree appears whole or not at all, and one in use is never removed. Rows: F4, F6.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import tarfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from mayfly.domain.errors import ImageUnavailable, InvalidRequest
from mayfly.domain.ids import Digest, UserId, new_id
from mayfly.domain.registry import OpenedCredentials
from mayfly.images.locks import alone, held, lock_directory
from mayfly.images.login import login_file
from mayfly.images.policy import RegistryPolicy
from mayfly.images.proxy import Enclosure, RegistryProxy, best_enclosure
from mayfly.images.pull import Pulled, Source, fetch, inspect, pull
from mayfly.images.reference import LOCAL, ImageReference, parse_reference
from mayfly.images.tree import remove, too_large
from mayfly.images.trees import EVERYBODY, PreparedImage, Trees

FindCredentials = Callable[[UserId, str], Awaitable[OpenedCredentials | None]]

ROOMS = ("trees", "names", "pulls", "locks")
PULL_OUTCOMES = ("pulled", "failed")


class ImageStore:
    """The store; an async context manager. Several processes of one machine may have one in the same directory."""

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
        before those of *auth_file*. Who *may_evict* nothing refuses what does not fit.
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
        self._trees = Trees(directory / "trees", leaving=self._pulls_dir)
        self._flights: dict[tuple[str, str], asyncio.Task[PreparedImage]] = {}
        self.pulls: Counter[str] = Counter()  # by outcome

    async def __aenter__(self) -> ImageStore:
        """Find what is there; remove what an earlier process left half-done."""
        for directory in (self._directory, *(self._directory / each for each in ROOMS)):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with held(self._pulls_dir, how=fcntl.LOCK_EX):  # nobody is between making a directory and locking it
            left = [each for each in self._pulls_dir.iterdir() if not _is_held(each)]
        for each in (*left, *self._trees.read_all()):
            await asyncio.to_thread(remove, each)
        self.enclosure = await best_enclosure()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop pulling, and leave nothing half-done."""
        for flight in self._flights.values():
            flight.cancel()
        await asyncio.gather(*self._flights.values(), return_exceptions=True)

    @property
    def usage_bytes(self) -> int:
        """What all trees take that this process knows."""
        return self._trees.usage_bytes

    @property
    def count(self) -> int:
        """How many images this process knows."""
        return len(self._trees)

    def list(self) -> list[PreparedImage]:
        """List the images that this process knows."""
        return list(self._trees)

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
        if image := self._trees.usable(digest, owner):
            return image
        if reference.is_local:
            return self._local(reference.pinned(digest))
        await self._policy.check(reference)
        return await self._single_flight(reference, digest, owner)

    def lease(self, digest: Digest) -> AbstractContextManager[None]:
        """
        Keep a tree from being removed, by this process or another.

        Raises: ImageUnavailable when it is gone.
        """
        return self._trees.lease(digest)

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

    def _local(self, reference: ImageReference) -> PreparedImage:
        digest = reference.digest
        if digest is None and self._name_file(reference).exists():
            digest = Digest(self._name_file(reference).read_text())
        image = self._trees.usable(digest, EVERYBODY) if digest else None
        if image is None:
            raise ImageUnavailable(
                f"There is no imported image {reference.repository!r} on this worker: the operator's "
                "`mayfly images import FILE NAME` makes local/NAME."
            )
        return image

    async def _fetch(self, reference: ImageReference, digest: Digest, owner: UserId) -> PreparedImage:
        """Pull for one owner. A tree that is here already is not unpacked again, but every blob is fetched."""
        pinned = reference.pinned(digest)
        only_one = self._directory / "locks" / f"{digest.removeprefix('sha256:')}-{owner}"
        async with self._pull_directory() as work, self._in_time(), alone(only_one):
            if image := self._trees.usable(digest, owner):  # another process was faster
                return image
            async with self._source(pinned, owner) as source:
                image = await self._fetch_from(source, digest, owner, work)
        self.pulls["pulled"] += 1
        return image

    async def _fetch_from(self, source: Source, digest: Digest, owner: UserId, work: Path) -> PreparedImage:
        if self._trees.find(digest):
            with self._trees.lease(digest):
                await fetch(source, digest, work, max_bytes=self._max_unpacked_bytes)
                return self._trees.give(digest, owner)
        pulled = await pull(source, digest, work, max_bytes=self._max_unpacked_bytes)
        return await self._keep(pulled, owner)

    async def _keep(self, pulled: Pulled, owner: str) -> PreparedImage:
        """Move a fresh tree into the store, whole; one process after the other, as they share the room."""
        async with alone(self._directory / "locks" / "room"):
            if not self._trees.find(pulled.digest):  # nobody was quicker meanwhile
                await self._make_room(pulled.size_bytes)
                self._trees.add(
                    pulled.rootfs.parent, digest=pulled.digest, config=pulled.config, size_bytes=pulled.size_bytes
                )
            return self._trees.give(pulled.digest, owner)

    async def _make_room(self, needed: int) -> None:
        """Remove the longest unused trees until *needed* bytes fit; none in use, and none that was imported."""
        for unreadable in self._trees.read_all():
            await asyncio.to_thread(remove, unreadable)
        for out in self._trees.take_out_unused(needed, most=self._cache_bytes) if self._may_evict else ():
            await asyncio.to_thread(remove, out)
        if self.usage_bytes + needed > self._cache_bytes:
            raise ImageUnavailable("This worker's image cache is full of images in use; try again later.")

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
            flight.exception()  # whoever still waits has it; nobody else needs to know

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
        """Have one, locked, so that another process which opens the store leaves it alone."""
        work = self._pulls_dir / new_id()
        with held(self._pulls_dir, how=fcntl.LOCK_SH):
            work.mkdir(mode=0o700)
            descriptor = lock_directory(work, how=fcntl.LOCK_EX)
        try:
            yield work
        finally:
            if descriptor is not None:
                os.close(descriptor)
            await asyncio.to_thread(remove, work)

    @property
    def _pulls_dir(self) -> Path:
        return self._directory / "pulls"

    def _name_file(self, reference: ImageReference) -> Path:
        return self._directory / "names" / f"{reference.repository}:{reference.tag}".replace("/", "%")


def _is_held(directory: Path) -> bool:
    """Whether a living process works in a pull's directory."""
    descriptor = lock_directory(directory, how=fcntl.LOCK_EX)
    if descriptor is None:
        return True
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
        known = "as `docker save` and `skopeo copy ... oci-archive:FILE` write it"
        raise InvalidRequest(f"{path.name} is not a tar archive, {known}.", field="source") from error
    return "docker-archive" if "manifest.json" in names else "oci-archive"
