"""What blocks of calls come to."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import Block, Figures, percentile
from bench.turns import Work, in_turns, together


def test_percentiles_are_values_that_were_measured() -> None:
    """Nearest rank: of 100 values the 95th and the 99th, of few the largest."""
    values = [float(number) for number in range(100, 0, -1)]

    assert [percentile(values, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3
    assert percentile([7.0], 0.01) == 7


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_at_least_that_share_is_not_above_a_percentile(values: list[float], share: float) -> None:
    """And less than that share would not be, below it."""
    found = percentile(values, share)

    assert sum(each <= found for each in values) >= share * len(values) - 1e-9
    assert sum(each < found for each in values) < share * len(values) + 1e-9


def test_one_bad_round_does_not_make_the_p50() -> None:
    """It is the median of the rounds' medians; p99 and the number of calls are those of all calls."""
    good, bad = Block([1.0] * 10, 0.01), Block([50.0] * 1000, 50.0)
    found = Figures.of([good, bad, good])

    assert (found.p50_ms, found.p99_ms, found.calls) == (1, 50, 1020)
    assert found.rounds_p50_ms == [1, 50, 1]
    assert found.per_s == 1000


def test_processor_time_is_that_of_all_calls() -> None:
    """A round with many calls weighs as much as they do; who was not there in a round used nothing in it."""
    found = Figures.of([Block([1.0] * 10, 1, {"api": 0.05}), Block([1.0] * 40, 1, {"api": 0.05, "nats": 0.1})])

    assert found.cpu_ms == {"api": pytest.approx(2), "nats": pytest.approx(2)}


async def test_callers_call_together_and_each_again() -> None:
    """There are as many at once as asked for, those that have begun are brought to their end, and time is used."""
    running, most, ended = 0, 0, 0

    async def call() -> None:
        nonlocal running, most, ended
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        ended += 1

    used = iter((1.0, 4.0))
    found = await together([call] * 4, 0.05, {"client": lambda: next(used)})

    assert (most, running, len(found.times_ms)) == (4, 0, ended)
    assert ended >= 8
    assert min(found.times_ms) >= 9
    assert found.seconds >= 0.05
    assert found.cpu_s == {"client": 3}


async def test_a_call_that_fails_ends_the_run() -> None:
    """An error is no figure: it goes up to whoever measures."""

    async def call() -> None:
        raise RuntimeError("503")

    with pytest.raises(ExceptionGroup) as caught:
        await together([call], 0.1, {})
    assert caught.group_contains(RuntimeError, match="503")


async def test_contenders_take_turns() -> None:
    """Each has one block a round, after a first one that does not count, in an order that the seed gives."""

    async def order(seed: int) -> list[str]:
        told: list[str] = []

        def work(name: str) -> Work:
            async def block(seconds: float) -> Block:
                told.append(f"{name}{seconds:g}")
                return Block([seconds], 1)

            return block

        works = {name: work(name) for name in "abcd"}
        random = Random(seed)  # noqa: S311 - an order, no secret
        found = await in_turns(works, rounds=3, seconds=2, random=random)
        assert {name: each.calls for name, each in found.items()} == dict.fromkeys("abcd", 3)
        return told

    told = await order(1)
    assert told[:4] == ["a0", "b0", "c0", "d0"]
    assert all(sorted(told[at : at + 4]) == ["a2", "b2", "c2", "d2"] for at in (4, 8, 12))
    assert told == await order(1)
    assert told != await order(2)
