"""
What the kernel counts by user and not by container, while one function has taken all of it.

All containers have one range of user ids, and one user, root, has made their namespaces. What of this is open is said
in docs/explanation/security.md; whoever closes it finds the test here that says so.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.attacks.arena import Arena
from tests.support.functions import a_function, cancelled_in_the_end

pytestmark = [pytest.mark.root, pytest.mark.F9]

NEIGHBOURS = {
    "signals": "ok",  # closed: a limit of each function's own
    "notify": "Too many open files",
    "descriptors": "Too many references: cannot splice",
    "pages": "Operation not permitted",  # to enlarge a pipe; small ones go on
}
"""What the kernel says to a neighbour who wants a single one meanwhile."""


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


@pytest.mark.parametrize("what", NEIGHBOURS)
async def test_what_a_neighbour_has_of_used_up_quotas(arena: Arena, what: str) -> None:
    """As the page says, no more and no less, and no longer than the attack lasts."""
    neighbour = arena.neighbour.client
    async with a_function(neighbour, "one", arena.image, "exhaust_user_quotas", what, "one"):
        assert await one_more(neighbour) == "ok"
        async with taken(arena, what):
            beside = await one_more(neighbour)
        assert (beside, await one_more(neighbour)) == (NEIGHBOURS[what], "ok")


async def test_the_machines_root_shares_its_inotify_instances(arena: Arena) -> None:
    """They are counted for who made the namespaces: a function can leave none to programs of root on the machine."""
    libc = ctypes.CDLL(None, use_errno=True)
    async with taken(arena, "notify"):
        descriptor = await asyncio.to_thread(libc.inotify_init)
        print(descriptor, os.strerror(ctypes.get_errno()))
    assert descriptor == -1
