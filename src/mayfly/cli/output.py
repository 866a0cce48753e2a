"""Writing: data to stdout, talk to stderr, each at once, so that a reader who went away is noticed here."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import BinaryIO

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Unwritable(Exception):
    """stdout takes no more. The argument is the reason."""


def write(text: str) -> None:
    """Write a text and a newline to stdout."""
    write_bytes(f"{_shown(text)}\n".encode(errors="replace"))


def write_bytes(data: bytes) -> None:
    """
    Write bytes to stdout, as they are.

    Raises: BrokenPipeError when nobody reads any more; Unwritable.
    """
    if sys.stdout is None:
        raise Unwritable("stdout is closed")
    try:
        _write_all(sys.stdout.buffer, data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unwritable(error.strerror) from None


def _write_all(stream: BinaryIO, data: bytes) -> None:
    """With PYTHONUNBUFFERED set there is nothing between us and the system's write, which may take a part only."""
    rest = memoryview(data)
    while rest:
        written = stream.write(rest)
        if not written:
            raise BlockingIOError(errno.EAGAIN, "it takes nothing now, and is set not to wait")
        rest = rest[written:]


def say(text: str) -> None:
    """Write a line to stderr."""
    say_bytes(f"{_shown(text)}\n".encode(errors="replace"))


def say_bytes(data: bytes) -> None:
    """Write bytes to stderr, as they are; nobody wants to know if it is closed."""
    if sys.stderr is None:
        return
    sys.stderr.flush()
    sys.stderr.buffer.write(data)
    sys.stderr.buffer.flush()


def columns(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lay out a table: as wide as it needs to be, so that it can be cut by other programs."""
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def pairs(rows: Iterable[tuple[str, object]]) -> str:
    """Lay out names and values, one a line, without those that have none."""
    known = [(name, _cell(value)) for name, value in rows if value is not None]
    width = max(len(name) for name, _ in known)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in known)


def short_digest(digest: str | None) -> str | None:
    """Cut a digest to what tells it from others."""
    return digest and digest[: len("sha256:") + 12]


def instant(moment: datetime | None) -> str | None:
    """Write a moment to the millisecond, where the order of several matters."""
    return None if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03}Z"


def milliseconds(seconds: float | None) -> str | None:
    """Write a duration."""
    return None if seconds is None else f"{seconds * 1000:.1f} ms"


def size(count: int | None) -> str | None:
    """Write a number of bytes."""
    if count is None:
        return None
    return f"{count:,} bytes" if count < 1 << 20 else f"{count / (1 << 20):.1f} MiB"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return str(value)


def _shown(text: str) -> str:
    """Leave out control characters: a registry's words, say, must not steer the reader's terminal."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)
