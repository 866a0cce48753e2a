"""
The three pipes of a function, each handled so that no function can hang or flood the worker.

Always pipes, never /dev/null: a runtime gives the owner of the container's root the files it is started with, and
that must not be the host's /dev/null.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from mayfly.domain.limits import RESULT_MAX_BYTES, STDERR_MAX_BYTES

CHUNK_BYTES = 65_536
TRUNCATION_MARK = b"[mayfly: the beginning of this log was cut]\n"
_CONTINUATION = range(0x80, 0xC0)


class Result:
    """Collects stdout, up to one byte more than a result may have."""

    def __init__(self, on_too_large: Callable[[], None]) -> None:
        self._on_too_large = on_too_large
        self.content = bytearray()

    @property
    def is_too_large(self) -> bool:
        """More has been written than a result may hold."""
        return len(self.content) > RESULT_MAX_BYTES

    def __call__(self, chunk: bytes) -> None:
        """Take what was read; what exceeds is dropped, but still read, so that killing is the only thing needed."""
        if self.is_too_large:
            return
        self.content += chunk[: RESULT_MAX_BYTES + 1 - len(self.content)]
        if self.is_too_large:
            self._on_too_large()


class Tail:
    """Keeps the end of stderr, however much is written."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self.is_truncated = False

    def __call__(self, chunk: bytes) -> None:
        """Take what was read."""
        self._kept += chunk
        if len(self._kept) > 2 * STDERR_MAX_BYTES:  # cutting at each chunk would copy the whole each time
            self._cut(STDERR_MAX_BYTES)

    def content(self) -> bytes:
        """What is kept: all, or a mark and the end, together at most STDERR_MAX_BYTES; never half a character."""
        if not self.is_truncated and len(self._kept) <= STDERR_MAX_BYTES:
            return bytes(self._kept)
        self._cut(STDERR_MAX_BYTES - len(TRUNCATION_MARK))
        start = next((i for i, byte in enumerate(self._kept[:4]) if byte not in _CONTINUATION), 0)
        return TRUNCATION_MARK + self._kept[start:]

    def _cut(self, size: int) -> None:
        self.is_truncated = True
        del self._kept[: max(0, len(self._kept) - size)]


class Reader:
    """Reads our end of a pipe whenever there is something."""

    def __init__(self, descriptor: int, take: Callable[[bytes], None]) -> None:
        self._descriptor = descriptor
        self.take = take
        self._loop: asyncio.AbstractEventLoop | None = None
        self.first_byte_at: float | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        loop.add_reader(self._descriptor, self._ready)

    def drain(self) -> None:
        """Read what is in the pipe now, to the end."""
        while self._read():
            pass

    def close(self) -> None:
        """Stop reading. Idempotent."""
        if self._descriptor >= 0:
            if self._loop is not None:
                self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _ready(self) -> None:
        if self._read() == 0 and self._loop is not None:
            self._loop.remove_reader(self._descriptor)

    def _read(self) -> int | None:
        """Read once; 0 at the end of file, None when there is nothing for now."""
        try:
            chunk = os.read(self._descriptor, CHUNK_BYTES)
        except BlockingIOError:
            return None
        if chunk and self._loop is not None and self.first_byte_at is None:
            self.first_byte_at = self._loop.time()
        self.take(chunk)
        return len(chunk)


class Writer:
    """Writes the parameter into stdin at the function's pace, then closes it. A function need not read it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop: asyncio.AbstractEventLoop | None = None
        self._left = memoryview(b"")

    def start(self, loop: asyncio.AbstractEventLoop, content: bytes) -> None:
        self._left = memoryview(content)
        self._write()
        if self._descriptor >= 0:
            self._loop = loop
            loop.add_writer(self._descriptor, self._write)

    def close(self) -> None:
        """Stop writing: the function sees the end of its parameter. Idempotent."""
        if self._descriptor >= 0:
            if self._loop is not None:
                self._loop.remove_writer(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self) -> None:
        try:
            while self._left:
                self._left = self._left[os.write(self._descriptor, self._left[:CHUNK_BYTES]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._left = memoryview(b"")  # it does not want to read it, which is its right
        self.close()
