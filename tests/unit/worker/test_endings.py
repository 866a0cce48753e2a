"""How an activation ended, from how its container did."""

from __future__ import annotations

from typing import Any

import pytest

from mayfly.containers.runtime import Ending, EndReason
from mayfly.domain.activation import State
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.limits import Limits
from mayfly.worker.endings import verdict_of, verdict_of_failure


def an_ending(**given: Any) -> Ending:
    """Make an ending; by default a good one."""
    values: dict[str, Any] = {
        "reason": EndReason.EXITED,
        "exit_code": 0,
        "stdout": b"result",
        "stderr": b"",
        "stderr_truncated": False,
        "cpu_us": 1,
        "memory_peak_bytes": 1,
        "start_s": 0.0,
        "run_s": 0.0,
    }
    return Ending(**{**values, **given})


@pytest.mark.F8
def test_exit_code_0_with_text_is_a_result() -> None:
    """stdout is the result, byte for byte."""
    verdict = verdict_of(an_ending(stdout="é\r\n\0".encode()), Limits(), allowed_s=30.0)

    assert verdict.state is State.SUCCEEDED
    assert verdict.result == "é\r\n\0".encode()


@pytest.mark.F11
@pytest.mark.parametrize(
    ("ending", "state", "code", "clock", "ran"),
    [
        (an_ending(exit_code=3), State.FAILED, "function-failed", None, "yes"),
        (an_ending(exit_code=137), State.FAILED, "function-failed", None, "yes"),
        (an_ending(stdout=b"\xff"), State.FAILED, "result-not-text", None, "yes"),
        (an_ending(stdout="\ud800".encode(errors="surrogatepass")), State.FAILED, "result-not-text", None, "yes"),
        (an_ending(reason=EndReason.RESULT_TOO_LARGE, exit_code=None), State.FAILED, "result-too-large", None, "yes"),
        (an_ending(reason=EndReason.OUT_OF_MEMORY, exit_code=137), State.FAILED, "out-of-memory", None, "yes"),
        (an_ending(reason=EndReason.NO_MEMORY_LEFT, exit_code=None), State.FAILED, "out-of-memory", None, "yes"),
        (an_ending(reason=EndReason.TIMED_OUT, exit_code=None), State.TIMED_OUT, "timed-out", "run", "yes"),
        (an_ending(reason=EndReason.CANCELLED, exit_code=None), State.WORKER_LOST, "worker-lost", None, "unknown"),
    ],
)
def test_each_ending_has_its_own_code(ending: Ending, state: State, code: str, clock: str | None, ran: str) -> None:
    """Endings are told apart, and none but a success carries a result."""
    verdict = verdict_of(ending, Limits(), allowed_s=30.0)

    assert (verdict.state, verdict.code, verdict.clock, verdict.ran) == (state, code, clock, ran)
    assert verdict.result is None
    assert verdict.detail


@pytest.mark.parametrize(
    ("exit_code", "detail"),
    [
        (1, "The function ended with exit code 1."),
        (139, "The function ended with exit code 139, as after signal 11 (SIGSEGV)."),
        (128, "The function ended with exit code 128."),
        (255, "The function ended with exit code 255."),
    ],
)
def test_an_exit_code_that_stands_for_a_signal_names_it(exit_code: int, detail: str) -> None:
    """128 and a signal's number is how a command's death by it looks; other codes are what they are."""
    assert verdict_of(an_ending(exit_code=exit_code), Limits(), allowed_s=30.0).detail == detail


@pytest.mark.parametrize("ran", ["no", "unknown"])
def test_a_runtime_that_failed_says_whether_the_command_ran(ran: Any) -> None:
    """What the runtime knows about the start reaches the caller."""
    verdict = verdict_of_failure(RuntimeFailed("crun: no such thing", ran=ran))

    assert (verdict.state, verdict.code, verdict.ran) == (State.FAILED, "runtime-failed", ran)
