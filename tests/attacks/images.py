"""The images that attack: one with the attackers' programs, and those whose layers or configuration are the attack."""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from examples.oci import Image, Layer

SOURCES: Final = (Path(__file__).parent / "attackers", Path(__file__).parent.parent / "contract" / "attackers")
ESCAPED: Final = "mayfly-escaped"
"""The name of files that would be outside of an image's tree."""

MIB: Final = 1 << 20
FILES: Final = 1_000_000
ZEROS_MIB: Final = 1024


def with_attackers(directory: Path) -> Image:
    """Compile every attacker into *directory*, statically, and put them beside busybox."""
    programs = {}
    for source in (source for sources in SOURCES for source in sorted(sources.glob("*.c"))):
        program = directory / source.stem
        subprocess.run(["cc", "-static", "-s", "-O1", "-w", "-o", program, source], check=True)
        programs[f"/bin/{source.stem}"] = program
    return Image(files=programs, cmd=["/bin/sh"])


def _link(path: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.type, member.linkname = kind, target
    return member


def _device(path: str, kind: bytes, major: int, minor: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.type, member.mode, member.devmajor, member.devminor = kind, 0o666, major, minor
    return member


def _links_out() -> Image:
    """Links that lead up and out, and one in the place of a file that Mayfly mounts."""
    up = "../" * 12
    members = [
        _link("etc/hosts", f"{up}etc/passwd"),
        _link("shadow", f"{up}etc/shadow"),
        _link("root-of-one", "/proc/1/root/etc/shadow"),
    ]
    return Image(members=members, cmd=["/bin/sh"])


def _links_for_mounts(*names: str) -> Callable[[], Image]:
    """Links in the place of directories that Mayfly mounts on."""
    return lambda: Image(members=[_link(name, "../" * 12 + "tmp") for name in names], cmd=["/bin/sh"])


def _hard_link(target: str) -> Callable[[], Image]:
    return lambda: Image(members=[_link("etc/stolen", target, tarfile.LNKTYPE)], cmd=["/bin/sh"])


def _devices() -> Image:
    members = [_device("etc/zero", tarfile.CHRTYPE, 1, 5), _device("etc/disk", tarfile.BLKTYPE, 8, 0)]
    return Image(members=[*members, _device("etc/kmsg", tarfile.CHRTYPE, 1, 11)], cmd=["/bin/sh"])


def _set_user_id() -> Image:
    busybox = Path("/bin/busybox").read_bytes()
    return Image(files={"/bin/own-id": busybox}, modes={"/bin/own-id": 0o6755}, user="app", cmd=["/bin/sh"])


def _entries_out() -> Image:
    names = (f"/../../{ESCAPED}", f"../../../../../../../../{ESCAPED}", f"/{ESCAPED}-absolute", f"bin/../../{ESCAPED}")
    through = [_link("out", "../" * 12 + "tmp"), tarfile.TarInfo(f"out/{ESCAPED}")]
    return Image(members=[*through, *map(tarfile.TarInfo, names)], cmd=["/bin/sh"])


def compressed(blocks: Iterator[bytes]) -> Layer:
    """Gzip a tar as it is made, since not all of it need ever be in memory."""
    packer, digest, content = zlib.compressobj(1, zlib.DEFLATED, 31), hashlib.sha256(), bytearray()
    for block in blocks:
        digest.update(block)
        content += packer.compress(block)
    return Layer(bytes(content + packer.flush()), f"sha256:{digest.hexdigest()}")


def many_files(count: int) -> Iterator[bytes]:
    """A tar of so many empty files: one header again and again, with another name and so another checksum."""
    header = bytearray(tarfile.TarInfo("0000000").tobuf(tarfile.USTAR_FORMAT)[:512])
    base = int(header[148:154], 8) - 7 * ord("0")
    head, middle, tail = b"", bytes(header[7:148]), bytes(header[154:])
    for first in range(0, count, 4096):
        yield b"".join(
            b"%b%07d%b%06o%b" % (head, number, middle, base + sum(b"%07d" % number), tail)
            for number in range(first, min(first + 4096, count))
        )
    yield bytes(1024)


def zeros(mib: int) -> Iterator[bytes]:
    """A tar of one file that is nothing."""
    member = tarfile.TarInfo("zeros")
    member.size = mib * MIB
    yield member.tobuf(tarfile.GNU_FORMAT)
    block = bytes(MIB)
    for _ in range(mib):
        yield block
    yield bytes(1024)


HOSTILE: Final[Mapping[str, Callable[[], Image]]] = {
    "links-out": _links_out,
    "proc-is-a-link": _links_for_mounts("proc"),
    "dev-is-a-link": _links_for_mounts("dev"),
    "hard-link-up": _hard_link("../" * 12 + "etc/shadow"),
    "hard-link-absolute": _hard_link("/etc/shadow"),
    "devices": _devices,
    "set-user-id": _set_user_id,
    "entries-out": _entries_out,
    "huge-environment": lambda: Image(env={"HUGE": "x" * 200_000}, cmd=["/bin/sh"]),
    "huge-command": lambda: Image(cmd=["/bin/echo", *(["word"] * 50_000)]),
    "many-files": lambda: Image(layer=compressed(many_files(FILES)), cmd=["/bin/sh"]),
    "zeros": lambda: Image(layer=compressed(zeros(ZEROS_MIB)), cmd=["/bin/sh"]),
    "no-entrypoint": lambda: Image(entrypoint=["/opt/nothing"]),
    "entrypoint-not-executable": lambda: Image(files={"/opt/text": "no program\n"}, entrypoint=["/opt/text"]),
    "unknown-user": lambda: Image(user="nobody-of-this-name", cmd=["/bin/sh"]),
}
