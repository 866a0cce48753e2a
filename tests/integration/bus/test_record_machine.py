"""The record's state machine, walked at random against the real store on a real nats-server that loses answers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from nats.aio.msg import Msg

from mayfly.bus.codec import Codec
from mayfly.bus.store import Conflict, Store
from mayfly.bus.subjects import ACTIVATIONS, done
from mayfly.domain.activation import Activation, State
from tests.integration.bus.test_permissions import heard
from tests.support.lossy import Died, Wire
from tests.support.record_machine import Attempt, Read, RecordMachine, Register
from tests.support.walked import Walked, walked

pytestmark = [pytest.mark.A4, pytest.mark.F11, pytest.mark.F12]

RECORDS = Codec(Activation)
HEARD_S = 5.0
MET = 5  # as many walks must have come to a result, and as many to another end, or they prove little
WALK = settings(
    max_examples=100, stateful_step_count=20, suppress_health_check=list(HealthCheck), print_blob=True, deadline=None
)
FINDING = settings(WALK, database=None, report_multiple_bugs=False, phases=(Phase.generate,))


@pytest.fixture(scope="module")
def server() -> Iterator[Walked]:
    """A server for all walks; each has a record of its own."""
    with walked() as made:
        yield made


class RealRegister:
    """A record in the bucket, written over a wire that loses answers, read and heard over one that does not."""

    def __init__(self, server: Walked, seed: int) -> None:
        """Nothing is written."""
        self._server = server
        self._wire = Wire(server.api, seed)
        self._clean = Store(server.admin, ACTIVATIONS, Activation)
        self._heard: list[Read] = []
        self._news = asyncio.Event()
        self._key = ""

    def create(self, record: Activation) -> None:
        """Write the first state, and hear from then on each state that the server announces."""
        self._key = record.key
        self._server.run(self._create(record))

    async def _create(self, record: Activation) -> None:
        subject = done(record.instance, record.ulid)
        self._subscription = await self._server.admin.client.subscribe(subject, cb=self._on_state)
        await heard(self._server.admin)
        await self._store().create(record.key, record, ttl_s=60)
        await self._hear()

    async def _on_state(self, message: Msg) -> None:
        self._heard.append((RECORDS.decode(message.data), int((message.headers or {})["Nats-Sequence"])))
        self._news.set()

    def read(self) -> Read:
        """Read it at the leader."""
        return self._server.run(self._read())

    async def _read(self) -> Read:
        entry = await self._clean.get(self._key)
        assert entry is not None
        return entry.value, entry.revision

    def race(self, attempts: list[Attempt], *, dies: bool) -> list[bool | None]:
        """Write all at once, while some of what is late arrives."""
        return self._server.run(self._race(attempts, dies=dies))

    async def _race(self, attempts: list[Attempt], *, dies: bool) -> list[bool | None]:
        writes = [self._write(attempt, dies=dies and attempt is attempts[0]) for attempt in attempts]
        *told, _ = await asyncio.gather(*writes, self._wire.arrive())
        await self._hear()
        return told

    async def _write(self, attempt: Attempt, *, dies: bool) -> bool | None:
        try:
            await self._store(dies=dies).update(self._key, attempt.record, revision=attempt.revision, ttl_s=60)
        except Conflict:
            return False
        except Died:
            return None
        return True

    def _store(self, *, dies: bool = False) -> Store[Activation]:
        return Store(self._wire.client(dies=dies), ACTIVATIONS, Activation)

    async def _hear(self) -> None:
        """Wait until the newest state has been announced: the server announces them in the order of the stream."""
        newest = await self._read()
        async with asyncio.timeout(HEARD_S):
            while not self._heard or self._heard[-1][1] < newest[1]:
                self._news.clear()
                await self._news.wait()
        assert self._heard[-1] == newest

    def history(self) -> list[Read]:
        """Return all that was announced."""
        return list(self._heard)

    def close(self) -> None:
        """Let everything arrive, and see that it changed nothing that was final."""
        self._server.run(self._close())

    async def _close(self) -> None:
        before = await self._read()
        await self._wire.arrive(everything=True)
        await self._hear()
        assert not before[0].state.is_final or self._heard[-1] == before
        await self._subscription.unsubscribe()


def test_no_walk_over_the_database_breaks_the_promise(server: Walked) -> None:
    """What holds over the model holds over the real store, whatever of its requests and answers is lost or late."""

    class Machine(RecordMachine):
        met: ClassVar = Counter[State]()

        def open(self, seed: int) -> Register:
            return RealRegister(server, seed)

    run_state_machine_as_test(Machine, settings=WALK)

    ran = {State.SUCCEEDED, State.FAILED, State.WORKER_LOST}
    for some in (ran, {State.REFUSED, State.TIMED_OUT, State.CANCELLED}):
        assert sum(Machine.met[state] for state in some) > MET, Machine.met


def test_a_walk_finds_a_store_that_does_not_read_back(server: Walked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were a lost answer's write not recognised as one's own, a winner would be told that he lost: a walk shows it."""
    once = Store._publish_or_repeat
    monkeypatch.setattr(Store, "_compare_and_set", once)

    class Machine(RecordMachine):
        met: ClassVar = Counter[State]()

        def open(self, seed: int) -> Register:
            return RealRegister(server, seed)

    with pytest.raises((AssertionError, Conflict)):
        run_state_machine_as_test(Machine, settings=FINDING)
