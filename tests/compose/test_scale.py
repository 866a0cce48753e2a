"""More workers, more calls: `--scale worker=4` does what two workers cannot."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.e2e.conftest import Shell
from tests.support.compose import compose, containers, settled
from tests.support.up import Up

SLEEP_S = 4  # so long that starting a container counts for little
FOR_S = 18.0  # four times that, and some
SLOTS = 8  # of each worker, as the compose file has it
CALLERS = 20  # of each of two users: more than four workers have slots, and fewer than a user may have in flight


@pytest.mark.A5
@pytest.mark.F13
async def test_four_workers_finish_nearly_twice_as_many_calls(up: Up, whole: Shell) -> None:
    """Of functions that sleep, 40 callers get at least 1.7 times as many results from four workers as from two."""
    async with await up.user() as client:
        callers = [
            (shell, await shell.make(f"sleep {SLEEP_S}; echo slept")) for shell in (whole, Shell(client, whole.image))
        ]
        for shell, name in callers:
            assert (await shell.call(name)).text == "slept\n"

        two = await _completed(callers)
        await _scale(4)
        try:
            await _everyone_has_the_image(callers)
            four = await _completed(callers)
        finally:
            await _scale(2)

    print(f"\n{two} calls in {FOR_S:.0f} s with 2 workers, {four} with 4: ratio {four / two:.2f}")
    assert two >= 2 * SLOTS * FOR_S / SLEEP_S * 0.6
    assert four / two >= 1.7


async def _scale(workers: int) -> None:
    await asyncio.to_thread(compose, "up", "--detach", "--no-recreate", "--scale", f"worker={workers}")
    await settled("worker")
    assert len(containers("worker")) == workers


async def _everyone_has_the_image(callers: list[tuple[Shell, str]]) -> None:
    """Once every slot of every worker is taken, every worker has pulled."""
    answers = await asyncio.gather(*(shell.call(name) for shell, name in callers * CALLERS))
    assert {answer.status_code for answer in answers} == {200}


async def _completed(callers: list[tuple[Shell, str]]) -> int:
    """How many calls end within `FOR_S` seconds, when `CALLERS` callers of each call again and again."""
    until = time.monotonic() + FOR_S
    done = 0

    async def caller(shell: Shell, name: str) -> None:
        nonlocal done
        while time.monotonic() < until:
            answer = await shell.call(name)
            assert answer.status_code == 200, answer.text
            done += time.monotonic() < until

    await asyncio.gather(*(caller(shell, name) for shell, name in callers * CALLERS))
    return done
