"""
What the kernel counts by user and not by container, while one function has taken all of it.

Each container has users of its own, and the first of them has made its user namespace; so what a function takes is
counted for nobody else.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.attacks.arena import Arena
from tests.support.functions import a_function, cancelled_in_the_end

pytestmark = [pytest.mark.root, pytest.mark.F9]

QUOTAS = ("signals", "notify", "descriptors", "pages")


@asynccontextmanager
async def taken(arena: Arena, what: str) -> AsyncIterator[None]:
    """The attacker has all that there is of it."""
    async with (
        a_function(arena.attacker, "all", arena.image, "exhaust_user_quotas", what),
        cancelled_in_the_end(arena.attacker, "all") as call,
    ):
        await arena.until_named("full", 1, call)
        yield


async def one_more(client: httpx.AsyncClient) -> str:
    """What the neighbour is told."""
    answer = await client.post("/v1/functions/one/activations")
    assert answer.status_code == 200, answer.text
    return answer.text.strip()


@pytest.mark.parametrize("what", QUOTAS)
async def test_a_neighbour_has_all_of_what_one_function_has_used_up(arena: Arena, what: str) -> None:
    """Before, meanwhile and after."""
    neighbour = arena.neighbour.client
    async with a_function(neighbour, "one", arena.image, "exhaust_user_quotas", what, "one"):
        assert await one_more(neighbour) == "ok"
        async with taken(arena, what):
            beside = await one_more(neighbour)
        assert (beside, await one_more(neighbour)) == ("ok", "ok")


async def test_the_machines_root_keeps_its_inotify_instances(arena: Arena) -> None:
    """They are counted for who made the user namespace as well; were that root, his programs would have none left."""
    libc = ctypes.CDLL(None, use_errno=True)
    async with taken(arena, "notify"):
        descriptor = libc.inotify_init()
        assert descriptor >= 0, os.strerror(ctypes.get_errno())
        os.close(descriptor)
