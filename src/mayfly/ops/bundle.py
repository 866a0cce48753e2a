"""
One role's secrets as one line of text, for platforms that hand secrets over in environment variables only.

A bundle is JSON (`{"v": 1, "files": {name: content}}`), compressed, in base64. What `unpack` accepts is narrow: plain
names at most one directory deep, text, and no more of it than any role has. Rows: D5, D7.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from itertools import islice
from pathlib import Path

import msgspec

from mayfly.ops.certificates import write_secret
from mayfly.ops.folder import SecretsUnusable, read_plain

VARIABLE = "MAYFLY_SECRETS_BUNDLE"
VERSION = 1
FILES_AT_MOST = 64
MOST_BYTES = 256 * 1024
BUNDLE_MAX_CHARACTERS = 128 * 1024 - 64  # of one variable, on Linux
NAME = re.compile(r"(?:[a-z0-9][a-z0-9._-]{0,63}/)?[a-z0-9][a-z0-9._-]{0,63}")


class BundleUnusable(SecretsUnusable):
    """A directory cannot be bundled, or a bundle not unpacked."""


class _Bundle(msgspec.Struct, forbid_unknown_fields=True):
    v: int
    files: dict[str, str]


def bundle(directory: Path) -> str:
    """
    Write the files of one role's directory as one line.

    Raises: BundleUnusable, also for the directory that has the authority's key, which belongs nowhere else.
    """
    if (directory / "ca.key").exists():
        raise BundleUnusable(f"{directory} has the certificate authority's key, which no role may have.")
    files = {str(path.relative_to(directory)): _text(path) for path in _paths(directory)}
    if not files:
        raise BundleUnusable(f"{directory} has no files: name one role's directory, such as DIR/api.")
    text = base64.b64encode(zlib.compress(msgspec.json.encode(_Bundle(VERSION, files)), 9)).decode()
    if len(text) > BUNDLE_MAX_CHARACTERS:
        raise BundleUnusable(f"{directory} is {len(text)} characters as a bundle; {BUNDLE_MAX_CHARACTERS} fit.")
    return text


def _paths(directory: Path) -> list[Path]:
    """List the files, no more than any role has; of what is named by mistake there may be millions."""
    found = (path for path in directory.rglob("*") if not path.name.startswith("."))
    paths = sorted(path for path in islice(found, FILES_AT_MOST + 1) if path.is_symlink() or not path.is_dir())
    if len(paths) > FILES_AT_MOST:
        raise BundleUnusable(
            f"{directory} has more than {FILES_AT_MOST} files: name one role's directory, such as DIR/api."
        )
    for path in paths:
        _check_name(str(path.relative_to(directory)))
    return paths


def _text(path: Path) -> str:
    try:
        return (read_plain(path) or b"").decode()
    except UnicodeDecodeError:
        raise BundleUnusable(f"{path} is not text, so it cannot be in a bundle.") from None


def unpack(text: str, directory: Path) -> list[str]:
    """
    Write the files of a bundle, 0400, into *directory*, which is made 0700; return their names.

    Everything is checked before anything is written.

    Raises: BundleUnusable; OSError.
    """
    files = _read(text)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if path.parent.is_symlink():
            raise BundleUnusable(f"{path.parent} is a symbolic link: secrets are written into real directories only.")
        write_secret(path, content.encode(), mode=0o400)
    return list(files)


def _read(text: str) -> dict[str, str]:
    try:
        inflate = zlib.decompressobj()
        data = inflate.decompress(base64.b64decode(text.strip(), validate=True), MOST_BYTES)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise BundleUnusable(f"{VARIABLE} is not what `mayfly secrets bundle` prints: {error}.") from None
    if not inflate.eof or inflate.unused_data:
        raise BundleUnusable(f"{VARIABLE} is cut off, or holds more than {MOST_BYTES} bytes.")
    try:
        read = msgspec.json.decode(data, type=_Bundle)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleUnusable(f"{VARIABLE} is not what `mayfly secrets bundle` prints: {error}.") from None
    if read.v != VERSION:
        raise BundleUnusable(f"{VARIABLE} has version {read.v}; this program reads {VERSION}: make the bundle again.")
    for name in read.files:
        _check_name(name)
    return read.files


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise BundleUnusable(f"{name!r} cannot be a file's name in a bundle: small letters, digits, `.`, `_`, `-`.")
