"""Adding up what a user has, and what of it has to go: the sums alone, without a stream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly.bus.retention import Kept
from mayfly.domain.limits import MIB
from mayfly.services.retention import BESIDE_BODY_BYTES, CHUNK_BYTES, Tally

pytestmark = [pytest.mark.A3, pytest.mark.F4]

MAX = 4 * MIB
LARGEST = 5 * MIB // 4


def kept(seq: int, size: int) -> Kept:
    """A response."""
    return Kept("user", "instance", seq, size)


@given(st.lists(st.integers(0, LARGEST), max_size=60))
def test_no_more_is_left_than_may_be_and_the_newest_is(sizes: list[int]) -> None:
    """Whatever comes, what is left after each is within the bound, the newest is part of it, and what goes is older
    than what stays."""
    tally, stored = Tally(), dict[int, int]()
    for seq, size in enumerate(sizes, start=1):
        tally.add(kept(seq, size))
        stored[seq] = size + BESIDE_BODY_BYTES
        up_to = tally.beyond(MAX)
        assert (up_to is None) == (sum(stored.values()) <= MAX)
        if up_to is not None:
            tally.dropped(up_to)
            stored = {each: size for each, size in stored.items() if each > up_to}
        assert tally.size == sum(stored.values()) <= MAX
        assert seq in stored


@given(st.lists(st.integers(0, LARGEST), max_size=40), st.integers(0, 40))
def test_the_books_go_on_where_they_were_written(sizes: list[int], written_after: int) -> None:
    """Who begins with the books, and hears again what they have and what came since, has the same sum."""
    tally, books = Tally(), Tally().books()
    for seq, size in enumerate(sizes, start=1):
        tally.add(kept(seq, size))
        if seq == written_after:
            books = Tally(tally.books().chunks).books()
    books_have = books.chunks[-1].last_seq if books.chunks else 0
    after = Tally([type(chunk)(chunk.last_seq, chunk.size) for chunk in books.chunks])
    for seq, size in enumerate(sizes, start=1):
        if seq > books_have or seq <= written_after:
            after.add(kept(seq, size))
    assert after.size == tally.size


def test_a_million_small_ones_take_little_memory() -> None:
    """What is remembered grows with the bytes and not with the number: one pair for each 256 KiB."""
    tally = Tally()
    for seq in range(1, 1_000_001):
        tally.add(kept(seq, 1))
    assert len(tally.books().chunks) <= tally.size // CHUNK_BYTES + 1 < 1300
