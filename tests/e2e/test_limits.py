"""The concurrency limit, with real containers: exact, told to those refused, and given back."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from itertools import cycle

import httpx
import pytest

from mayfly.client.shapes import timing
from tests.e2e.conftest import Shell, most_at_once
from tests.support.up import Up, running_up

pytestmark = pytest.mark.F13

SCRIPT = """
read until
cut -d' ' -f1 /proc/uptime
while [ $(date +%s) -lt $until ]; do sleep 0.05; done
cut -d' ' -f1 /proc/uptime
"""  # waits until the time that is its parameter; says when it came and left, by a clock that all share


DEFAULT_WAIT_S = 0.15  # MAYFLY_ADMISSION_WAIT_MS


@pytest.fixture(scope="module")
def small(registry: str) -> Iterator[Up]:
    """An installation with M=8 and U=4, and more slots than that."""
    with running_up(registry, slots=10, max_activations=8, max_activations_per_user=4) as up:
        yield up


async def test_two_hundred_racing_callers(small: Up, image: str) -> None:
    """
    Of 200 callers from 10 users on 4 connections exactly 8 run at once, no user more than 4 and the busiest exactly 4;
    all others have their refusal, with scope, limit, use and Retry-After, before the barrier opens.
    """
    clients = [await small.user() for _ in range(10)]
    shells = [Shell(client, image) for client in clients]
    names = [await shell.make(SCRIPT) for shell in shells]
    until = int(time.time()) + 11
    limits = httpx.Limits(max_connections=50)
    wires = [httpx.AsyncClient(base_url=small.url, verify=small.tls, timeout=60, limits=limits) for _ in range(4)]

    async def call(user: int, wire: httpx.AsyncClient) -> tuple[int, float, httpx.Response]:
        headers = {"Authorization": clients[user].headers["Authorization"]}
        path = f"/v1/functions/{names[user]}/activations"
        answer = await wire.post(path, content=f"{until}\n", headers=headers)
        return user, time.time(), answer

    wire_of = cycle(wires)
    answers = await asyncio.gather(*(call(user, next(wire_of)) for _ in range(20) for user in range(10)))

    ran = [(user, answer) for user, _, answer in answers if answer.status_code == 200]
    refused = [(at, answer) for _, at, answer in answers if answer.status_code == 429]
    assert (len(ran), len(refused)) == (8, 192)
    assert max(Counter(user for user, _ in ran).values()) <= 4
    assert all(at < until for at, _ in refused)
    assert most_at_once([answer.text for _, answer in ran]) == 8
    for _, answer in refused:
        problem = answer.json()
        assert problem["code"] == "concurrency-limit"
        assert (problem["scope"], problem["limit"], problem["in_use"]) in {("platform", 8, 8), ("user", 4, 4)}
        assert problem["ran"] == "no"
        assert int(answer.headers["retry-after"]) >= 1

    await a_full_house_is_admitted_again(small, shells[:2])
    for client in (*clients, *wires):
        await client.aclose()


async def a_full_house_is_admitted_again(up: Up, shells: list[Shell]) -> None:
    """Afterwards nothing is in flight, and two users with four calls each fill the platform once more."""
    await nothing_in_flight(shells[0].client)
    names = [await shell.make(SCRIPT) for shell in shells]
    until = int(time.time()) + 5

    calls = [shell.call(name, f"{until}\n") for shell, name in zip(shells, names, strict=True) for _ in range(4)]
    answers = await asyncio.gather(*calls)

    assert [answer.status_code for answer in answers] == [200] * 8
    assert most_at_once([answer.text for answer in answers]) == 8


async def test_one_user_who_offers_twenty(small: Up, image: str) -> None:
    """A single user gets exactly four of twenty racing calls, the others are refused for the user."""
    async with await small.user() as client:
        shell = Shell(client, image)
        name = await shell.make(SCRIPT)
        await nothing_in_flight(client)
        until = int(time.time()) + 6

        answers = await asyncio.gather(*(shell.call(name, f"{until}\n") for _ in range(20)))

    codes = Counter(answer.status_code for answer in answers)
    scopes = {answer.json()["scope"] for answer in answers if answer.status_code == 429}
    assert codes == {200: 4, 429: 16}
    assert scopes == {"user"}


async def test_below_the_limit_nobody_is_refused(registry: str, image: str) -> None:
    """
    400 calls by two users, never more than four of each at once, are all admitted: a caller who is back before his
    place is waits for it. All but a few, which the machine has held up, wait no longer than what is the default.
    """
    limits = {"max_activations": 8, "max_activations_per_user": 4, "admission_wait_ms": 5000}
    with running_up(registry, slots=10, **limits) as up:
        await two_users_at_their_limit(up, image)


async def two_users_at_their_limit(up: Up, image: str) -> None:
    """Four callers each, who call again as soon as they are answered."""
    clients = [await up.user() for _ in range(2)]
    shells = [Shell(client, image) for client in clients]
    names = [await shell.make("cat") for shell in shells]

    async def caller(shell: Shell, name: str) -> list[httpx.Response]:
        return [await shell.call(name, "x") for _ in range(50)]

    callers = await asyncio.gather(
        *(caller(shell, name) for shell, name in zip(shells, names, strict=True) for _ in range(4))
    )

    answers = [answer for answers in callers for answer in answers]
    assert Counter(answer.status_code for answer in answers) == {200: 400}
    assert sum(timing(answer.headers["server-timing"])["admit"] > DEFAULT_WAIT_S for answer in answers) <= 20
    for client in clients:
        await client.aclose()


async def test_without_a_maximum_none_is_refused(registry: str, image: str) -> None:
    """With both limits `none` and two slots, 40 racing calls wait their turn and all run."""
    with running_up(registry, slots=2, max_activations="none", max_activations_per_user="none") as up:
        async with await up.user() as client:
            shell = Shell(client, image)
            name = await shell.make("cat")

            answers = await asyncio.gather(*(shell.call(name, str(number)) for number in range(40)))

    assert [answer.text for answer in answers] == [str(number) for number in range(40)]


async def nothing_in_flight(client: httpx.AsyncClient) -> None:
    """Wait until the count is back at 0."""
    async with asyncio.timeout(10):
        while (await client.get("/v1/status")).json()["platform"]["in_flight"]:
            await asyncio.sleep(0.05)
