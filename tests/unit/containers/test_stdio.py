"""What is kept of a function's output."""

from __future__ import annotations

import asyncio
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly.containers.stdio import TRUNCATION_MARK, Reader, Result, Tail, Writer
from mayfly.domain.limits import RESULT_MAX_BYTES, STDERR_MAX_BYTES


def test_a_result_is_told_once_that_it_is_too_large() -> None:
    """At the limit nothing happens; one byte more calls, once; what comes after is dropped."""
    calls: list[None] = []
    result = Result(lambda: calls.append(None))
    result(b"x" * RESULT_MAX_BYTES)
    assert not result.is_too_large
    assert calls == []
    for _ in range(3):
        result(b"y" * 100_000)
    assert result.is_too_large
    assert len(calls) == 1
    assert len(result.content) == RESULT_MAX_BYTES + 1


def test_a_result_is_handed_out_and_not_kept() -> None:
    """All of it, once; and nobody is told any more, as whoever was told has this in turn."""
    calls: list[None] = []
    result = Result(lambda: calls.append(None))
    result(b"x" * RESULT_MAX_BYTES)
    assert result.hand_out() == b"x" * RESULT_MAX_BYTES
    assert result.hand_out() == b""
    result(b"y" * (RESULT_MAX_BYTES + 1))
    assert calls == []


@given(st.lists(st.integers(0, 200_000), max_size=12))
def test_the_tail_is_the_end_of_what_was_written(sizes: list[int]) -> None:
    """All of a short log; of a long one a mark and its end, in STDERR_MAX_BYTES."""
    tail, written = Tail(), b""
    for number, size in enumerate(sizes):
        chunk = bytes([65 + number]) * size
        written += chunk
        tail(chunk)
    content = tail.content()
    assert tail.is_truncated is (len(written) > STDERR_MAX_BYTES)
    if tail.is_truncated:
        assert content == TRUNCATION_MARK + written[-(STDERR_MAX_BYTES - len(TRUNCATION_MARK)) :]
    else:
        assert content == written


@pytest.mark.parametrize("shift", range(4))
def test_the_tail_never_begins_with_half_a_character(shift: int) -> None:
    """Cut wherever, it is text if what was written is."""
    tail = Tail()
    tail(b"x" * shift + "\N{SNOWMAN}\N{GRINNING FACE}".encode() * 50_000)
    tail.content().decode()


async def test_a_reader_takes_all_and_notes_the_first_byte() -> None:
    """Read as it comes, drained to the end, closed twice without harm."""
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    taken = bytearray()
    reader = Reader(ours, taken.extend)
    loop = asyncio.get_running_loop()
    reader.start(loop)
    os.write(theirs, b"one")
    while not taken:
        await asyncio.sleep(0)
    assert reader.first_byte_at is not None
    os.write(theirs, b"two")
    os.close(theirs)
    reader.drain()
    assert taken == b"onetwo"
    reader.close()
    reader.close()


async def test_a_writer_writes_more_than_a_pipe_holds_then_ends() -> None:
    """A megabyte arrives, and then the end of file; the writer keeps nothing of it."""
    theirs, ours = os.pipe()
    os.set_blocking(ours, False)
    content = bytearray(os.urandom(1 << 20))
    writer = Writer(ours)
    writer.start(asyncio.get_running_loop(), content)

    def read_all() -> bytes:
        with open(theirs, "rb") as pipe:  # noqa: PTH123 - a descriptor
            return pipe.read()

    assert await asyncio.to_thread(read_all) == content
    writer.close()
    content.clear()  # a BufferError if there were still a view of it


async def test_a_writer_minds_no_reader_that_leaves() -> None:
    """A closed pipe ends the writing, without an error."""
    theirs, ours = os.pipe()
    os.set_blocking(ours, False)
    writer = Writer(ours)
    writer.start(asyncio.get_running_loop(), b"x" * (1 << 20))
    os.close(theirs)
    await asyncio.sleep(0.05)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(ours)
