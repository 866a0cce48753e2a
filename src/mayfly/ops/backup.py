"""
`mayfly backup` and `mayfly restore`: all that lasts, in one file.

The file is a tar: one archive of nats-server's for each stream, a manifest with the versions, the date and each part's
size and sha256, and the manifest's own sha256. It has password hashes, so it is written 0600. Streams are saved one
after the other while everything runs, those that point at others first, so that what is pointed at is there.

What says only what happens at this moment is not saved: the queue, places, workers, logins that failed; nor are
invitations, since one that was used after the backup would be good again. Activations that were in flight when the
backup was made are restored as lost, before functions and users come back: nobody knows any more whether they ran, and
none may run twice, so whoever repeats a call by its Idempotency-Key has to find a record that has ended.
Nobody stays logged in over a restore, unless asked for: a logout since would be undone. Rows: A3, A4.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import errno
import hashlib
import os
import stat
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Self, cast

import msgspec
from msgspec.structs import replace as replace_fields

from mayfly import __version__
from mayfly.bus import subjects
from mayfly.bus.clock_reading import keeping_time
from mayfly.bus.codec import Undecodable
from mayfly.bus.connection import Bus, translated
from mayfly.bus.patience import UNANSWERED, patiently
from mayfly.bus.schema import all_streams
from mayfly.bus.snapshot import empty, replace, snapshot, stream_state
from mayfly.bus.store import Conflict
from mayfly.bus.stores import Stores
from mayfly.domain.activation import Activation, State
from mayfly.domain.errors import MayflyError, PreconditionFailed, WorkerLost
from mayfly.domain.ids import new_id
from mayfly.settings import BootstrapSettings, SettingsError, load

FORMAT = "mayfly-backup"
VERSION = 1
MANIFEST = "manifest.json"
CHECKSUM = "manifest.json.sha256"  # as sha256sum writes it
MANIFEST_MAX_BYTES = 1 << 20
READ_BYTES = 256 * 1024
HEADER_BYTES, TYPE_AT, REGULAR = 512, 156, b"0"  # of a tar

LOGINS = subjects.kv_stream(subjects.SESSIONS)
SEALED = (subjects.kv_stream(subjects.SECRETS), subjects.kv_stream(subjects.REGISTRIES))
"""Saved as they are, sealed: of use with the sealing keys only, which no backup has. Older backups have neither."""

STREAMS = (  # in the order in which they are saved: the activation before its response, the function before its owner
    subjects.kv_stream(subjects.IDEMPOTENCY),
    subjects.kv_stream(subjects.ACTIVATIONS),
    subjects.RESPONSES,
    LOGINS,
    subjects.kv_stream(subjects.FUNCTIONS),
    *SEALED,
    subjects.kv_stream(subjects.USERS),
    subjects.AUDIT,
)


class BackupUnusable(SettingsError):
    """A file cannot be written as a backup, or is none that can be restored."""


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One stream in the file."""

    stream: str
    file: str
    size: int
    sha256: str
    messages: int
    last_seq: int
    config: dict[str, Any]  # as it was, for the reader; a restore keeps that of the installation
    state: dict[str, Any]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file says of itself."""

    format: str
    v: int
    mayfly: str
    nats: str
    made_at: datetime.datetime
    parts: list[Part]


async def backup(bus: Bus, path: Path) -> list[str]:
    """
    Write a backup; return what was done. The file is there when it is whole, and not before; a kill may leave a hidden
    one beside it, which can be removed.

    Raises: BackupUnusable when there is a file already; QueueUnavailable; OSError.
    """
    with _whole(path) as archive:
        parts = [await _save(bus, stream, archive, path.parent) for stream in STREAMS]
        manifest = Manifest(
            format=FORMAT,
            v=VERSION,
            mayfly=__version__,
            nats=_version_of(bus),
            made_at=datetime.datetime.now(datetime.UTC),
            parts=parts,
        )
        encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        for name, content in ((MANIFEST, encoded), (CHECKSUM, _checksum(encoded))):
            archive.addfile(_member(name, len(content)), BytesIO(content))
    return [
        *(f"saved {part.stream}: {part.messages} messages" for part in parts),
        f"wrote {path}. It has password hashes and results: keep it where nobody else reads it.",
    ]


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[tarfile.TarFile]:
    """Write a tar, 0600, that has its name once it is whole and on the disk."""
    if path.exists():
        raise BackupUnusable(f"{path} is there already, and a backup is never overwritten: name another file.")
    if not path.parent.is_dir():
        raise BackupUnusable(f"{path.parent} is no directory: make it first.")
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:  # any size in one header
                yield archive
            file.flush()
            os.fsync(descriptor)
        _give_name(partial, path)
        _sync(path.parent)
    except FileExistsError:
        raise BackupUnusable(f"{path} was made by somebody else meanwhile: name another file.") from None
    finally:
        Path(partial).unlink(missing_ok=True)


def _give_name(partial: str, path: Path) -> None:
    """
    Raises: FileExistsError if somebody else has made the file meanwhile.
    """
    try:
        os.link(partial, path)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
        # No links, as on a stick of FAT. A kill just here would leave an empty file, which no restore takes.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.replace(partial, path)  # noqa: PTH105 - beside the calls above


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _save(bus: Bus, stream: str, archive: tarfile.TarFile, directory: Path) -> Part:
    """Save one stream; a tar wants to know the size before the content, so the content waits in a file of no name."""
    digest = hashlib.sha256()
    with tempfile.TemporaryFile(dir=directory) as file:
        async with snapshot(bus, stream) as saved:
            async for chunk in saved.chunks():
                digest.update(chunk)
                file.write(chunk)
        size = file.tell()
        file.seek(0)
        name = _file_of(stream)
        await asyncio.to_thread(archive.addfile, _member(name, size), file)  # or the connection would not be tended
    return Part(
        stream=stream,
        file=name,
        size=size,
        sha256=digest.hexdigest(),
        messages=saved.stood.messages,
        last_seq=saved.stood.last_seq,
        config=saved.stood.config,
        state=saved.stood.state,
    )


def _file_of(stream: str) -> str:
    return f"{stream}.snapshot"


def _checksum(manifest: bytes) -> bytes:
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o600
    return member


async def restore(bus: Bus, path: Path, *, replace_all: bool = False, logins: bool = False) -> list[str]:
    """
    Put what a backup holds into an installation; return what was done.

    The whole file is checked before anything is touched. An installation that has data is refused unless *replace_all*,
    one with activations in flight always.

    Raises: BackupUnusable; PreconditionFailed; QueueUnavailable; OSError.
    """
    async with opened(path) as found:
        _check_server(bus, found.manifest)
        done = await _make_missing(bus)
        await _check_target(bus, replace_all=replace_all)
        for stream in SEALED:
            if stream not in {part.stream for part in found.manifest.parts}:
                await empty(bus, stream)
        if not logins:
            await empty(bus, LOGINS)
            done.append("nobody is logged in: everybody logs in again, with the password as it was")
        for part in found.manifest.parts:
            if logins or part.stream != LOGINS:
                await _restore_part(bus, found, part)
                done.append(f"restored {part.stream}: {part.messages} messages")
            if part.stream == subjects.kv_stream(subjects.ACTIVATIONS):
                done += await _end_in_flight(bus, up_to=part.last_seq)
    done.append(f"restored the backup of {found.manifest.made_at:%Y-%m-%d %H:%M:%S} UTC")
    return done


def _check_server(bus: Bus, manifest: Manifest) -> None:
    """Refuse what an older nats-server could not read, before anything is removed for it."""
    if _major_and_minor(manifest.nats) > _major_and_minor(_version_of(bus)):
        raise PreconditionFailed(
            f"The backup was made on nats-server {manifest.nats}, and {_version_of(bus)} runs here: upgrade it first."
        )


def _version_of(bus: Bus) -> str:
    version = bus.client.connected_server_version
    return f"{version.major}.{version.minor}.{version.patch}"


def _major_and_minor(version: str) -> list[int]:
    return [int(number) if number.isdecimal() else 0 for number in version.split(".")[:2]]


async def _make_missing(bus: Bus) -> list[str]:
    """Make the streams that an earlier restore, killed between removing and restoring one, has left out."""
    with translated("list streams"):
        present = {info.config.name: info.config for info in await patiently(bus.js.streams_info)}
    work = present.get(subjects.ACT)
    if work is None:
        raise PreconditionFailed("There are no streams here to restore into: run `mayfly bootstrap` first.")
    settings = load(BootstrapSettings).model_copy(update={"nats_replicas": work.num_replicas})
    missing = [shape for shape in all_streams(settings) if shape.name in set(STREAMS) - set(present)]
    for shape in missing:
        with translated("make a stream"):
            await patiently(partial(bus.js.add_stream, shape), also=UNANSWERED)
    return [f"made {shape.name}, which was missing: was an earlier restore cut off?" for shape in missing]


async def _check_target(bus: Bus, *, replace_all: bool) -> None:
    in_flight = (await stream_state(bus, subjects.ACT)).messages
    if in_flight:
        raise PreconditionFailed(
            f"{in_flight} activations are in flight here. Stop the API servers, or wait until none is, and try again."
        )
    held = {stream: (await stream_state(bus, stream)).messages for stream in STREAMS}
    if any(held.values()) and not replace_all:
        names = ", ".join(f"{stream} has {messages}" for stream, messages in held.items() if messages)
        raise PreconditionFailed(f"There is data here ({names} messages). --replace removes it for the backup's.")


async def _restore_part(bus: Bus, found: Opened, part: Part) -> None:
    try:
        await replace(bus, part.stream, state=part.state, chunks=found.chunks(part))
    except (MayflyError, tarfile.TarError, OSError) as error:
        why = error.detail if isinstance(error, MayflyError) else f"{error}."
        raise PreconditionFailed(
            f"{part.stream} could not be restored and is empty now: {why} "
            "The backup is unharmed: run it again with --replace."
        ) from error
    if (await stream_state(bus, part.stream)).last_seq != part.last_seq:
        raise PreconditionFailed(
            f"{part.stream} was written to while it was restored. Stop the API servers and workers, and run it again "
            "with --replace."
        )


async def _end_in_flight(bus: Bus, *, up_to: int) -> list[str]:
    """
    End the records of activations that had not ended, as lost: what became of them the backup does not know. Those
    after *up_to* are of calls that came since.
    """
    records = Stores.on(bus).activations
    keep_s = load(BootstrapSettings).record_keep_s
    ended = 0
    async with keeping_time(bus):
        for key in await records.keys():
            try:
                entry = await records.get(key)
                if entry is not None and entry.revision <= up_to and not entry.value.state.is_final:
                    lost = _as_lost(entry.value, at=records.now())
                    await records.update(key, lost, revision=entry.revision, ttl_s=lost.kept_s(keep_s))
                    ended += 1
            except (Undecodable, Conflict):  # not ours to judge; somebody else's by now
                continue
    lost_ones = f"ended {ended} activations as lost, which were in flight when the backup was made"
    return [lost_ones] if ended else []


def _as_lost(record: Activation, *, at: float) -> Activation:
    """
    End a record. Not by `moved`: a restore stands outside of the life of an activation, in which none that is queued
    gets lost. This one may have run since the backup was made.
    """
    return replace_fields(
        record,
        state=State.WORKER_LOST,
        nonce=new_id(),
        code=WorkerLost.code,
        detail="It was in flight when the backup was made that was restored since, and nobody knows how it ended.",
        ran="unknown",
        ended_at=at,
    )


@dataclass(frozen=True, slots=True)
class Opened:
    """A backup that was checked."""

    manifest: Manifest
    _archive: tarfile.TarFile

    def chunks(self, part: Part) -> Iterator[bytes]:
        """Read one part."""
        return _read(self._archive, self._archive.getmember(part.file))


@contextlib.asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Opened]:
    """
    Open a backup and check all of it: the form, the version, and each part's size and sha256.

    Raises: BackupUnusable, saying what is wrong; OSError.
    """
    with _open(path) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise BackupUnusable(f"{path} is no plain file, which a backup is, since it is read twice: copy it to one.")
        found = await asyncio.to_thread(_checked, file, path)  # it may be large
        yield found


def _open(path: Path) -> IO[bytes]:
    """Open without waiting: for a pipe until somebody writes to it, which no signal would end."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


class _Plain(tarfile.TarInfo):
    """A member of a backup. Before headers of other kinds are read as such: they may claim names of many gigabytes."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        """
        Read the next header.

        Raises: ValueError when it is not a plain file's, or the end.
        """
        file = cast("IO[bytes]", tarfile.fileobj)
        start = file.tell()
        header = file.read(HEADER_BYTES)
        file.seek(start)
        if any(header) and header[TYPE_AT : TYPE_AT + 1] != REGULAR:
            raise ValueError("it has more than plain files")
        return super().fromtarfile(tarfile)


def _checked(file: IO[bytes], path: Path) -> Opened:
    try:
        archive = tarfile.open(fileobj=file, mode="r:", tarinfo=_Plain)  # noqa: SIM115 - the file is closed by whoever opened it
        manifest = _manifest(archive, path)
        for part in manifest.parts:
            _check(archive, part, path)
    except BackupUnusable:
        raise
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        raise BackupUnusable(f"{path} is no backup, or is cut off: {error}.") from error
    return Opened(manifest, archive)


def _members(archive: tarfile.TarFile, path: Path) -> dict[str, tarfile.TarInfo]:
    """List what is in the file: as many plain members as a backup has, each once, and nothing that hides its size."""
    members: dict[str, tarfile.TarInfo] = {}
    for member in archive:
        if member.type != tarfile.REGTYPE or member.issparse() or member.pax_headers:
            raise BackupUnusable(f"{path} is no backup of Mayfly: it has more than plain files.")
        if member.name in members or len(members) > len(STREAMS) + 2:
            raise BackupUnusable(f"{path} is no backup of Mayfly: it has more than its parts, or one twice.")
        members[member.name] = member
    return members


def _manifest(archive: tarfile.TarFile, path: Path) -> Manifest:
    members = _members(archive, path)
    if not {MANIFEST, CHECKSUM} <= set(members) or members[MANIFEST].size > MANIFEST_MAX_BYTES:
        raise BackupUnusable(f"{path} is no backup of Mayfly, or is cut off: it has no manifest.")
    encoded = b"".join(_read(archive, members[MANIFEST]))
    if members[CHECKSUM].size > READ_BYTES or b"".join(_read(archive, members[CHECKSUM])) != _checksum(encoded):
        raise BackupUnusable(f"{path} is damaged: {MANIFEST} is not what {CHECKSUM} says.")
    try:
        version = msgspec.json.decode(encoded, type=_Version)
        if version.format == FORMAT and version.v != VERSION:
            raise BackupUnusable(
                f"{path} has version {version.v}, and this program reads {VERSION}: "
                f"restore it with Mayfly {version.mayfly}, which made it."
            )
        manifest = msgspec.json.decode(encoded, type=Manifest)
    except msgspec.MsgspecError as error:
        raise BackupUnusable(f"{path} is no backup of Mayfly, or is damaged: {error}.") from error
    streams = [part.stream for part in manifest.parts]
    if manifest.format != FORMAT or sorted(streams) not in (sorted(STREAMS), sorted(set(STREAMS) - set(SEALED))):
        raise BackupUnusable(f"{path} is no backup of Mayfly, or not a whole one.")
    if {MANIFEST, CHECKSUM, *map(_file_of, streams)} != set(members) or any(
        part.file != _file_of(part.stream) for part in manifest.parts
    ):
        raise BackupUnusable(f"{path} is damaged: its parts are not those of its manifest.")
    return manifest


class _Version(msgspec.Struct):
    format: str
    v: int
    mayfly: str


def _check(archive: tarfile.TarFile, part: Part, path: Path) -> None:
    digest, size = hashlib.sha256(), 0
    for chunk in _read(archive, archive.getmember(part.file)):
        digest.update(chunk)
        size += len(chunk)
    if (size, digest.hexdigest()) != (part.size, part.sha256):
        raise BackupUnusable(f"{path} is damaged: {part.file} is not what the manifest says. Nothing was restored.")


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    file: IO[bytes] | None = archive.extractfile(member)
    if file is None:
        raise BackupUnusable(f"{member.name} is no plain file.")
    while chunk := file.read(READ_BYTES):
        yield chunk
