"""The record's state machine, walked at random against a model of a register with compare-and-set."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from mayfly.domain.activation import Activation, State
from tests.support.record_machine import Attempt, Read, RecordMachine, Register


class ModelRegister:
    """What the database promises, and no more: a write wins if the record still stands at its revision."""

    def __init__(self) -> None:
        """Nothing is written."""
        self._history: list[Read] = []

    def create(self, record: Activation) -> None:
        """Write the first state."""
        self._history.append((record, 1))

    def read(self) -> Read:
        """Read the newest."""
        return self._history[-1]

    def race(self, attempts: list[Attempt], *, dies: bool) -> list[bool | None]:
        """One after the other; of one that dies nobody learns what became of its write."""
        told: list[bool | None] = [self._won(attempt) for attempt in attempts]
        return [None, *told[1:]] if dies else told

    def _won(self, attempt: Attempt) -> bool:
        _, revision = self._history[-1]
        if attempt.revision != revision:
            return False
        self._history.append((attempt.record, revision + 1))
        return True

    def history(self) -> list[Read]:
        """Return all."""
        return list(self._history)

    def close(self) -> None:
        """Nothing is under way."""


class ModelMachine(RecordMachine):
    """The walk, over the model."""

    met: ClassVar = Counter[State]()

    def open(self, seed: int) -> Register:
        """Return an empty model."""
        return ModelRegister()


@pytest.mark.F11
@pytest.mark.F12
def test_no_walk_over_a_model_breaks_the_promise() -> None:
    """No sequence of reads and late writes of five parties breaks what the record promises."""
    run_state_machine_as_test(ModelMachine, settings=settings(max_examples=600, stateful_step_count=30))

    assert all(ModelMachine.met[state] for state in State), ModelMachine.met


class Forgetful(ModelRegister):
    """A register that does not compare."""

    def _won(self, attempt: Attempt) -> bool:
        self._history.append((attempt.record, len(self._history) + 1))
        return True


class Liar(ModelRegister):
    """A register that tells the one who wins that he has lost, as a database does whose answer was lost."""

    def _won(self, attempt: Attempt) -> bool:
        super()._won(attempt)
        return False


FINDING = settings(max_examples=200, database=None, report_multiple_bugs=False, phases=(Phase.generate,))


@pytest.mark.parametrize("register", [Forgetful, Liar])
def test_the_walk_finds_a_register_that_breaks_it(register: type[ModelRegister]) -> None:
    """Without the comparison, or with a wrong answer, a walk is found that shows it: the rules above can fail."""

    class Machine(RecordMachine):
        met: ClassVar = Counter[State]()

        def open(self, seed: int) -> Register:
            return register()

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Machine, settings=FINDING)
