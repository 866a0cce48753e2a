"""The record of an activation and its table of transitions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly.domain.activation import TRANSITIONS, Activation, State
from mayfly.domain.ids import FunctionName, UserId, new_id, new_ulid


def a_record(state: State = State.QUEUED, **given: Any) -> Activation:
    """Make a record in a state."""
    values: dict[str, Any] = {
        "nonce": new_id(),
        "user_id": UserId(new_id()),
        "instance": new_id(),
        "ulid": new_ulid(),
        "function": FunctionName("upper"),
        "function_id": new_id(),
        "image": "busybox",
        "digest": None,
        "parameter_bytes": 1,
        "parameter_sha256": "0" * 64,
        "created_at": 1.0,
        "deadline_at": 31.0,
    }
    return Activation(state=state, **{**values, **given})


def test_the_blueprint_names_these_transitions_and_no_others() -> None:
    """From queued an activation runs or ends without having run; from running it only ends."""
    from_queued = {State.RUNNING, State.REFUSED, State.TIMED_OUT, State.CANCELLED}
    from_running = {State.SUCCEEDED, State.FAILED, State.TIMED_OUT, State.CANCELLED, State.WORKER_LOST}

    assert TRANSITIONS[State.QUEUED] == from_queued
    assert TRANSITIONS[State.RUNNING] == from_running
    assert {state for state, after in TRANSITIONS.items() if after} == {State.QUEUED, State.RUNNING}


@given(st.lists(st.sampled_from(State), max_size=6))
def test_no_walk_leaves_the_table(steps: list[State]) -> None:
    """Whatever is attempted in whatever order, a record moves only as the table says, and never after its end."""
    record = a_record()
    for state in steps:
        before = record
        if state in TRANSITIONS[record.state]:
            record = record.moved(state, nonce=new_id())
            assert record.state is state
            assert record.nonce != before.nonce
            continue
        with pytest.raises(ValueError, match="cannot go"):
            record.moved(state, nonce=new_id())
        assert record is before


@given(st.sampled_from(State))
def test_final_means_that_nothing_follows(state: State) -> None:
    """A state is final exactly when the table has nothing after it."""
    assert state.is_final is (not TRANSITIONS[state])


def test_the_key_has_the_owner_first() -> None:
    """A record's key begins with its owner's id, so that nobody else's request can name it."""
    record = a_record()

    assert record.key == f"{record.user_id}.{record.instance}.{record.ulid}"
    assert record.id == f"{record.instance}-{record.ulid}"
