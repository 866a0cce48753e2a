"""
The three pipes of a function, each handled so that no function can hang or flood the worker, and the socket beside them
by which whoever holds the function is spoken to.

Always pipes, never /dev/null: a runtime gives the owner of the container's root the files it is started with, and
that must not be the host's /dev/null.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from mayfly.domain.limits import RESULT_MAX_BYTES, STDERR_MAX_BYTES

CHUNK_BYTES = 65_536
TRUNCATION_MARK = b"[mayfly: the beginning of this log was cut]\n"
SIGNALS = [int(number) for number in signal.valid_signals()]
"""All are set to their defaults for who is started: Python ignores some, and so may who started us."""

_CONTINUATION = range(0x80, 0xC0)


def _nobody_minds() -> None:
    pass


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

    def hand_out(self) -> bytes:
        """
        Return all of it, at the end. It is not kept here, nor is whoever was to be told: a container, which has this in
        turn. Such a circle, with parameter and result, would lie about until Python looks for circles.
        """
        content, self.content = bytes(self.content), bytearray()
        self._on_too_large = _nobody_minds
        return content


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
            self.first_byte_at = time.monotonic()
        self.take(chunk)
        return len(chunk)


class Writer:
    """Writes the parameter into stdin at the function's pace, then closes it. A function need not read it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop: asyncio.AbstractEventLoop | None = None
        self._left = memoryview(b"")

    def start(self, loop: asyncio.AbstractEventLoop, content: bytes | bytearray) -> None:
        self._left = memoryview(content)
        self._write()
        if self._descriptor >= 0:
            self._loop = loop
            loop.add_writer(self._descriptor, self._write)

    def close(self) -> None:
        """Stop writing: the function sees the end of its parameter, which is not kept. Idempotent."""
        self._left = memoryview(b"")  # also what is left of it when nothing is: an empty view holds the whole
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


class Stdio:
    """Our ends of a function's three pipes, and of the control socket of whoever holds it."""

    def __init__(self, *, on_too_large: Callable[[], None]) -> None:
        """
        Open them; *on_too_large* is called when the result exceeds its limit.

        Raises: OSError.
        """
        self._loop = asyncio.get_running_loop()
        self.result, self.tail = Result(on_too_large), Tail()
        opened: list[int] = []
        try:
            for _ in range(3):
                opened.extend(os.pipe2(os.O_CLOEXEC))
            stdin, stdin_ours, stdout_ours, stdout, stderr_ours, stderr = opened
            for descriptor in (stdin_ours, stdout_ours, stderr_ours):
                os.set_blocking(descriptor, False)
            self.control, theirs = socket.socketpair()
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        self.control.setblocking(False)
        self._stdin = Writer(stdin_ours)
        self._stdout, self._stderr = Reader(stdout_ours, self.result), Reader(stderr_ours, self.tail)
        self._theirs: tuple[int, ...] = (stdin, stdout, stderr, theirs.detach())

    def spawn(self, program: Path, command: list[str], env: dict[str, str]) -> int:
        """
        Start a program, once, with the other ends as its descriptors 0 to 3 and nothing else of ours, in a process
        group of its own; return its pid.

        It is a child of the calling thread, whose end may be a death signal to it.

        Raises: OSError.
        """
        try:
            return os.posix_spawn(
                program,
                command,
                env,
                file_actions=[(os.POSIX_SPAWN_DUP2, each, number) for number, each in enumerate(self._theirs)],
                setsigdef=SIGNALS,
                setsigmask=[],
                setpgroup=0,
            )
        finally:
            self._close_theirs()

    async def hand_over(self, message: bytes, stdin: bytes) -> None:
        """
        Begin: read what is written, write the parameter, and send the one message.

        Raises: OSError when nobody is there to take it.
        """
        self._stdout.start(self._loop)
        self._stderr.start(self._loop)
        self._stdin.start(self._loop, stdin)
        await self._loop.sock_sendall(self.control, message)

    def drain(self) -> None:
        """Read what is in the pipes now, to the end."""
        self._stdout.drain()
        self._stderr.drain()

    def words(self) -> str:
        """What was written to stderr so far, by who should have held the function."""
        self._stderr.drain()
        return self.tail.content().decode(errors="replace").strip()

    def forget_words(self) -> None:
        """Drop it: the function has not begun."""
        self._stderr.drain()
        self.tail = self._stderr.take = Tail()

    @property
    def first_byte_at(self) -> float | None:
        """When the function wrote for the first time, by the monotonic clock; None if it has not."""
        return min(
            (at for at in (self._stdout.first_byte_at, self._stderr.first_byte_at) if at is not None), default=None
        )

    def close(self) -> None:
        """Close our ends, and the others if nothing was started. Idempotent."""
        self._close_theirs()
        for end in (self._stdin, self._stdout, self._stderr, self.control):
            end.close()

    def _close_theirs(self) -> None:
        for each in self._theirs:
            os.close(each)
        self._theirs = ()
