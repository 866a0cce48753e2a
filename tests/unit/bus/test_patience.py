"""Asking again where a limit has refused, for as long as a setting says and no shorter."""

from __future__ import annotations

import math
import time

import pytest

from mayfly.bus.patience import insistently


class Full(Exception):
    """The refusal."""


class Limit:
    """Refuses until it is free, by the clock; knows when it was asked."""

    def __init__(self, *, free_at: float = math.inf) -> None:
        self.asked_at: list[float] = []
        self.free_at = free_at

    async def ask(self) -> str:
        """Ask once."""
        self.asked_at.append(time.monotonic())
        if time.monotonic() < self.free_at:
            raise Full
        return "admitted"


async def test_a_refusal_is_asked_again_until_the_time_is_over() -> None:
    """The last time is when all of it is over: not earlier because the next pause would be too long."""
    limit, began = Limit(), time.monotonic()

    with pytest.raises(Full):
        await insistently(limit.ask, refusal=Full, for_s=0.3)

    assert len(limit.asked_at) > 1
    assert limit.asked_at[-1] >= began + 0.3


async def test_what_frees_late_is_taken() -> None:
    """A place that comes free just before the end is not missed."""
    limit = Limit(free_at=time.monotonic() + 0.2)  # were the last question asked at 155 ms, it were missed

    assert await insistently(limit.ask, refusal=Full, for_s=0.3) == "admitted"


async def test_without_time_it_is_asked_once() -> None:
    """0 refuses at once."""
    limit = Limit()

    with pytest.raises(Full):
        await insistently(limit.ask, refusal=Full, for_s=0)

    assert len(limit.asked_at) == 1


async def test_another_error_is_nobodys_refusal() -> None:
    """It is raised as it comes."""

    async def broken() -> None:
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        await insistently(broken, refusal=Full, for_s=5)
