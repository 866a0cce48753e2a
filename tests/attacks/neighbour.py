"""The neighbour: another user's small function, called again and again while somebody attacks."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

from mayfly.domain.ids import new_id

FUNCTION = {"name": "neighbour", "command": ["tr", "a-z", "A-Z"], "limits": {"timeout_s": 30}}


@dataclass
class Calls:
    """What became of some calls, one after the other."""

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def p50_ms(self) -> float:
        """The median, in milliseconds."""
        return statistics.median(self.seconds) * 1000

    def __add__(self, other: Calls) -> Calls:
        return Calls([*self.seconds, *other.seconds], [*self.errors, *other.errors])


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A user who has nothing to do with any attack."""

    client: httpx.AsyncClient

    async def calls(self, count: int, *, until: Sequence[asyncio.Event] = ()) -> Calls:
        """Call *count* times at least, and on until all that is waited for has happened."""
        done = Calls()
        while len(done.seconds) < count or not all(event.is_set() for event in until):
            await self._call(done)
        return done

    async def _call(self, done: Calls) -> None:
        word = new_id()
        began_at = time.perf_counter()
        answer = await self.client.post(f"/v1/functions/{FUNCTION['name']}/activations", content=word)
        done.seconds.append(time.perf_counter() - began_at)
        if (answer.status_code, answer.text) != (200, word.upper()):
            done.errors.append(f"{answer.status_code} {answer.text[:300]}")
