"""
The history checker, fed with bad histories: one for each way to be wrong, each rejected under its name and under no
other; and with good ones that look bad, each accepted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.history import (
    INVARIANTS,
    Aftermath,
    Call,
    Fault,
    History,
    Limits,
    Record,
    Run,
    Sample,
    Violation,
    check,
    most_at_once,
)

pytestmark = [pytest.mark.F9, pytest.mark.F13]

FIRST = "a"
LIMITS = Limits(platform=4, per_user=2, per_function={"narrow": 1})
WELL = Aftermath(in_flight=0, admitted_again=4)
KILL = Fault(kind="kill worker", targets=frozenset({"worker-1"}), began_at=11.0, ended_at=13.0, loses=True)
RESTART = Fault(kind="restart", targets=frozenset({"api-1"}), began_at=9.9, ended_at=11.0, leaves=True)
NATS_DOWN = Fault(kind="kill nats", targets=frozenset({"nats-1"}), began_at=11.5, ended_at=31.5)


def call(token: str = FIRST, **given: Any) -> Call:
    """One that was sent at 10 and answered well at 12."""
    values: dict[str, Any] = {
        "token": token,
        "kind": "quick",
        "user": "ada",
        "function": "witness",
        "api": "api-1",
        "sent_at": 10.0,
        "over_at": 12.0,
        "timeout_s": 8.0,
        "status": 200,
        "activation": f"act-{token}",
        "is_complete": True,
    }
    return Call(**values | given)


def run(token: str = FIRST, **given: Any) -> Run:
    """Its run."""
    values: dict[str, Any] = {"worker": "worker-1", "began_at": 10.5, "alive_until": 11.5}
    return Run(**{"activation": f"act-{token}", "token": token} | values | given)


def record(token: str = FIRST, **given: Any) -> Record:
    """Its record."""
    values: dict[str, Any] = {"user": "ada", "function": "witness", "state": "succeeded", "ran": "yes"}
    return Record(**{"activation": f"act-{token}"} | values | given)


def history(**given: Any) -> History:
    """One good call, unless told otherwise."""
    values: dict[str, Any] = {"limits": LIMITS, "calls": [call()], "runs": [run()], "records": [record()]}
    return History(**values | {"aftermath": WELL} | given)


def failed(token: str = FIRST, **given: Any) -> Call:
    """A call that was told of a lost worker at 12."""
    return call(token, **{"status": 502, "code": "worker-lost", "ran": "unknown", "is_complete": None} | given)


BAD: dict[str, History] = {
    "ran-twice": history(runs=[run(), run(worker="worker-2", began_at=11.6, alive_until=11.7)]),
    "ran-twice-for-one-key": history(
        calls=[call(key="k"), call(key="k", status=None, activation=None, is_complete=None)],
        runs=[run(), run(activation="act-b")],
        records=[record(), record("b")],
        faults=[replace(KILL, targets=frozenset({"api-1"}), loses=False)],
    ),
    "another-outcome": history(
        calls=[call(key="k"), call("b", key="k")], runs=[run(), run("b")], records=[record(), record("b")]
    ),
    "incomplete-result": history(calls=[call(is_complete=False)]),
    "ran-disagrees": history(calls=[failed(code="runtime-failed", ran="no")]),
    "record-disagrees": history(records=[record(state="timed-out", ran="no")]),
    "unknown-without-cause": history(calls=[failed()]),
    "dropped-without-cause": history(calls=[call(status=None, activation=None, is_complete=None)]),
    "timed-out-early": history(
        calls=[call(status=504, code="timed-out", ran="no", clock="queue", is_complete=None)],
        runs=[],
        records=[record(state="timed-out", ran="no")],
    ),
    "run-without-record": history(
        calls=[call(status=None, activation=None)],
        records=[],
        faults=[replace(KILL, targets=frozenset({"api-1"}), loses=False)],
    ),
    "no-final-record": history(records=[record(state="running", ran="unknown")]),
    "final-too-late": history(records=[record(due_at=18.0, pending_at=28.1)]),
    "unanswered": history(
        calls=[call(status=None, activation=None, is_complete=None, gave_up=True, over_at=50.0)], records=[record()]
    ),
    "told-too-late": history(calls=[failed(over_at=16.1)], faults=[KILL], records=[record(ran="unknown")]),
    "slot-reused": history(
        calls=[failed()],
        records=[record(state="worker-lost", ran="unknown")],
        faults=[replace(KILL, kind="freeze worker")],
        runs=[run(alive_until=20.0)],
        samples=[Sample(began_at=15.0, ended_at=15.1, activations=frozenset({"act-b"}))],
    ),
    "still-in-flight": history(aftermath=replace(WELL, in_flight=1)),
    "not-admitted-again": history(aftermath=replace(WELL, admitted_again=3)),
    "not-well-again": history(aftermath=replace(WELL, unwell=["worker-1 is not ready after 60 s"])),
    "left-behind": history(aftermath=replace(WELL, left=["cgroup /sys/fs/cgroup/mayfly-1/a"])),
    "over-platform-limit": history(
        calls=[call(token, user=f"user-{token}") for token in "abcde"],
        runs=[run(token) for token in "abcde"],
        records=[record(token) for token in "abcde"],
    ),
    "over-user-limit": history(
        calls=[call(token) for token in "abc"],
        runs=[run(token) for token in "abc"],
        records=[record(token) for token in "abc"],
    ),
    "over-function-limit": history(
        calls=[call(token, function="narrow") for token in "ab"],
        runs=[run(token) for token in "ab"],
        records=[record(token) for token in "ab"],
    ),
}


def test_each_violation_has_a_history_that_breaks_it() -> None:
    """No name without a proof that it can be found."""
    assert BAD.keys() == INVARIANTS.keys()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_is_rejected_under_its_name(name: str) -> None:
    """Exactly what is wrong is named, with the number of the invariant."""
    found = check(BAD[name])

    assert {violation.name for violation in found} == {name}
    assert str(found[0]).startswith(f"invariant {INVARIANTS[name]}, {name}: ")


BAD_AS_WELL: dict[str, tuple[str, History]] = {
    "a command that still runs": ("left-behind", history(runs=[run(is_over=False)])),
    "a count that nobody can tell": ("still-in-flight", history(aftermath=replace(WELL, in_flight=None))),
    "a success that never ran": ("ran-disagrees", history(runs=[], records=[record(ran="unknown")])),
    "an error that claims to have run": (
        "ran-disagrees",
        history(calls=[failed(ran="yes", code="function-failed")], runs=[], records=[record(ran="unknown")]),
    ),
    "a record that claims to have run": ("record-disagrees", history(calls=[], runs=[])),
    "a refusal without an activation, which ran": (
        "ran-disagrees",
        history(calls=[call(status=503, code="queue-unavailable", ran="no", activation=None, is_complete=None)]),
    ),
    "a promise without a record": ("no-final-record", history(calls=[call(), call("b", status=202)])),
    "two failures of one key": (
        "another-outcome",
        history(
            calls=[failed(key="k"), failed("b", key="k")],
            runs=[run(), run("b")],
            records=[record(), record("b")],
            faults=[KILL],
        ),
    ),
    "one key, once well and once not": (
        "another-outcome",
        history(calls=[call(key="k"), failed(key="k")], faults=[KILL]),
    ),
    "a slot given back of a worker that was never struck": (
        "slot-reused",
        history(samples=[Sample(began_at=10.6, ended_at=10.7, activations=frozenset())]),
    ),
    "a fault on the other API server excuses no broken connection": (
        "dropped-without-cause",
        history(
            calls=[call(status=None, activation=None, is_complete=None)],
            faults=[replace(KILL, targets=frozenset({"api-2"}), loses=False)],
        ),
    ),
    "an API server that leaves in good order excuses no call that it had taken": (
        "dropped-without-cause",
        history(calls=[call(status=None, activation=None, is_complete=None)], faults=[RESTART]),
    ),
    "nor one that crossed the end of another's connection": (
        "dropped-without-cause",
        history(
            calls=[call(api="api-2", status=None, activation=None, is_complete=None, over_at=10.1)], faults=[RESTART]
        ),
    ),
    "nor an outcome that is not known": ("unknown-without-cause", history(calls=[failed()], faults=[RESTART])),
    "late in all, though NATS was away for some of it": (
        "final-too-late",
        history(records=[record(due_at=18.0, pending_at=42.0)], faults=[NATS_DOWN]),
    ),
    "late, while one of two API servers was away": (
        "final-too-late",
        history(
            records=[record(due_at=18.0, pending_at=30.0)],
            faults=[Fault(kind="freeze", targets=frozenset({"api-1"}), began_at=17.0, ended_at=40.0)],
        ),
    ),
    "told late, while another API server was away": (
        "told-too-late",
        history(
            calls=[failed(over_at=16.5)],
            faults=[KILL, Fault(kind="freeze", targets=frozenset({"api-2"}), began_at=10.0, ended_at=40.0)],
            records=[record(ran="unknown")],
        ),
    ),
}


@pytest.mark.parametrize("case", BAD_AS_WELL)
def test_other_ways_to_be_wrong(case: str) -> None:
    """What is wrong in another way under the same name is rejected, too."""
    name, bad = BAD_AS_WELL[case]

    assert {violation.name for violation in check(bad)} == {name}


GOOD: dict[str, History] = {
    "one call": history(),
    "nothing": history(calls=[], runs=[], records=[]),
    "a failure that ran": history(calls=[failed(code="function-failed", ran="yes")], records=[record(state="failed")]),
    "a call that was out of time": history(
        calls=[call(over_at=18.0, status=504, code="timed-out", ran="no", is_complete=None)], runs=[], records=[]
    ),
    "a call that was killed before its first system call": history(
        calls=[failed(status=499, code="cancelled", ran="yes")],
        runs=[],
        records=[record(state="cancelled", code="cancelled")],
    ),
    "a time-out that is told again": history(
        calls=[
            call(over_at=18.0, status=504, code="timed-out", ran="no", is_complete=None, key="k"),
            call(sent_at=18.1, over_at=18.2, status=504, code="timed-out", ran="no", is_complete=None, key="k"),
        ],
        runs=[],
        records=[],
    ),
    "a client that gave up while NATS was away": history(
        calls=[call(status=None, activation=None, is_complete=None, gave_up=True, over_at=45.0)], faults=[NATS_DOWN]
    ),
    "a request that crossed the end of its idle connection": history(
        calls=[call(status=None, activation=None, is_complete=None, over_at=10.1)],
        runs=[],
        records=[],
        faults=[RESTART],
    ),
    "a refusal": history(calls=[failed(status=429, code="concurrency-limit", ran="no")], runs=[], records=[]),
    "a lost worker, told in time": history(
        calls=[failed(over_at=15.9)], faults=[KILL], records=[record(ran="unknown")]
    ),
    "a lost worker, with NATS away meanwhile": history(
        calls=[failed(over_at=34.0)], faults=[KILL, NATS_DOWN], records=[record(ran="unknown")]
    ),
    "a lost worker, whose caller's API server was killed": history(
        calls=[call(status=None, activation=None, over_at=30.0, is_complete=None)],
        faults=[KILL, replace(KILL, targets=frozenset({"api-1"}), loses=False)],
        records=[record(state="worker-lost", ran="unknown")],
    ),
    "a call that came after the loss": history(
        calls=[call(sent_at=12.0, over_at=19.0)],
        runs=[run(began_at=13.5, alive_until=18.9)],
        faults=[KILL],
    ),
    "a worker that was kept from working for a moment": history(
        calls=[call(over_at=17.0)], runs=[run(alive_until=16.9)], faults=[replace(KILL, kind="freeze", loses=False)]
    ),
    "a record that was final late because no API server was there": history(
        records=[record(due_at=18.0, pending_at=40.0)],
        faults=[
            Fault(kind="freeze", targets=frozenset({"api-1"}), began_at=17.0, ended_at=39.0),
            Fault(kind="freeze", targets=frozenset({"api-2"}), began_at=18.0, ended_at=40.0),
        ],
    ),
    "a record that was final late because NATS was away": history(
        records=[record(due_at=18.0, pending_at=41.0)], faults=[NATS_DOWN]
    ),
    "a repeated call with the same outcome": history(calls=[call(key="k"), call(key="k", over_at=14.0)]),
    "an outcome that nobody could tell the first time": history(
        calls=[failed(key="k", code="queue-unavailable"), call(key="k", sent_at=13.0, over_at=14.0)], faults=[NATS_DOWN]
    ),
    "a key that was released by ran=no": history(
        calls=[
            call(key="k", status=429, code="concurrency-limit", ran="no", activation="act-0", is_complete=None),
            call(key="k"),
        ]
    ),
    "two calls of one key from two users": history(
        calls=[call(key="k"), call("b", key="k", user="bob")], runs=[run(), run("b")], records=[record(), record("b")]
    ),
    "an asynchronous call": history(calls=[call(status=202, waits=False, is_complete=None), call(sent_at=12.0)]),
    "a slot that was free a moment after the end": history(
        samples=[Sample(began_at=11.0, ended_at=11.6, activations=frozenset())]
    ),
    "a slot that was held while it ran": history(
        samples=[Sample(began_at=10.8, ended_at=10.9, activations=frozenset({"act-a"}))]
    ),
    "a message that a nats-server had forgotten while it was frozen": history(
        runs=[run(alive_until=40.0)],
        samples=[Sample(began_at=31.0, ended_at=31.1, activations=frozenset())],
        faults=[NATS_DOWN],
    ),
    "a message that was not there, and then it was": history(
        runs=[run(alive_until=13.0)],
        samples=[
            Sample(began_at=11.0, ended_at=11.1, activations=frozenset()),
            Sample(began_at=12.0, ended_at=12.1, activations=frozenset({"act-a"})),
        ],
    ),
    "as many as may run": history(
        calls=[call(token, user=f"user-{token}") for token in "abcd"],
        runs=[run(token) for token in "abcd"],
        records=[record(token) for token in "abcd"],
    ),
    "one after the other": history(
        calls=[call(token, function="narrow") for token in "ab"],
        runs=[run("a"), run("b", began_at=11.5, alive_until=11.9)],
        records=[record(token) for token in "ab"],
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_a_good_history_is_accepted(case: str) -> None:
    """What an honest platform can look like under faults is no violation."""
    assert check(GOOD[case]) == []


def test_everything_that_is_wrong_is_named() -> None:
    """One violation hides no other, and they come in the order of the invariants."""
    both = history(calls=[call(is_complete=False)], runs=[run(), run()], aftermath=replace(WELL, in_flight=2))

    assert [violation.invariant for violation in check(both)] == [1, 2, 6]
    assert check(both)[1] == Violation("incomplete-result", "call a (quick) got 200 with another body")


@pytest.mark.parametrize("backwards", [False, True])
def test_most_at_once_counts_what_certainly_overlapped(*, backwards: bool) -> None:
    """A run ends before another begins at the same instant; one without length counts for nothing."""
    runs = [run(began_at=1, alive_until=3), run(began_at=2, alive_until=4), run(began_at=4, alive_until=5)]
    runs += [run(began_at=2.5, alive_until=2.5)]

    assert most_at_once(runs[::-1] if backwards else runs) == (2, 2)
