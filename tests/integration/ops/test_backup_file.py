"""Which files are taken for a backup: only whole ones of ours; all others are refused before anything is removed."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import json
import os
import resource
import subprocess
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from mayfly.bus.connection import Bus
from mayfly.domain.errors import PreconditionFailed
from mayfly.ops.backup import CHECKSUM, MANIFEST, STREAMS, BackupUnusable, backup, opened, restore
from tests.support.backup import fill
from tests.support.bus import installation

pytestmark = [pytest.mark.A4, pytest.mark.D7]

Members = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A good backup."""
    file = tmp_path_factory.mktemp("made") / "mayfly.tar"

    async def make() -> bytes:
        async with installation() as nats, nats.connect("admin") as bus:
            await fill(bus)
            await backup(bus, file)
        return file.read_bytes()

    return asyncio.run(make())


@pytest.fixture
async def bus() -> AsyncIterator[Bus]:
    """An installation with a user in it, which must stay."""
    async with installation() as nats, nats.connect("admin") as bus:
        yield bus


def members_of(backup: bytes) -> Members:
    """Take a tar apart."""
    with tarfile.open(fileobj=io.BytesIO(backup)) as archive:
        return [(member, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]


def joined(members: Members) -> bytes:
    """Put a tar together."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for member, content in members:
            if member.isreg():
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return written.getvalue()


def with_manifest(backup: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Change the manifest, with a right checksum."""
    members = {member.name: (member, content) for member, content in members_of(backup)}
    manifest = json.loads(members[MANIFEST][1])
    change(manifest)
    encoded = json.dumps(manifest).encode()
    members[MANIFEST] = (members[MANIFEST][0], encoded)
    members[CHECKSUM] = (members[CHECKSUM][0], f"{hashlib.sha256(encoded).hexdigest()}  {MANIFEST}\n".encode())
    return joined(list(members.values()))


def with_more(
    backup: bytes, name: str, kind: bytes = tarfile.REGTYPE, linkname: str = "", content: bytes = b""
) -> bytes:
    """Add a member."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, linkname
    return joined([*members_of(backup), (member, content)])


def without(backup: bytes, name: str) -> bytes:
    """Leave a member out."""
    return joined([one for one in members_of(backup) if one[0].name != name])


def renamed(backup: bytes, old: str, new: str) -> bytes:
    """Give a member another name."""
    members = members_of(backup)
    for member, _ in members:
        member.name = new if member.name == old else member.name
    return joined(members)


def flipped(backup: bytes, name: str) -> bytes:
    """Change one bit in the middle of a member."""
    members = members_of(backup)
    return joined(
        [
            (member, content if member.name != name else content[:50] + bytes([content[50] ^ 1]) + content[51:])
            for member, content in members
        ]
    )


def sparse(backup: bytes) -> bytes:
    """Make a member of a terabyte of nothing."""
    member = tarfile.TarInfo("KV_users.snapshot")
    member.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000000000\0" * 2
    header[483:495] = b"77777777777\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + without(backup, "KV_users.snapshot")


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "is no backup"),
    "no tar": (lambda _: b"%PDF-1.4" * 1000, "is no backup"),
    "compressed": (lambda backup: b"\x1f\x8b\x08" + backup, "is no backup"),
    "cut in half": (lambda backup: backup[: len(backup) // 2], "is no backup|is cut off"),
    "cut in a member": (lambda backup: backup[:700], "is no backup|is cut off"),
    "no manifest": (lambda backup: without(backup, MANIFEST), "no manifest"),
    "no checksum": (lambda backup: without(backup, CHECKSUM), "no manifest"),
    "a bit of a part": (lambda backup: flipped(backup, "KV_users.snapshot"), "is damaged: KV_users.snapshot"),
    "a bit of the manifest": (lambda backup: flipped(backup, MANIFEST), "is damaged: manifest.json"),
    "a bit of the checksum": (lambda backup: flipped(backup, CHECKSUM), "is damaged: manifest.json"),
    "a part is missing": (lambda backup: without(backup, "KV_users.snapshot"), "its parts are not those"),
    "a part too many": (lambda backup: with_more(backup, "KV_more.snapshot"), "its parts are not those"),
    "a part twice": (lambda backup: with_more(backup, "KV_users.snapshot", content=b"x"), "or one twice"),
    "the manifest twice": (lambda backup: with_more(backup, MANIFEST, content=b"{}"), "or one twice"),
    "a link": (lambda backup: with_more(backup, "x", tarfile.SYMTYPE, "/etc/shadow"), "more than plain files"),
    "a hard link": (lambda backup: with_more(backup, "x", tarfile.LNKTYPE, MANIFEST), "more than plain files"),
    "a directory": (lambda backup: with_more(backup, "x", tarfile.DIRTYPE), "more than plain files"),
    "a device": (lambda backup: with_more(backup, "x", tarfile.CHRTYPE), "more than plain files"),
    "a pipe": (lambda backup: with_more(backup, "x", tarfile.FIFOTYPE), "more than plain files"),
    "a sparse file": (sparse, "more than plain files"),
    "an absolute name": (lambda backup: renamed(backup, "KV_users.snapshot", "/etc/passwd"), "its parts are not those"),
    "a name outside": (lambda backup: renamed(backup, "KV_users.snapshot", "../../x"), "its parts are not those"),
    "a huge manifest": (
        lambda backup: with_manifest(backup, lambda manifest: manifest.update(mayfly="x" * (2 << 20))),
        "no manifest",
    ),
    "thousands of members": (
        lambda backup: joined([*members_of(backup), *((tarfile.TarInfo(f"x{number}"), b"") for number in range(5000))]),
        "more than its parts",
    ),
    "another version": (
        lambda backup: with_manifest(backup, lambda manifest: manifest.update(v=2, mayfly="9.1.0")),
        r"has version 2, and this program reads 1: restore it with Mayfly 9\.1\.0",
    ),
    "another format": (lambda backup: with_manifest(backup, lambda manifest: manifest.update(format="x")), "no backup"),
    "an unknown field": (lambda backup: with_manifest(backup, lambda manifest: manifest.update(x=1)), "is damaged"),
    "a part of another stream": (
        lambda backup: with_manifest(backup, lambda manifest: manifest["parts"][0].update(stream="ACT")),
        "not a whole one",
    ),
    "a part in another's file": (
        lambda backup: with_manifest(
            backup, lambda manifest: manifest["parts"][0].update(file=manifest["parts"][1]["file"])
        ),
        "its parts are not those",
    ),
    "a size that is not": (
        lambda backup: with_manifest(backup, lambda manifest: manifest["parts"][0].update(size=1)),
        "is damaged",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_what_is_no_whole_backup_is_refused(made: bytes, tmp_path: Path, damage: str) -> None:
    """Each is named, in one sentence, without a server having been asked for anything."""
    change, said = DAMAGES[damage]
    file = tmp_path / "mayfly.tar"
    file.write_bytes(change(made))

    with pytest.raises(BackupUnusable, match=said):
        async with opened(file):
            pytest.fail("taken")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
async def test_a_name_of_gigabytes_is_not_read(tmp_path: Path, kind: bytes) -> None:
    """A header may claim that the next name, or its attributes, have five gigabytes, and a sparse file has them."""
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 5 << 30
    file = tmp_path / "mayfly.tar"
    with file.open("wb") as written:
        written.write(header.tobuf(tarfile.GNU_FORMAT))
        written.truncate(6 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(BackupUnusable, match="it has more than plain files"):
        async with opened(file):
            pytest.fail("taken")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


async def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Nobody writes to it, and no signal would end the waiting."""
    os.mkfifo(tmp_path / "mayfly.tar")

    with pytest.raises(BackupUnusable, match="no plain file"):
        async with opened(tmp_path / "mayfly.tar"):
            pytest.fail("taken")


async def test_a_disk_without_links_takes_a_backup(bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAT has none; a file of that name is not overwritten there either."""

    def none(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    await backup(bus, tmp_path / "mayfly.tar")

    async with opened(tmp_path / "mayfly.tar"):
        assert [path.name for path in tmp_path.iterdir()] == ["mayfly.tar"]
    assert (tmp_path / "mayfly.tar").stat().st_mode & 0o777 == 0o600


async def test_a_refused_file_removes_nothing(made: bytes, bus: Bus, tmp_path: Path) -> None:
    """The file is checked to its end before the first stream is touched, --replace or not."""
    await fill(bus)
    before = {info.config.name: info.state for info in await bus.js.streams_info()}
    file = tmp_path / "mayfly.tar"
    file.write_bytes(flipped(made, "AUDIT.snapshot"))

    with pytest.raises(BackupUnusable):
        await restore(bus, file, replace_all=True)

    assert {info.config.name: info.state for info in await bus.js.streams_info()} == before


async def test_a_backup_of_a_newer_server_is_refused(made: bytes, bus: Bus, tmp_path: Path) -> None:
    """An older nats-server may not read the archive of a newer one; nothing is removed for it."""
    await fill(bus)
    file = tmp_path / "mayfly.tar"
    file.write_bytes(with_manifest(made, lambda manifest: manifest.update(nats="2.99.0")))

    with pytest.raises(PreconditionFailed, match=r"made on nats-server 2\.99\.0"):
        await restore(bus, file, replace_all=True)

    assert (await bus.js.stream_info("KV_users")).state.messages == 1


async def test_a_whole_backup_is_taken(made: bytes, tmp_path: Path) -> None:
    """The positive control: also when it was taken apart and put together again; and the manifest says what it is."""
    file = tmp_path / "mayfly.tar"
    file.write_bytes(joined(members_of(made)))

    async with opened(file) as found:
        assert found.manifest.format == "mayfly-backup"
        assert [part.stream for part in found.manifest.parts] == list(STREAMS)
        assert found.manifest.nats.startswith("2.")
        assert sum(part.messages for part in found.manifest.parts) == 7


def test_other_programs_can_check_it(made: bytes, tmp_path: Path) -> None:
    """`tar` unpacks it and `sha256sum --check` agrees, so that a copy can be tried without Mayfly."""
    (tmp_path / "mayfly.tar").write_bytes(made)
    subprocess.run(["tar", "xf", "mayfly.tar"], cwd=tmp_path, check=True)

    said = subprocess.run(["sha256sum", "--check", CHECKSUM], cwd=tmp_path, check=True, capture_output=True, text=True)

    assert said.stdout == f"{MANIFEST}: OK\n"
