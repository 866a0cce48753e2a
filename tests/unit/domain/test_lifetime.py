"""However somebody's calls come, what he has is bounded, and until he has much nothing is shortened."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly.domain.lifetime import Lifetime

pytestmark = pytest.mark.F4

MOST, LONGEST_S, SHORTEST_S = 8, 86_400.0, 600.0
LIFETIME = Lifetime(longest_s=LONGEST_S, shortest_s=SHORTEST_S, most=MOST)


@given(st.lists(st.sampled_from([0.0, 1.0, 30.0, 600.0, 3600.0, 40_000.0]), max_size=200))
def test_one_user_has_no_more_than_the_most_and_what_is_new(pauses: list[float]) -> None:
    """Whatever the pauses between his calls are: the most, and what he made in the shortest time."""
    now, ends, young = 0.0, list[float](), list[float]()
    for pause in pauses:
        now += pause
        while ends and ends[0] <= now:
            heapq.heappop(ends)
        young = [moment for moment in young if moment + SHORTEST_S > now]
        keep_s = LIFETIME.of_next(len(ends))
        assert SHORTEST_S <= keep_s <= LONGEST_S
        heapq.heappush(ends, now + keep_s)
        young.append(now)
        assert len(ends) <= MOST + len(young)


def test_up_to_half_nothing_is_shortened() -> None:
    """And from there on it sinks evenly."""
    assert [LIFETIME.of_next(present) for present in (0, 4, 6, 8, 10_000)] == [
        LONGEST_S,
        LONGEST_S,
        (LONGEST_S + SHORTEST_S) / 2,
        SHORTEST_S,
        SHORTEST_S,
    ]
    assert [LIFETIME.is_short(present) for present in (4, 5)] == [False, True]


def test_the_shortest_time_lengthens_nothing() -> None:
    """Where things are not kept as long as that, they are kept as long as they are."""
    assert Lifetime(longest_s=60, shortest_s=600, most=10).of_next(1000) == 60
