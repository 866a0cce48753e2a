"""From how a container ended to how its activation did: the one table. Rows: F8, F10, F11."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Literal

from mayfly.containers.runtime import Ending, EndReason
from mayfly.domain.activation import State
from mayfly.domain.errors import (
    Cancelled,
    FunctionFailed,
    MayflyError,
    OutOfMemory,
    Ran,
    ResultNotText,
    ResultTooLarge,
    RuntimeFailed,
    TimedOut,
    WorkerLost,
)
from mayfly.domain.limits import RESULT_MAX_BYTES, Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How an activation ended; *result* only if it succeeded."""

    state: State
    code: str | None = None
    detail: str | None = None
    clock: str | None = None
    ran: Ran = "yes"
    result: bytes | None = None


CancelledBy = Literal["owner", "operator"]

CANCELLED: dict[CancelledBy, str] = {
    "owner": "The activation was cancelled, and its container ended.",
    "operator": "The activation was ended by an operator of this installation.",
}
NOT_STARTED: dict[CancelledBy, str] = {
    "owner": "The activation was cancelled before its command was started.",
    "operator": "The activation was ended by an operator of this installation before its command was started.",
}
LACK_OF_MEMORY = {
    EndReason.OUT_OF_MEMORY: "The function needed more than its {} MiB of memory and was ended.",
    EndReason.NO_MEMORY_LEFT: "The function was ended for lack of memory when it had less than its {} MiB: its worker, "
    "or the machine, had no more to give.",
}


def verdict_of(ending: Ending, limits: Limits, *, allowed_s: float, cancelled_by: CancelledBy | None = None) -> Verdict:
    """
    Judge an ending. Only exit code 0 with text on stdout is a success. *allowed_s* is what the call had of time in all,
    and *cancelled_by* says who wanted the end, if somebody did.
    """
    match ending.reason:
        case EndReason.TIMED_OUT:
            detail = f"The call's {allowed_s:.4g} s were over while the function ran, and it was ended."
            return Verdict(state=State.TIMED_OUT, code=TimedOut.code, detail=detail, clock="run")
        case EndReason.OUT_OF_MEMORY | EndReason.NO_MEMORY_LEFT:
            return _failed(OutOfMemory, LACK_OF_MEMORY[ending.reason].format(limits.memory_mib))
        case EndReason.RESULT_TOO_LARGE:
            return _failed(
                ResultTooLarge, f"The function wrote more than {RESULT_MAX_BYTES} bytes to stdout and was ended."
            )
        case EndReason.CANCELLED if cancelled_by:
            return Verdict(state=State.CANCELLED, code=Cancelled.code, detail=CANCELLED[cancelled_by])
        case EndReason.CANCELLED:
            detail = "The worker had to stop, or was cut off from NATS, before the function ended."
            return Verdict(state=State.WORKER_LOST, code=WorkerLost.code, detail=detail, ran="unknown")
        case EndReason.EXITED:
            return _exited(ending)


def _exited(ending: Ending) -> Verdict:
    if ending.exit_code != 0:
        return _failed(FunctionFailed, f"The function ended with exit code {ending.exit_code}{_signal(ending)}.")
    try:
        ending.stdout.decode()
    except UnicodeDecodeError as error:
        return _failed(ResultNotText, f"The function's stdout is not UTF-8: byte {error.start} cannot be read.")
    return Verdict(state=State.SUCCEEDED, result=ending.stdout)


def _signal(ending: Ending) -> str:
    """Name the signal that an exit code stands for. A command may choose such a code itself, so no more than that."""
    number = (ending.exit_code or 0) - 128
    try:
        return f", as after signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return ""


def verdict_of_failure(error: RuntimeFailed, *, cancelled_by: CancelledBy | None = None) -> Verdict:
    """Judge a container that could not be run to an end; one that was killed before its start cannot."""
    if cancelled_by and error.ran == "no":
        return Verdict(state=State.CANCELLED, code=Cancelled.code, detail=NOT_STARTED[cancelled_by], ran="no")
    return Verdict(state=State.FAILED, code=error.code, detail=error.detail, ran=error.ran)


def _failed(kind: type[MayflyError], detail: str) -> Verdict:
    return Verdict(state=State.FAILED, code=kind.code, detail=detail)
