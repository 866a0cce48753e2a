"""
The record's state machine as hypothesis walks it: an API server, two workers, a janitor and a canceller, each of which
reads the record and writes later, if it still stands as it was read. What they write is what the code has them write.

The walk is put to a `Register`: a model in tests/unit/domain, the real database in tests/integration/bus. Whatever
happens in whatever order, of one revision one write wins at most; a final record stays as it is; each step is in
`TRANSITIONS`; one worker at most wins the start fence; after it nobody says that nothing ran but that worker, who knows
whether the command was started; and who is told that his write was made, or was not, is told the truth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Protocol

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mayfly.domain.activation import TRANSITIONS, Activation, State
from mayfly.domain.ids import WorkerId, new_id
from tests.unit.domain.test_activation import a_record

WORKERS = ("worker-1", "worker-2")
PARTIES = ("api", "janitor", "canceller", *WORKERS)
WRITERS = st.lists(st.sampled_from(PARTIES), min_size=1, max_size=3, unique=True)

ENDINGS: tuple[tuple[State, dict[str, Any]], ...] = (
    (State.SUCCEEDED, {"ran": "yes"}),
    (State.FAILED, {"ran": "yes", "code": "function-failed"}),
    (State.FAILED, {"ran": "no", "code": "runtime-failed"}),  # it knows that the command was not started
    (State.TIMED_OUT, {"ran": "yes", "code": "timed-out", "clock": "run"}),
    (State.CANCELLED, {"ran": "yes", "code": "cancelled"}),
    (State.CANCELLED, {"ran": "no", "code": "cancelled"}),  # likewise
    (State.WORKER_LOST, {"ran": "unknown", "code": "worker-lost"}),
)
"""How a worker ends what it ran: `worker.endings`."""

Read = tuple[Activation, int]
Step = Callable[[Activation], Activation]


@dataclass(frozen=True)
class Attempt:
    """One write that a party wants to make."""

    party: str
    record: Activation
    revision: int


class Register(Protocol):
    """Where the record is. `won` of an attempt is None when the party never learnt it: it died meanwhile."""

    def create(self, record: Activation) -> None:
        """Write the first state."""
        ...

    def read(self) -> Read:
        """Read the record with its revision."""
        ...

    def race(self, attempts: list[Attempt], *, dies: bool) -> list[bool | None]:
        """Have these written at once; if one *dies*, it is the first, with its write under way."""
        ...

    def history(self) -> list[Read]:
        """Every state that there was, with its revision, the oldest first."""
        ...

    def close(self) -> None:
        """Everything that is under way is over."""
        ...


class RecordMachine(RuleBasedStateMachine):
    """One record and those who move it."""

    register: Register
    met: ClassVar[Counter[State]]  # where records ended, on all walks together

    def open(self, seed: int) -> Register:
        """Return an empty register; what goes wrong there goes wrong by *seed*."""
        raise NotImplementedError

    @initialize(seed=st.integers(0, 2**32 - 1))
    def admit(self, seed: int) -> None:
        """The API server creates the record before there is a message, and everybody can read it from then on."""
        self.register = self.open(seed)
        self.register.create(a_record())
        first = self.register.read()
        self.seen: dict[str, Read] = dict.fromkeys(PARTIES, first)
        self.won: list[Attempt] = []
        self.lost: list[Attempt] = []
        self.unknown: list[Attempt] = []

    @rule(party=st.sampled_from(PARTIES))
    def read(self, party: str) -> None:
        """A party reads the record, and may act on that much later."""
        self.seen[party] = self.register.read()

    @rule(parties=WRITERS, choice=st.integers(0, 839))
    def write(self, parties: list[str], choice: int) -> None:
        """Parties that write at once, each from what it has read: a step that it may want to make, or none."""
        self._race([self._attempt(party, choice) for party in parties], dies=False)

    @rule(parties=WRITERS, choice=st.integers(0, 839))
    def write_and_die(self, parties: list[str], choice: int) -> None:
        """Likewise, but the first of them dies while its write is under way, and its successor knows nothing."""
        self._race([self._attempt(party, choice) for party in parties], dies=True)
        self.seen[parties[0]] = self.register.read()

    @rule(party=st.sampled_from(PARTIES), to=st.sampled_from(State))
    def stray(self, party: str, to: State) -> None:
        """A step that the table does not have cannot even be made up, whoever wants it."""
        record, _ = self.seen[party]
        if to not in TRANSITIONS[record.state]:
            with pytest.raises(ValueError, match="cannot go"):
                record.moved(to, nonce=new_id())

    @precondition(lambda self: self.lost)
    @rule()
    def insist(self) -> None:
        """Who has lost and writes the same again, at the same revision, loses again."""
        again = self.lost[-1]
        assert self.register.race([again], dies=False) == [False]

    def _attempt(self, party: str, choice: int) -> Attempt | None:
        record, revision = self.seen[party]
        steps = steps_of(party, record)
        step = steps[choice % len(steps)]
        return Attempt(party, step(record), revision) if step else None

    def _race(self, wanted: list[Attempt | None], *, dies: bool) -> None:
        attempts = [attempt for attempt in wanted if attempt]
        if not attempts:
            return
        told = self.register.race(attempts, dies=dies and wanted[0] is not None)
        for attempt, won in zip(attempts, told, strict=True):
            {True: self.won, False: self.lost, None: self.unknown}[won].append(attempt)
        assert len({attempt.revision for attempt in self.won}) == len(self.won), "two have won one revision"
        for attempt, won in zip(attempts, told, strict=True):
            if won:
                self.seen[attempt.party] = self.register.read()

    @invariant()
    def the_table_is_kept(self) -> None:
        """What followed what is in the table, so nothing followed a final state, and revisions only grew."""
        history = self.register.history()
        assert history[0][0].state is State.QUEUED
        for (before, earlier), (after, later) in pairwise(history):
            assert after.state in TRANSITIONS[before.state], (before.state, after.state)
            assert later > earlier
            assert not before.state.is_final

    @invariant()
    def what_may_have_run_is_not_denied(self) -> None:
        """
        `ran` is `no` before the start fence. After it only the worker that won it says `no`, and of `yes` nobody says
        anything else.
        """
        history = [record for record, _ in self.register.history()]
        writers = {attempt.record.nonce: attempt.party for attempt in (*self.won, *self.unknown)}
        started = [record for record in history if record.state is State.RUNNING]
        assert len(started) <= 1
        assert all(before.ran != "yes" for before in history[:-1])
        for record in history[1:]:
            if not started:
                assert record.ran == "no"
            elif record.ran == "no":
                assert writers.get(record.nonce) == started[0].worker

    @invariant()
    def the_start_fence_names_its_winner(self) -> None:
        """A record that ran names the worker and the attempt that won the start fence, to its end."""
        history = [record for record, _ in self.register.history()]
        for record in history:
            if record.state is State.RUNNING:
                assert (history[-1].worker, history[-1].attempt) == (record.worker, record.nonce)

    @invariant()
    def everybody_was_told_the_truth(self) -> None:
        """Who was told that he won is in the history, who was told that he lost is not, and nobody else wrote."""
        written = {record.nonce for record, _ in self.register.history()[1:]}
        assert {attempt.record.nonce for attempt in self.won} <= written
        assert not {attempt.record.nonce for attempt in self.lost} & written
        assert written <= {attempt.record.nonce for attempt in (*self.won, *self.unknown)}

    def teardown(self) -> None:
        """What is late arrives at last; then everything holds still."""
        if hasattr(self, "register"):
            self.register.close()
            self.met[self.register.read()[0].state] += 1


def steps_of(party: str, record: Activation) -> list[Step | None]:
    """
    What a party may want to write who has read *record*; None is to wait. Workers are the keenest, or hardly any walk
    would come as far as to a result.
    """
    if record.state is State.QUEUED:
        unrun = [_ends(state, ran="no") for state in _UNRUN[party]]
        return [*[_starts(party)] * 6, *unrun] if party in WORKERS else [*[None] * 6, *unrun]
    if record.state is not State.RUNNING:
        return [None]
    if record.worker == party:
        return [_ends(state, **changes) for state, changes in ENDINGS]
    if party == "canceller":  # it asks the worker, which is the one to write
        return [None]
    return [*[None] * 6, _ends(State.WORKER_LOST, ran="unknown", code="worker-lost")]


_UNRUN = {
    "api": (State.REFUSED, State.TIMED_OUT),
    "janitor": (State.TIMED_OUT,),
    "canceller": (State.CANCELLED,),
    **dict.fromkeys(WORKERS, (State.REFUSED, State.TIMED_OUT)),
}
"""How each may end what has not run."""


def _starts(worker: str) -> Step:
    def move(record: Activation) -> Activation:
        nonce = new_id()
        return record.moved(State.RUNNING, nonce=nonce, attempt=nonce, worker=WorkerId(worker), ran="unknown")

    return move


def _ends(state: State, **changes: Any) -> Step:
    def move(record: Activation) -> Activation:
        return record.moved(state, nonce=new_id(), **changes)

    return move
