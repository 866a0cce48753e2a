"""What API servers ask workers, on a real nats-server with our permissions."""

from __future__ import annotations

import asyncio

import pytest

from mayfly.bus.requests import Ownership, answering_images, answering_owner, ask_for_image, ask_owner
from mayfly.domain.errors import NoWorkers
from mayfly.domain.ids import UserId, new_id
from mayfly.domain.image import ImageAnswer, PrepareImage
from tests.support.bus import installation

pytestmark = [pytest.mark.A5, pytest.mark.F6]


async def test_one_users_slow_registry_keeps_nobody_else_waiting() -> None:
    """However many images one user asks for that never come, another user's is prepared at once."""
    slow, other, release = UserId(new_id()), UserId(new_id()), asyncio.Event()
    under_way: list[str] = []

    async def prepare(request: PrepareImage) -> ImageAnswer:
        under_way.append(request.owner)
        if request.owner == slow:
            await release.wait()
        return ImageAnswer(code="image-unavailable", problem=request.reference)

    async with (
        installation() as nats,
        nats.connect("worker") as worker,
        nats.connect("api") as api,
        answering_images(worker, prepare, at_once=3, per_owner=2),
    ):
        asked = [PrepareImage(reference=f"slow:{number}", owner=slow) for number in range(5)]
        hanging = [asyncio.create_task(ask_for_image(api, each, timeout_s=30)) for each in asked]
        async with asyncio.timeout(5):
            while under_way != [slow, slow]:
                await asyncio.sleep(0.01)
            answer = await ask_for_image(api, PrepareImage(reference="quick", owner=other), timeout_s=5)
        assert answer.problem == "quick"
        assert under_way == [slow, slow, other]

        release.set()
        assert {answer.problem for answer in await asyncio.gather(*hanging)} == {each.reference for each in asked}


async def test_who_says_that_it_listens_is_heard_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first question, which another connection sends as soon as the worker listens, finds it: every time."""
    monkeypatch.setattr("mayfly.bus.requests.OWNS_TIMEOUT_S", 5.0)  # how soon is not the question
    async with installation() as nats, nats.connect("worker") as worker, nats.connect("api") as api:
        for number in range(200):
            async with answering_owner(worker, f"w{number}", lambda _: True):
                assert await ask_owner(api, f"w{number}", "any") is Ownership.OWNED


async def test_without_a_worker_the_answer_comes_at_once() -> None:
    """Nobody listens, so nobody is waited for."""
    async with installation() as nats, nats.connect("api") as api, asyncio.timeout(5):
        with pytest.raises(NoWorkers):
            await ask_for_image(api, PrepareImage(reference="busybox", owner=UserId(new_id())), timeout_s=60)
