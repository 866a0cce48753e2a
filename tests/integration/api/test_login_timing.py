"""
Whether the time of a failed login tells if there is such a user, measured over HTTPS: `pytest --long -s` prints it.

Four groups of users whose password is guessed wrongly, and one of names that nobody has, each asked in its turn, in an
order that is drawn anew each round. What the four differ by among themselves is what this machine's noise is worth
(A/A); the fifth may not differ from them by more. One of five groups is the oddest one by chance in every few runs; so
it fails only if less than one in a hundred shuffles of the very same times, round by round, would be as odd.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from pathlib import Path

import httpx
import pytest

from mayfly.domain.ids import new_id
from tests.integration.api.test_identity import log_in
from tests.support.api import PASSWORD, ApiServer

GROUPS, NAMES, ROUNDS = 4, 20, 200
SHUFFLES, CHANCE = 1000, 0.01
UNKNOWN = "unknown"


@pytest.mark.long
@pytest.mark.F3
@pytest.mark.asyncio(loop_scope="session")
async def test_unknown_user_and_wrong_password_differ_by_no_more_than_two_users_do(
    nats_url: str, tmp_path: Path
) -> None:
    """The medians differ by no more than those of an A/A run within the same run."""
    async with ApiServer(nats_url, tmp_path) as api, api.client() as client:
        names = {f"user {number}": await _registered(client) for number in range(GROUPS)}
        names[UNKNOWN] = [_name() for _ in range(NAMES)]
        times = await _measured(client, names)
    medians = {group: statistics.median(taken) * 1000 for group, taken in times.items()}
    unknown = medians.pop(UNKNOWN)
    same = [abs(one - other) for one, other in itertools.combinations(medians.values(), 2)]
    differs = [abs(unknown - known) for known in medians.values()]
    chance = _chance(list(times.values()), list(times).index(UNKNOWN))
    print(
        f"\n{ROUNDS} failed logins of each group, interleaved; medians in ms: "
        f"{', '.join(f'{group} {median:.3f}' for group, median in medians.items())}; {UNKNOWN} {unknown:.3f}\n"
        f"A/A, {len(same)} pairs: median difference {statistics.median(same):.3f} ms, largest {max(same):.3f} ms\n"
        f"unknown against each: median difference {statistics.median(differs):.3f} ms, largest {max(differs):.3f} ms\n"
        f"as far from the others in {chance:.1%} of {SHUFFLES} shuffles"
    )
    assert statistics.median(differs) <= max(same) or chance >= CHANCE


def _chance(times: list[list[float]], odd: int) -> float:
    """Say how often a group would be as far from all others as *odd* is, if chance had dealt out each round's times."""

    def distance(rounds: list[tuple[float, ...]]) -> float:
        rest = [taken for one in rounds for place, taken in enumerate(one) if place != odd]
        return abs(statistics.median(one[odd] for one in rounds) - statistics.median(rest))

    rounds = list(zip(*times, strict=True))
    measured = distance(rounds)
    shuffled = ([tuple(random.sample(one, len(one))) for one in rounds] for _ in range(SHUFFLES))
    return sum(distance(each) >= measured for each in shuffled) / SHUFFLES


def _name() -> str:
    return f"u-{new_id()}"


async def _registered(client: httpx.AsyncClient) -> list[str]:
    """Register the users of one group."""
    names = [_name() for _ in range(NAMES)]
    for name in names:
        answer = await client.post("/v1/users", json={"username": name, "password": PASSWORD})
        assert answer.status_code == 201, answer.text
    return names


async def _measured(client: httpx.AsyncClient, names: dict[str, list[str]]) -> dict[str, list[float]]:
    """Fail to log in, one after the other, each name as often as any other."""
    times: dict[str, list[float]] = {group: [] for group in names}
    order = list(names)
    for turn in range(ROUNDS):
        random.shuffle(order)
        for group in order:
            began = time.perf_counter()
            answer = await log_in(client, names[group][turn % NAMES], "not the password")
            times[group].append(time.perf_counter() - began)
            assert answer.status_code == 401
        await asyncio.sleep(0)
    return times
