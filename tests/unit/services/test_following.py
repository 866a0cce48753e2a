"""How soon a follower looks again; that it hears of the end, and who is lost when, is tried on real servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from mayfly.bus.requests import Ownership
from mayfly.bus.responses import Waiter
from mayfly.bus.store import Entry
from mayfly.domain.activation import Activation, State
from mayfly.domain.errors import QueueUnavailable
from mayfly.services.following import FIRST_LOOK_S, LOOK_AT_MOST_EVERY_S, SILENT_LOOK_S, Follower
from tests.support.poison import RECORD

pytestmark = pytest.mark.F12

RUNNING, ENDED = replace(RECORD, state=State.RUNNING), replace(RECORD, state=State.SUCCEEDED)


class Records:
    """Answers one look after the other, an error included."""

    def __init__(self, *answers: Activation | QueueUnavailable) -> None:
        self._answers = iter(answers)

    async def get(self, key: str) -> Entry[Activation]:
        """The next answer."""
        answer = next(self._answers)
        if isinstance(answer, QueueUnavailable):
            raise answer
        return Entry(key, answer, 1)


@pytest.mark.parametrize("doubt", [Ownership.SILENT, Ownership.GONE])
async def test_who_is_in_doubt_looks_soon_again_though_nats_refuses(
    doubt: Ownership, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    An owner that did not answer is asked again within 0.25 s, also when the queue could not be asked in between: 5 s
    are promised for a lost worker, and the look of a call that runs as it should comes after a second.
    """
    words = iter([*[Ownership.OWNED] * 5, doubt])
    pauses: list[float] = []

    async def ask_owner(*_: object) -> Ownership:
        return next(words)

    async def is_proved_gone(*_: object) -> bool:
        return False

    @asynccontextmanager
    async def nothing_heard(pause: float) -> AsyncIterator[None]:
        pauses.append(pause)
        raise TimeoutError
        yield

    monkeypatch.setattr("mayfly.services.settle.ask_owner", ask_owner)
    monkeypatch.setattr("mayfly.services.settle.is_proved_gone", is_proved_gone)
    monkeypatch.setattr("mayfly.services.settle.Stores.on", lambda _: SimpleNamespace(workers=None))
    monkeypatch.setattr(asyncio, "timeout", nothing_heard)
    records = Records(*[RUNNING] * 6, QueueUnavailable(), QueueUnavailable(), ENDED)
    follower = Follower(cast("Any", None), cast("Any", SimpleNamespace(activations=records)), keep_s=1)

    assert await follower.end(Waiter(), "key", deadline=time.monotonic() + 60) is ENDED

    assert pauses[5] == LOOK_AT_MOST_EVERY_S
    assert pauses[6] == (SILENT_LOOK_S if doubt is Ownership.SILENT else FIRST_LOOK_S)
    assert pauses[7:] == [FIRST_LOOK_S, FIRST_LOOK_S]
