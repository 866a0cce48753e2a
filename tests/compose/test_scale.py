"""More workers, more calls: `--scale worker=4` does what two workers cannot."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.e2e.conftest import Shell
from tests.support.compose import compose, containers, settled

FOR_S = 8.0
SLOTS = 8  # of each worker, as the compose file has it
CALLERS = 32  # as many as one user may have in flight, and as four workers have slots


@pytest.mark.A5
@pytest.mark.F13
async def test_four_workers_finish_nearly_twice_as_many_calls(whole: Shell, record_property: object) -> None:
    """Of functions that sleep, 32 callers get at least 1.7 times as many results from four workers as from two."""
    name = await whole.make("sleep 1; echo slept")
    assert (await whole.call(name)).text == "slept\n"

    two = await _completed(whole, name)
    await _scale(4)
    try:
        await _everyone_has_the_image(whole, name)
        four = await _completed(whole, name)
    finally:
        await _scale(2)

    print(f"\n{two} calls in {FOR_S:.0f} s with 2 workers, {four} with 4: ratio {four / two:.2f}")
    assert two >= 2 * SLOTS * FOR_S * 0.6
    assert four / two >= 1.7


async def _scale(workers: int) -> None:
    await asyncio.to_thread(compose, "up", "--detach", "--no-recreate", "--scale", f"worker={workers}")
    await settled("worker")
    assert len(containers("worker")) == workers


async def _everyone_has_the_image(shell: Shell, name: str) -> None:
    """Once every slot of every worker is taken, every worker has pulled."""
    answers = await asyncio.gather(*(shell.call(name) for _ in range(CALLERS)))
    assert {answer.status_code for answer in answers} == {200}


async def _completed(shell: Shell, name: str) -> int:
    """How many calls end well within `FOR_S` seconds, when `CALLERS` callers call again and again."""
    until = time.monotonic() + FOR_S
    done = 0

    async def caller() -> None:
        nonlocal done
        while time.monotonic() < until:
            answer = await shell.call(name)
            assert answer.status_code == 200, answer.text
            done += time.monotonic() < until

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return done
