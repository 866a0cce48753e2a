"""More workers, more calls: `--scale worker=4` does what two workers cannot; and workers of several processes."""

from __future__ import annotations

import asyncio
import re
import time

import pytest

from tests.e2e.conftest import Shell
from tests.support.compose import compose, containers, docker, settled
from tests.support.up import Up

SLEEP_S = 4  # so long that starting a container counts for little
FOR_S = 18.0  # four times that, and some
SLOTS = 8  # of each worker, as the compose file has it
SCRAPE = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9464/metrics').read().decode())"
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


@pytest.mark.A5
@pytest.mark.D4
async def test_workers_of_two_processes(up: Up, whole: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two containers are four workers that share 16 slots, all of which are used, and each container tells of both."""
    name = await whole.make(f"sleep {SLEEP_S}; echo slept")
    monkeypatch.setenv("MAYFLY_WORKER_PROCESSES", "2")
    await asyncio.to_thread(compose, "up", "--detach", "--no-deps", "worker")
    try:
        await settled("worker")
        status = (await whole.client.get("/v1/status")).json()
        answers = await asyncio.gather(*(whole.call(name) for _ in range(2 * SLOTS)))
        told = [docker("exec", each.id, "python", "-c", SCRAPE) for each in containers("worker")]
    finally:
        monkeypatch.delenv("MAYFLY_WORKER_PROCESSES")
        await asyncio.to_thread(compose, "up", "--detach", "--no-deps", "worker")
        await settled("worker")

    assert (status["workers"], status["slots"]) == (4, 2 * SLOTS)
    assert [answer.text for answer in answers] == ["slept\n"] * 2 * SLOTS
    slots = [re.findall(r'^mayfly_worker_slots\{process="(\d)"\} (\S+)$', text, re.MULTILINE) for text in told]
    assert slots == [[("1", "4.0"), ("2", "4.0")]] * 2


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
