"""From how a container ended to how its activation did: the one table. Rows: F8, F10, F11."""

from __future__ import annotations

from dataclasses import dataclass

from mayfly.containers.runtime import Ending, EndReason
from mayfly.domain.activation import State
from mayfly.domain.errors import (
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


def verdict_of(ending: Ending, limits: Limits) -> Verdict:
    """Judge an ending. Only exit code 0 with text on stdout is a success."""
    match ending.reason:
        case EndReason.TIMED_OUT:
            detail = f"The function ran longer than it may ({limits.timeout_s:g} s at the most) and was ended."
            return Verdict(state=State.TIMED_OUT, code=TimedOut.code, detail=detail, clock="run")
        case EndReason.OUT_OF_MEMORY:
            return _failed(
                OutOfMemory, f"The function needed more than its {limits.memory_mib} MiB of memory and was ended."
            )
        case EndReason.RESULT_TOO_LARGE:
            return _failed(
                ResultTooLarge, f"The function wrote more than {RESULT_MAX_BYTES} bytes to stdout and was ended."
            )
        case EndReason.CANCELLED:  # only a worker that must stop kills containers, today
            detail = "The worker had to stop before the function ended."
            return Verdict(state=State.WORKER_LOST, code=WorkerLost.code, detail=detail, ran="unknown")
        case EndReason.EXITED:
            return _exited(ending)


def _exited(ending: Ending) -> Verdict:
    if ending.exit_code != 0:
        return _failed(FunctionFailed, f"The function ended with exit code {ending.exit_code}.")
    try:
        ending.stdout.decode()
    except UnicodeDecodeError as error:
        return _failed(ResultNotText, f"The function's stdout is not UTF-8: byte {error.start} cannot be read.")
    return Verdict(state=State.SUCCEEDED, result=ending.stdout)


def verdict_of_failure(error: RuntimeFailed) -> Verdict:
    """Judge a container that could not be run to an end."""
    return Verdict(state=State.FAILED, code=error.code, detail=error.detail, ran=error.ran)


def _failed(kind: type[MayflyError], detail: str) -> Verdict:
    return Verdict(state=State.FAILED, code=kind.code, detail=detail)
