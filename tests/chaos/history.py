"""
The history checker: what clients, the witness and the records said, held against the eight invariants.

Pure: no clock, no I/O. All instants are seconds of one monotonic clock, that of the machine on which the run was
recorded. A history is never repaired; what is missing in it (an answer that did not come, a run that has no end) is
part of it.

Two things are uncertain from outside, and each is decided so that no honest platform is accused:

- how long a run lived: certainly from `began_at` until `alive_until`, when the witness last saw it alive;
- how long an outage of the test's making excuses: promises with a bound count only the seconds in which what they need
  (NATS; the API server that was asked; for the janitor, any API server) was not struck. A fault's window ends when the
  process that it struck is ready again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

FINAL_WITHIN_S: Final = 10.0
TOLD_WITHIN_S: Final = 5.0
AFTERMATH_S: Final = 20.0
"""How long after a fault its consequences are still its own: a lost worker's fence, an ack that timed out."""
CROSSED_S: Final = 0.5
"""How soon a connection breaks whose end a request has crossed. A call that was under way takes longer, mostly."""
KILLED: Final = frozenset({"cancelled", "timed-out", "out-of-memory", "runtime-failed", "worker-lost"})
"""Ends by force: the witness has seen nothing of a command that was killed before its first system calls."""
EARLY: Final = 0.9
"""Of a call's time must have passed before it may have run out: the API server began to count a moment after us."""
FINAL: Final = frozenset({"succeeded", "failed", "timed-out", "cancelled", "refused", "worker-lost"})

INVARIANTS: Final[Mapping[str, int]] = {
    "ran-twice": 1,
    "ran-twice-for-one-key": 1,
    "another-outcome": 1,
    "incomplete-result": 2,
    "ran-disagrees": 3,
    "record-disagrees": 3,
    "unknown-without-cause": 3,
    "dropped-without-cause": 3,
    "timed-out-early": 3,
    "run-without-record": 4,
    "no-final-record": 4,
    "final-too-late": 4,
    "unanswered": 4,
    "told-too-late": 5,
    "slot-reused": 5,
    "still-in-flight": 6,
    "not-admitted-again": 6,
    "not-well-again": 6,
    "left-behind": 7,
    "over-platform-limit": 8,
    "over-user-limit": 8,
    "over-function-limit": 8,
}
"""Each violation's name, and the invariant that it breaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One HTTP request as its client saw it: an invocation, or the fetching of an asynchronous one's result."""

    token: str  # one for each logical call: a retry has the same
    kind: str
    user: str
    function: str
    api: str  # the API server that was asked
    sent_at: float
    over_at: float  # the answer was complete, or the connection broke
    timeout_s: float
    status: int | None = None  # None: the connection broke before the answer was complete
    code: str | None = None
    ran: str | None = None
    clock: str | None = None  # which ran out: queue, image or run
    activation: str | None = None
    key: str | None = None  # Idempotency-Key
    is_complete: bool | None = None  # of an answer with a result: is it the expected one, byte for byte?
    gave_up: bool = False  # the client did, having waited long enough; its connection had not broken
    waits: bool = True  # for the outcome; not so an asynchronous submission, which is answered at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One start of a function's command, by its own mark."""

    activation: str
    token: str
    worker: str  # whose container it was in
    began_at: float  # by the command's own clock
    alive_until: float  # certainly
    is_over: bool = True  # the witness has seen its end


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An activation's record as the API showed it when everything was over, and when it was seen to change."""

    activation: str
    user: str
    function: str
    state: str
    ran: str
    code: str | None = None
    pending_at: float | None = None  # last seen not final
    due_at: float | None = None  # the call's deadline, by our clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the work stream held, read message by message from `began_at` to `ended_at`."""

    began_at: float
    ended_at: float
    activations: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One injected fault."""

    kind: str
    targets: frozenset[str]  # names of processes
    began_at: float
    ended_at: float  # when what it struck was ready again
    disables: bool = True  # whether the targets cannot do their part meanwhile
    leaves: bool = False  # an API server that ended in good order: that excuses a crossed request, and nothing else
    loses: bool = False  # whether a target is a worker whose running calls are lost by it
    proof: str = ""
    struck: bool = True  # the proof holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits in force."""

    platform: int
    per_user: int
    per_function: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aftermath:
    """What was found when every fault was over and every call had ended."""

    in_flight: int | None  # None: nobody could say
    admitted_again: int  # of as many calls at once as the platform's limit
    unwell: Sequence[str] = ()  # processes that did not recover by themselves from what struck them, in words
    left: Sequence[str] = ()  # containers, mounts, cgroups, namespaces, files, messages, entries: each in words


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All that was recorded of one run."""

    limits: Limits
    calls: Sequence[Call] = ()
    runs: Sequence[Run] = ()
    records: Sequence[Record] = ()
    samples: Sequence[Sample] = ()
    faults: Sequence[Fault] = ()
    aftermath: Aftermath
    nats: frozenset[str] = frozenset({"nats-1"})  # names of the servers
    apis: frozenset[str] = frozenset({"api-1", "api-2"})


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """A broken promise."""

    name: str
    detail: str

    @property
    def invariant(self) -> int:
        """Which of the eight."""
        return INVARIANTS[self.name]

    def __str__(self) -> str:
        return f"invariant {self.invariant}, {self.name}: {self.detail}"


def check(history: History) -> list[Violation]:
    """Return every violation, ordered by invariant."""
    checks = (
        _ran_twice,
        _other_outcomes,
        _incomplete_results,
        _ran_disagrees,
        _records_disagree,
        _without_cause,
        _timed_out_early,
        _final_records,
        _unanswered,
        _told_too_late,
        _slots_reused,
        _aftermath,
        _over_limits,
    )
    found = {violation for each in checks for violation in each(history)}
    return sorted(found, key=lambda violation: (violation.invariant, violation))


# --- 1: at most once ----------------------------------------------------------------------------------------------


def _ran_twice(history: History) -> Iterator[Violation]:
    for activation, count in Counter(run.activation for run in history.runs).items():
        if count > 1:
            yield Violation("ran-twice", f"activation {activation} ran {count} times")
    activations: dict[str, set[str]] = defaultdict(set)
    for run in history.runs:
        activations[run.token].add(run.activation)
    keyed = {call.token for call in history.calls if call.key is not None}
    for token in sorted(keyed & activations.keys()):
        if len(activations[token]) > 1:
            yield Violation("ran-twice-for-one-key", f"call {token} ran as {_listed(activations[token])}")


def _other_outcomes(history: History) -> Iterator[Violation]:
    """The same key has the same outcome, once it has one: the same activation, which did well or did not."""
    outcomes: dict[tuple[str, str], set[tuple[str | None, bool]]] = defaultdict(set)
    for call in history.calls:
        is_outcome = _is_ok(call) or (call.ran in ("yes", "unknown") and call.code != "queue-unavailable")
        if call.key is not None and call.waits and is_outcome and call.activation is not None:
            outcomes[call.user, call.key].add((call.activation, _is_ok(call)))
    for (_, key), different in sorted(outcomes.items()):
        if len(different) > 1:
            yield Violation("another-outcome", f"key {key} was answered with {_listed(map(str, different))}")


def _is_ok(call: Call) -> bool:
    return call.status == 200


# --- 2 and 3: honest answers --------------------------------------------------------------------------------------


def _incomplete_results(history: History) -> Iterator[Violation]:
    for call in history.calls:
        if call.status == 200 and not call.is_complete:
            yield Violation("incomplete-result", f"call {call.token} ({call.kind}) got 200 with another body")


def _ran_disagrees(history: History) -> Iterator[Violation]:
    """What a caller was told is compared with the activation that the answer names, and without one with the token."""
    by_activation = {run.activation for run in history.runs}
    by_token = {run.token for run in history.runs}
    keyed = {call.token for call in history.calls if call.key is not None}
    for call in history.calls:
        if call.status is None or call.status == 202:
            continue
        if call.activation is None and call.token in keyed:  # another request of the same key may have run
            continue
        ran = call.activation in by_activation if call.activation else call.token in by_token
        told = "yes" if call.status == 200 else call.ran
        if (told == "no" and ran) or (told == "yes" and not ran and call.code not in KILLED):
            truth = "it did run" if ran else "it did not run"
            said = f"{call.status} {call.code or ''}".strip()
            yield Violation("ran-disagrees", f"call {call.token} was told ran={told} ({said}), but {truth}")


def _records_disagree(history: History) -> Iterator[Violation]:
    ran = {run.activation for run in history.runs}
    for record in history.records:
        seen = record.activation in ran
        if (record.ran == "no" and seen) or (record.ran == "yes" and not seen and record.code not in KILLED):
            truth = "it did run" if seen else "it did not run"
            yield Violation(
                "record-disagrees", f"activation {record.activation} is {record.state}, ran={record.ran}, but {truth}"
            )


def _without_cause(history: History) -> Iterator[Violation]:
    """`unknown`, and a connection that just breaks, need a fault to excuse them."""
    struck = [fault for fault in history.faults if not fault.leaves]
    for call in history.calls:
        near = [fault for fault in struck if _overlaps(fault, call.sent_at - AFTERMATH_S, call.over_at)]
        if call.status is not None and call.ran == "unknown" and not near:
            yield Violation(
                "unknown-without-cause",
                f"call {call.token} got {call.status} {call.code}, ran=unknown, with no fault near",
            )
        if (
            call.status is None
            and not call.gave_up
            and not any(fault.disables and call.api in fault.targets for fault in near)
            and not _has_crossed(history, call)
        ):
            yield Violation("dropped-without-cause", f"call {call.token}: {call.api} broke the connection by itself")


def _timed_out_early(history: History) -> Iterator[Violation]:
    """Who is told that the time ran out was given that time, whatever the clocks say: by the key's first request."""
    first_sent_at: dict[str, float] = {}
    for call in history.calls:
        first_sent_at[call.token] = min(call.sent_at, first_sent_at.get(call.token, call.sent_at))
    for call in history.calls:
        took_s = call.over_at - first_sent_at[call.token]
        if call.code == "timed-out" and call.waits and took_s < call.timeout_s * EARLY:
            clock = f" in the {call.clock}" if call.clock else ""
            yield Violation(
                "timed-out-early",
                f"call {call.token} was told after {took_s:.1f} s that its {call.timeout_s:g} s had run out{clock}",
            )


# --- 4: every admitted call ends ----------------------------------------------------------------------------------


def _final_records(history: History) -> Iterator[Violation]:
    records = {record.activation: record for record in history.records}
    for activation in sorted({run.activation for run in history.runs} - records.keys()):
        yield Violation("run-without-record", f"activation {activation} ran and has no record")
    promised = {call.activation for call in history.calls if call.activation and call.status in (200, 202)}
    for activation in sorted(promised - records.keys()):
        yield Violation("no-final-record", f"activation {activation} was promised to a caller and has no record")
    troubles = _platform_troubles(history)
    for record in history.records:
        if record.state not in FINAL:
            yield Violation("no-final-record", f"activation {record.activation} is {record.state} for ever")
        if record.pending_at is None or record.due_at is None:
            continue
        late_s = _untroubled_s(record.due_at, record.pending_at, troubles)
        if late_s > FINAL_WITHIN_S:
            yield Violation(
                "final-too-late", f"activation {record.activation} was not final {late_s:.1f} s past its deadline"
            )


def _unanswered(history: History) -> Iterator[Violation]:
    """A caller is answered when the record must be final, at the latest."""
    for call in history.calls:
        if not call.gave_up:
            continue
        troubles = [*_nats_troubles(history), *_windows(history, {call.api})]
        waited_s = _untroubled_s(call.sent_at, call.over_at, troubles)
        if waited_s > call.timeout_s + FINAL_WITHIN_S:
            yield Violation("unanswered", f"call {call.token} waited {waited_s:.1f} s for an answer in vain")


# --- 5: lost workers ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A caller who waited for a run when its worker was lost, and was answered."""

    call: Call
    loss: Fault
    waited_s: float  # since the loss
    untroubled_s: float  # of that, while neither NATS nor the API server that was asked was struck


def callers_of_the_lost(history: History) -> Iterator[Told]:
    """A worker that is only kept from working for a while may come back and answer before it is taken for lost."""
    runs: dict[str, list[Run]] = defaultdict(list)
    for run in history.runs:
        runs[run.worker].append(run)
    waiting: dict[str, list[Call]] = defaultdict(list)
    for call in history.calls:
        if call.waits and call.activation and call.status is not None:
            waiting[call.activation].append(call)
    for loss in history.faults:
        if not loss.loses:
            continue
        for run in (run for target in loss.targets for run in runs[target]):
            if run.began_at <= loss.began_at <= run.alive_until:
                yield from _told(history, loss, waiting[run.activation])


def _told(history: History, loss: Fault, calls: Iterable[Call]) -> Iterator[Told]:
    for call in calls:
        if not call.sent_at <= loss.began_at <= call.over_at:
            continue
        troubles = [*_nats_troubles(history), *_windows(history, {call.api})]
        yield Told(
            call=call,
            loss=loss,
            waited_s=call.over_at - loss.began_at,
            untroubled_s=_untroubled_s(loss.began_at, call.over_at, troubles),
        )


def _told_too_late(history: History) -> Iterator[Violation]:
    for told in callers_of_the_lost(history):
        if told.untroubled_s > TOLD_WITHIN_S:
            call, loss = told.call, told.loss
            yield Violation(
                "told-too-late",
                f"call {call.token} heard {told.untroubled_s:.1f} s after {loss.kind} of {_listed(loss.targets)}: "
                f"{call.status} {call.code or ''}",
            )


def _slots_reused(history: History) -> Iterator[Violation]:
    """
    A message that has left the work stream has given its slot back; its container must be gone by then.

    A nats-server that was frozen takes itself for the leader for a moment and tells what it knew before. So samples
    from while NATS was struck do not count, and an absence before the last time that the message was there.
    """
    troubles = _merged(_nats_troubles(history))
    samples = [
        each for each in history.samples if not any(a <= each.ended_at and each.began_at <= b for a, b in troubles)
    ]
    last_seen: dict[str, float] = {}
    for sample in history.samples:
        for activation in sample.activations:
            last_seen[activation] = max(sample.began_at, last_seen.get(activation, 0.0))
    for run in history.runs:
        since = max(run.began_at, last_seen.get(run.activation, 0.0))
        inside = (each for each in samples if since <= each.began_at and each.ended_at < run.alive_until)
        freed = min((each.ended_at for each in inside if run.activation not in each.activations), default=None)
        if freed is not None:
            lived = f"lived on {run.worker} {run.alive_until - freed:.1f} s after its slot was free"
            yield Violation("slot-reused", f"activation {run.activation} {lived}")


# --- 6 and 7: afterwards ------------------------------------------------------------------------------------------


def _aftermath(history: History) -> Iterator[Violation]:
    after = history.aftermath
    if after.in_flight != 0:
        count = "an unknown number of" if after.in_flight is None else after.in_flight
        yield Violation("still-in-flight", f"{count} activations are in flight afterwards")
    if after.admitted_again != history.limits.platform:
        yield Violation("not-admitted-again", f"{after.admitted_again} of {history.limits.platform} are admitted again")
    for words in after.unwell:
        yield Violation("not-well-again", words)
    for run in history.runs:
        if not run.is_over:
            yield Violation("left-behind", f"the command of activation {run.activation} still runs on {run.worker}")
    for words in after.left:
        yield Violation("left-behind", words)


# --- 8: limits ----------------------------------------------------------------------------------------------------


def _over_limits(history: History) -> Iterator[Violation]:
    who = {call.token: (call.user, call.function) for call in history.calls}
    users, functions = defaultdict(list), defaultdict(list)
    for run in history.runs:
        if run.token in who:
            user, function = who[run.token]
            users[user].append(run)
            functions[f"{user}/{function}"].append(run)
    limits = history.limits
    yield from _over("over-platform-limit", "the platform", history.runs, limits.platform)
    for user, runs in sorted(users.items()):
        yield from _over("over-user-limit", f"user {user}", runs, limits.per_user)
    for name, runs in sorted(functions.items()):
        if limit := limits.per_function.get(name.partition("/")[2]):
            yield from _over("over-function-limit", f"function {name}", runs, limit)


def _over(name: str, whose: str, runs: Sequence[Run], limit: int) -> Iterator[Violation]:
    most, at = most_at_once(runs)
    if most > limit:
        yield Violation(name, f"{most} of {whose} ran at once, at {at:.3f}; {limit} may")


def most_at_once(runs: Sequence[Run]) -> tuple[int, float]:
    """How many certainly ran at the same time at the most, and when. An end goes before a start at the same instant."""
    steps = sorted([(run.began_at, 1) for run in runs] + [(max(run.began_at, run.alive_until), -1) for run in runs])
    most, now, at = 0, 0, 0.0
    for instant, step in steps:
        now += step
        if now > most:
            most, at = now, instant
    return most, at


# --- the time that counts -----------------------------------------------------------------------------------------

Window = tuple[float, float]


def _has_crossed(history: History, call: Call) -> bool:
    """HTTP/1.1 cannot close an idle connection without crossing a request on its way: that one breaks at once."""
    return call.over_at - call.sent_at < CROSSED_S and any(
        fault.leaves and call.api in fault.targets and _overlaps(fault, call.sent_at, call.over_at)
        for fault in history.faults
    )


def _overlaps(fault: Fault, since: float, until: float) -> bool:
    return fault.began_at <= until and fault.ended_at >= since


def _windows(history: History, names: Iterable[str]) -> list[Window]:
    wanted = frozenset(names)
    struck = (fault for fault in history.faults if fault.disables and not fault.leaves and fault.targets & wanted)
    return [(fault.began_at, fault.ended_at) for fault in struck]


def _nats_troubles(history: History) -> list[Window]:
    return _windows(history, history.nats)


def _platform_troubles(history: History) -> list[Window]:
    """NATS struck, or no API server that is not: then nobody can put right what a crash left."""
    each = [_merged(_windows(history, {api})) for api in sorted(history.apis)]
    all_struck = each[0] if each else []
    for windows in each[1:]:
        all_struck = [
            (max(a[0], b[0]), min(a[1], b[1])) for a in all_struck for b in windows if a[0] <= b[1] and b[0] <= a[1]
        ]
    return [*_nats_troubles(history), *all_struck]


def _merged(windows: Iterable[Window]) -> list[Window]:
    merged: list[Window] = []
    for since, until in sorted(windows):
        if merged and since <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], until))
        else:
            merged.append((since, until))
    return merged


def _untroubled_s(since: float, until: float, troubles: Iterable[Window]) -> float:
    """How much of the time from *since* to *until* no trouble covers."""
    covered = sum(max(0.0, min(until, end) - max(since, begin)) for begin, end in _merged(troubles))
    return max(0.0, until - since - covered)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
