"""
Brings the worker's unpacked images to the daemon, each once, and takes away those that the worker has evicted.

The worker's image store stays the one that pulls, proves that a user may have an image, and evicts. The daemon gets a
copy of a tree as a stream of tar, with the ownership shifted back and the held init added; so a daemon on another
machine is served like a local one, and no path of the worker is mounted anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import tarfile
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote_to_bytes

from mayfly.containers.docker.config import INIT, OWNER_LABEL
from mayfly.containers.docker.engine import DockerRefused, Engine
from mayfly.domain import sandbox
from mayfly.domain.errors import RuntimeFailed

REPOSITORY = "mayfly/rootfs"
SOURCE_LABEL = "mayfly.rootfs"
IMPORT_TIMEOUT_S = 600.0
CHUNK_BYTES = 1 << 18
OLD_S = 86_400.0
"""Another worker's root as old as this is removed if no container uses it. A worker that lives imports it anew; one
that is gone for good (its host name and its images with it) would leave it for ever."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A root at the daemon."""

    reference: str
    has_tmp: bool
    """Whether the image brought files in /tmp."""


class Roots:
    """The roots of one worker at one daemon."""

    def __init__(self, engine: Engine, *, owner: str, init: bytes) -> None:
        """*init* is the held init's program, *owner* the label of what is this worker's."""
        self._engine = engine
        self._owner = owner
        self._init = init
        self._imports: dict[str, asyncio.Task[Imported]] = {}

    async def have(self, rootfs: Path) -> Imported:
        """
        Import *rootfs* unless it is there; several who ask at once share one import, and it outlives who asked.

        Raises: RuntimeFailed.
        """
        try:
            tag = self._tag(rootfs)
        except OSError as error:
            raise RuntimeFailed(f"The image's root cannot be read: {error}.") from error
        running = self._imports.get(tag)
        if running is None or (running.done() and (running.cancelled() or running.exception() is not None)):
            running = asyncio.create_task(self._import(rootfs, tag), name=f"import-{tag[:12]}")
            self._imports[tag] = running
        return await asyncio.shield(running)

    def forget(self, rootfs: Path) -> None:
        """Ask the daemon again at the next `have`: it says that it has the root no more."""
        with contextlib.suppress(OSError):
            self._imports.pop(self._tag(rootfs), None)

    async def sweep(self) -> None:
        """
        Remove the daemon's copies of roots that the worker's image store has evicted, and what other workers left
        `OLD_S` ago. One in use stays for now.
        """
        now = time.time()
        for image in await self._list():
            is_ours = image["Labels"][OWNER_LABEL] == self._owner
            if not is_ours and now - image["Created"] < OLD_S:
                continue
            source = _path(image["Labels"].get(SOURCE_LABEL, ""))
            tagged = [each for each in image.get("RepoTags") or [] if not each.startswith("<none>")]
            for reference in tagged or [image["Id"]]:
                tag = reference.rpartition(":")[2]
                if not is_ours or not self._is_current(source, tag):
                    self._imports.pop(tag, None)
                    with contextlib.suppress(DockerRefused):  # in use, or gone
                        await self._engine.delete(f"/images/{reference}")

    async def close(self) -> None:
        """Give up imports under way; what has been imported stays, for the next start."""
        running = [task for task in self._imports.values() if not task.done()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._imports.clear()

    def _is_current(self, source: Path, tag: str) -> bool:
        try:
            return self._tag(source) == tag
        except OSError:
            return False

    def _tag(self, rootfs: Path) -> str:
        """Name a tree: another unpacking of the same image, another worker or another init make another name."""
        status = rootfs.stat()
        words = [INIT, self._owner, str(rootfs), str(status.st_dev), str(status.st_ino), str(status.st_mtime_ns)]
        return hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape") + self._init).hexdigest()[:32]

    async def _list(self) -> list[dict[str, Any]]:
        filters = json.dumps({"label": [OWNER_LABEL, SOURCE_LABEL]})
        images: list[dict[str, Any]] = await self._engine.get("/images/json", filters=filters)
        return images

    async def _import(self, rootfs: Path, tag: str) -> Imported:
        imported = Imported(f"{REPOSITORY}:{tag}", has_tmp=_has_tmp(rootfs))
        try:
            await self._engine.get(f"/images/{imported.reference}/json")
        except DockerRefused as refusal:
            if refusal.status != 404:
                raise
        else:
            return imported
        await self.sweep()
        labels = f"LABEL {OWNER_LABEL}={self._owner} {SOURCE_LABEL}={_label(rootfs)}"
        params = {"fromSrc": "-", "repo": REPOSITORY, "tag": tag, "changes": labels}
        answer = await self._engine.upload(
            "/images/create", tar_stream(rootfs, self._init), timeout_s=IMPORT_TIMEOUT_S, **params
        )
        if not isinstance(answer, dict) or "error" in answer:
            raise RuntimeFailed(f"The Docker daemon does not take the image's root: {answer}.")
        return imported


def _label(path: Path) -> str:
    """A path as a label: no character of it means anything to the daemon, which would replace `$x`."""
    return quote(os.fsencode(path))


def _path(label: str) -> Path:
    return Path(os.fsdecode(unquote_to_bytes(label)))


def _has_tmp(rootfs: Path) -> bool:
    """Whether there is no empty directory /tmp that a tmpfs may hide."""
    tmp = rootfs / "tmp"
    return tmp.is_symlink() or not tmp.is_dir() or any(tmp.iterdir())


async def tar_stream(rootfs: Path, init: bytes) -> AsyncIterator[bytes]:
    """
    Read a tree as tar, written by a thread into a pipe at the pace of the reader.

    Raises: RuntimeFailed when a file cannot be read; the tar then has no end, and no daemon takes it.
    """
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    problems: list[OSError | tarfile.TarError] = []

    def write() -> None:
        try:
            with os.fdopen(theirs, "wb", buffering=CHUNK_BYTES) as pipe:
                write_tar(rootfs, init, pipe)
        except BrokenPipeError:
            return  # nobody reads any more
        except (OSError, tarfile.TarError) as error:
            problems.append(error)

    reader = asyncio.StreamReader(limit=CHUNK_BYTES)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb", buffering=0)
    )
    writer = threading.Thread(target=write, name="tar", daemon=True)
    writer.start()
    try:
        while chunk := await reader.read(CHUNK_BYTES):
            yield chunk
        await asyncio.to_thread(writer.join)  # the pipe ends a moment before its writer has said why
        if problems:
            raise RuntimeFailed(f"The image's root cannot be read: {problems[0]}.") from problems[0]
    finally:
        transport.close()


def write_tar(rootfs: Path, init: bytes, to: IO[bytes]) -> None:
    """
    Write a tree as the container sees it: ids shifted back, without device nodes and extended attributes.

    A device node would work in a Docker container, and a file's capabilities as well, so neither is passed on.
    """
    with tarfile.open(fileobj=to, mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK_BYTES) as tar:
        tar.add(rootfs, arcname="./", recursive=True, filter=_as_in_container)
        program = tarfile.TarInfo(INIT.removeprefix("/"))
        program.size, program.mode = len(init), 0o555
        tar.addfile(program, io.BytesIO(init))


def _as_in_container(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if member.ischr() or member.isblk() or member.name in (INIT.removeprefix("/"), f".{INIT}"):
        return None
    member.uid, member.gid = _shifted_back(member.uid), _shifted_back(member.gid)
    member.uname = member.gname = ""
    return member


def _shifted_back(host_id: int) -> int:
    inside = host_id - sandbox.FIRST_HOST_ID
    return inside if 0 <= inside < sandbox.ID_COUNT else 65_534
