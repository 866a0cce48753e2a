"""Nothing crosses: two calls at the same time, of two users and of one, find nothing of each other, nor of the host."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.attacks.arena import Arena
from tests.support.functions import a_function, cancelled_in_the_end

pytestmark = [pytest.mark.root, pytest.mark.F9]

SHARED = {
    "file", "posix-memory", "sysv-memory", "sysv-queue", "sysv-semaphore", "posix-queue", "named-socket",
    "abstract-socket", "port", "process",
}  # fmt: skip
OF_THE_MACHINE = {"kernel-log", "kmsg", "proc-kmsg", "cgroups", "mounts"}


@asynccontextmanager
async def marks(arena: Arena, client: httpx.AsyncClient, count: int) -> AsyncIterator[None]:
    """A call of *client*'s that has left its marks and stays; so many are there then."""
    async with cancelled_in_the_end(client, "marks") as call:
        await arena.until_named("marked", count, call)
        yield


async def found(client: httpx.AsyncClient, name: str) -> dict[str, bool]:
    """What a call that looks for marks has found."""
    answer = await client.post(f"/v1/functions/{name}/activations")
    assert answer.status_code == 200, answer.text
    return {what: outcome == "found" for what, outcome in (line.split() for line in answer.text.splitlines())}


@pytest.mark.F4
async def test_calls_of_two_users_find_nothing_of_each_other(arena: Arena) -> None:
    """Both run, each with its marks in everything that can be shared, and neither finds one, nor the machine's own."""
    one, other = arena.attacker, arena.neighbour.client
    async with (
        a_function(one, "marks", arena.image, "leave_marks"),
        a_function(other, "marks", arena.image, "leave_marks"),
        a_function(one, "spy", arena.image, "find_marks"),
        a_function(other, "spy", arena.image, "find_marks"),
        marks(arena, one, 1),
    ):
        assert await found(other, "spy") == dict.fromkeys(SHARED | OF_THE_MACHINE, False)
        async with marks(arena, other, 2):
            assert await found(one, "spy") == dict.fromkeys(SHARED | OF_THE_MACHINE, False)


async def test_calls_of_one_user_find_nothing_of_each_other(arena: Arena) -> None:
    """The same for two calls of one user, and of one image."""
    one = arena.attacker
    async with (
        a_function(one, "marks", arena.image, "leave_marks"),
        a_function(one, "spy", arena.image, "find_marks"),
        marks(arena, one, 1),
    ):
        assert await found(one, "spy") == dict.fromkeys(SHARED | OF_THE_MACHINE, False)


async def test_marks_are_found_where_they_are(arena: Arena) -> None:
    """Within one call all of them are found, so that finding none means something; the machine's own are not."""
    async with a_function(arena.attacker, "both", arena.image, "/bin/sh", "-c", "leave_marks & find_marks wait"):
        expected = dict.fromkeys(SHARED, True) | dict.fromkeys(OF_THE_MACHINE, False)
        assert await found(arena.attacker, "both") == expected
