"""What a run was like, in Markdown: how often each fault struck, proved; what callers were told; what was violated."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final

from tests.chaos.history import Fault, History, Told, Violation, callers_of_the_lost, most_at_once
from tests.chaos.load import answer_of

LONG_MIN: Final = 8.0
"""From so many minutes on each kind of fault must have struck so often:"""
MINIMUM: Final = 2
TOLD: Final = 12  # violations of one name, in words


def too_rare(history: History, kinds: Iterable[str], *, minimum: int = MINIMUM) -> dict[str, int]:
    """Which kinds of faults struck less often than they must, and how often they did."""
    struck = Counter(fault.kind for fault in history.faults if fault.struck)
    return {kind: struck[kind] for kind in sorted(kinds) if struck[kind] < minimum}


def report(
    history: History, violations: Sequence[Violation], *, missed: Mapping[str, int], minutes: float, seed: int
) -> str:
    """Write it."""
    return "\n".join(_lines(history, violations, missed=missed, minutes=minutes, seed=seed)) + "\n"


def _lines(
    history: History, violations: Sequence[Violation], *, missed: Mapping[str, int], minutes: float, seed: int
) -> Iterator[str]:
    struck = sum(fault.struck for fault in history.faults)
    command = f"scripts/chaos --minutes {minutes:g} --nats {len(history.nats)} --seed {seed}"
    yield f"`{command}`: {len(history.calls)} calls, {len(history.runs)} runs, {struck} faults,"
    yield f"violations: {len(violations)}."
    yield ""
    yield "| fault | struck | not proved | none there | an example of the proof |"
    yield "|---|---|---|---|---|"
    for kind in sorted({fault.kind for fault in history.faults} | missed.keys()):
        yield _fault_row(kind, [fault for fault in history.faults if fault.kind == kind], missed.get(kind, 0))
    yield ""
    yield "| call | answers |"
    yield "|---|---|"
    for kind in sorted({call.kind for call in history.calls}):
        answers = Counter(answer_of(call) for call in history.calls if call.kind == kind)
        yield f"| {kind} | {', '.join(f'{count} x {answer}' for answer, count in answers.most_common())} |"
    yield ""
    most, _ = most_at_once(history.runs)
    yield f"Most at once: {most} of {history.limits.platform}. Samples of the work stream: {len(history.samples)}."
    yield from _told(tuple(callers_of_the_lost(history)))
    if violations:
        yield ""
    for name, several in groupby(violations, key=lambda violation: violation.name):
        every = list(several)
        yield from (f"- {violation}" for violation in every[:TOLD])
        if len(every) > TOLD:
            yield f"- and {len(every) - TOLD} more of {name}"


def _fault_row(kind: str, faults: Sequence[Fault], missed: int) -> str:
    struck = [fault for fault in faults if fault.struck]
    proof = struck[0].proof if struck else ""
    return f"| {kind} | {len(struck)} | {len(faults) - len(struck)} | {missed} | {proof} |"


def _told(told: Sequence[Told]) -> Iterator[str]:
    if told:
        alone, whole = [each.untroubled_s for each in told], [each.waited_s for each in told]
        yield f"Callers of lost workers: {len(told)}, told after {statistics.median(alone):.1f} s (median) and"
        yield f"{max(alone):.1f} s (last), the time not counted in which NATS or their API server was struck, too; with"
        yield f"it {statistics.median(whole):.1f} and {max(whole):.1f} s."
