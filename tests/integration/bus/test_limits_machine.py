"""
The limit counters, walked at random against a real nats-server that loses answers: racing calls of several users,
claims, acks, a janitor's deletions. The stream itself is read after each step, and compared with a model that knows
who was told what.

A limit is a `Limit` here, so another one (a function's places) is one more entry of `LIMITS`, with what counts for it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from nats.js.api import PubAck

from mayfly.bus.connection import Bus
from mayfly.bus.queue import Refused, SubmitUnknown, delete_queued, in_flight, submit, walk
from mayfly.domain.activation import Work
from mayfly.domain.ids import new_id
from tests.integration.bus.test_queue import Puller, _work_of
from tests.support.lossy import Died, Wire
from tests.support.walked import Walked, walked

pytestmark = [pytest.mark.A3, pytest.mark.F13]

M, U, USERS, SLOTS = 5, 2, 4, 3
WALK = settings(
    max_examples=80, stateful_step_count=20, suppress_health_check=list(HealthCheck), print_blob=True, deadline=None
)
FINDING = settings(WALK, database=None, report_multiple_bugs=False, phases=(Phase.generate,))


@dataclass(frozen=True)
class Limit:
    """How many may be in flight of those that count together."""

    scope: str
    most: int
    counted: Callable[[Work], str]


LIMITS = (Limit("platform", M, lambda _: "all"), Limit("user", U, lambda work: work.user_id))

MET = ("refused: platform", "refused: user", "refused after a lost answer", "there, and nobody was told", "taken away")
"""What the walks must have met, or they prove little."""


@pytest.fixture(scope="module")
def server() -> Iterator[Walked]:
    """A server with M and U; each walk leaves it empty."""
    with walked(max_activations=M, max_activations_per_user=U) as made:
        yield made


class LimitsMachine(RuleBasedStateMachine):
    """The work stream, and those who put work there and take it away."""

    server: Walked
    met: ClassVar[Counter[str]]  # what happened on all walks together

    @initialize(seed=st.integers(0, 2**32 - 1))
    def begin(self, seed: int) -> None:
        """Nothing is in flight."""
        self.users = [new_id() for _ in range(USERS)]
        self.wire = Wire(self.server.api, seed)
        self.puller = self.server.run(self._pulling())
        self.works: dict[str, Work] = {}
        self.admitted: set[str] = set()  # told so, and not taken away yet
        self.perhaps: set[str] = set()  # nobody was told, or one was refused whose first try was not answered
        self.away: set[str] = set()
        self.stream: set[str] = set()
        assert self.server.run(in_flight(self.server.admin)) == 0

    async def _pulling(self) -> Puller:
        return Puller(self.server.worker, slots=SLOTS)

    @rule(callers=st.lists(st.integers(0, USERS - 1), min_size=1, max_size=8), dies=st.booleans())
    def submit(self, callers: list[int], dies: bool) -> None:
        """Calls of several users at once, of which the first may lose its API server."""
        works = [_work_of(self.users[caller]) for caller in callers]
        told = self.server.run(self._race(works, dies=dies))
        for work, scope in told:
            self.met[f"refused: {scope}"] += 1
            assert self._is_full(scope, work), f"refused by the limit of the {scope}, which is not reached"

    async def _race(self, works: list[Work], *, dies: bool) -> list[tuple[Work, str]]:
        """Submit all, and return those that were certainly refused, with the scope that they were told."""
        calls = [self._submit(work, dies=dies and work is works[0]) for work in works]
        *told, _ = await asyncio.gather(*calls, self.wire.arrive())
        await self._look()
        return [(work, scope) for work, scope in zip(works, told, strict=True) if scope]

    async def _submit(self, work: Work, *, dies: bool) -> str | None:
        end = Answered(self.wire.client(dies=dies))
        self.works[work.key] = work
        try:
            await submit(end.bus, work, wait_s=0)
        except Refused as refused:
            if end.lost:
                self.perhaps.add(work.key)
                self.met["refused after a lost answer"] += 1
                return None
            return refused.scope
        except (SubmitUnknown, Died):
            self.perhaps.add(work.key)
        else:
            self.admitted.add(work.key)
        return None

    def _is_full(self, scope: str, work: Work) -> bool:
        """Nothing was taken away while the calls raced, so a limit that was reached then is so still."""
        limit = next(limit for limit in LIMITS if limit.scope == scope)
        return self._used(limit)[limit.counted(work)] == limit.most

    @precondition(lambda self: self.stream)
    @rule()
    def claim_and_ack(self) -> None:
        """A worker that has claimed something settles it, and the very next call finds the room."""
        self.server.run(self._ack_one())

    async def _ack_one(self) -> None:
        while True:
            claim = await self.puller.next()
            await self.puller.finish(claim)
            if claim.work.key in self.stream:  # else a janitor was before it
                break
        self._took_away(claim.work.key)
        await self._look()

    @precondition(lambda self: self.stream)
    @rule(which=st.integers(0, M - 1))
    def delete(self, which: int) -> None:
        """A janitor takes a message away, claimed or not."""
        self.server.run(self._delete(which))

    async def _delete(self, which: int) -> None:
        found = [queued async for queued in walk(self.server.api)]
        queued = found[which % len(found)]
        await delete_queued(self.server.api, queued.seq)
        self._took_away(queued.key)
        await self._look()

    def _took_away(self, key: str) -> None:
        self.admitted.discard(key)
        self.perhaps.discard(key)
        self.away.add(key)
        self.met["taken away"] += 1

    async def _look(self) -> None:
        """Read the whole stream."""
        found = [queued.key async for queued in walk(self.server.admin)]
        assert len(found) == len(set(found)), "a call is there twice"
        self.stream = set(found)

    def _used(self, limit: Limit) -> Counter[str]:
        return Counter(limit.counted(self.works[key]) for key in self.stream)

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        """Never more than M in all, nor U of one user; and no more is claimed than there are slots."""
        for limit in LIMITS:
            assert all(used <= limit.most for used in self._used(limit).values()), limit.scope
        assert self.puller.held <= SLOTS

    @invariant()
    def what_was_told_is_so(self) -> None:
        """All that was told to be admitted is there, once, until it is taken away; nothing else is but what nobody
        knows of; and what was taken away does not come back, however late its copy arrives."""
        self.met["there, and nobody was told"] += len(self.stream - self.admitted)
        assert self.admitted <= self.stream
        assert self.stream <= self.admitted | self.perhaps
        assert not self.stream & self.away

    @invariant()
    def usage_is_what_the_stream_has(self) -> None:
        """What is shown as in flight, in all and of each user, is what is there."""
        counts = self.server.run(self._counts())
        assert counts[0] == len(self.stream)
        for user, count in zip(self.users, counts[1:], strict=True):
            assert count == sum(self.works[key].user_id == user for key in self.stream)

    async def _counts(self) -> list[int]:
        each = (in_flight(self.server.admin, user) for user in self.users)
        return await asyncio.gather(in_flight(self.server.admin), *each)

    def teardown(self) -> None:
        """When all is settled a full M is admitted again, and not one more: no slot has leaked, none was made."""
        if hasattr(self, "puller"):
            self.server.run(self._refill())

    async def _refill(self) -> None:
        await self.wire.arrive(everything=True)
        await self._look()
        await self._empty()
        works = [_work_of(new_id()) for _ in range(M)]
        await asyncio.gather(*(submit(self.server.api, work, wait_s=0) for work in works))
        with pytest.raises(Refused) as refused:
            await submit(self.server.api, _work_of(new_id()), wait_s=0)
        assert refused.value.scope == "platform"
        await self._look()
        await self._empty()
        self.puller.loop.stop()

    async def _empty(self) -> None:
        while self.stream:
            claim = await self.puller.next()
            await self.puller.finish(claim)
            self.stream.discard(claim.work.key)


class Answered:
    """One caller's end of the wire, which remembers whether an answer was lost."""

    def __init__(self, bus: Bus) -> None:
        """Nothing is lost."""
        self.bus = bus
        self.lost = False
        publish = bus.js.publish

        async def watched(*given: object, **options: object) -> object:
            try:
                return await publish(*given, **options)  # type: ignore[arg-type]
            except TimeoutError:
                self.lost = True
                raise

        bus.js.publish = watched  # type: ignore[method-assign,assignment]


def test_no_walk_over_the_stream_breaks_a_limit(server: Walked) -> None:
    """Whatever races, is lost, arrives late, is settled or deleted: M and U are exact, and come back whole."""

    class Machine(LimitsMachine):
        met: ClassVar = Counter[str]()

    Machine.server = server
    run_state_machine_as_test(Machine, settings=WALK)

    assert all(Machine.met[what] for what in MET), Machine.met


def test_a_walk_finds_a_call_that_is_repeated_without_an_id(server: Walked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were a call repeated without its id after a lost answer, it would be there twice: a walk shows it."""

    class Machine(LimitsMachine):
        met: ClassVar = Counter[str]()

        def teardown(self) -> None:
            self.server.run(self._clear())

        async def _clear(self) -> None:
            self.puller.loop.stop()
            await self.server.admin.js.purge_stream("ACT")

    Machine.server = server
    publish = Wire.publish

    async def without_id(wire: Wire, send: partial[Any]) -> PubAck:
        del send.keywords["headers"]["Nats-Msg-Id"]
        return await publish(wire, send)

    monkeypatch.setattr(Wire, "publish", without_id)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Machine, settings=FINDING)
