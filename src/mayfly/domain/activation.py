"""
An activation: one call, from its admission to its end, and the record that says how it went.

`TRANSITIONS` is the only table of what may follow what. The record's compare-and-set is the truth about an
activation; everything else that the queue says (delivery counts, acks) is a hint. Rows: F9, F11, F12.
"""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

from mayfly.domain.errors import Ran
from mayfly.domain.function import DEFAULT_RESULT_TYPE, Function, ParameterMode
from mayfly.domain.ids import ActivationId, activation_id
from mayfly.domain.limits import PARAMETER_MAX_BYTES
from mayfly.domain.stored import (
    Count,
    HeaderText,
    KeepSeconds,
    Moment,
    Seconds,
    StoredDigest,
    StoredFunctionName,
    StoredId,
    StoredUserId,
    StoredWorkerId,
)

RECORD_MARGIN_S = 3600.0
"""A record that nobody ends lives this much longer than its deadline; from its start on as long as a key, if longer."""


class State(enum.StrEnum):
    """Where an activation stands."""

    QUEUED = "queued"  # admitted, or about to be: its record exists, no container has run
    RUNNING = "running"  # one worker won the start fence; its container may have run
    SUCCEEDED = "succeeded"  # exit code 0, the result is complete
    FAILED = "failed"  # it ended without a result; `code` says how
    TIMED_OUT = "timed-out"  # its time ran out; `clock` says where
    CANCELLED = "cancelled"  # its caller ended it
    REFUSED = "refused"  # it never ran: a limit, no image, or its function was deregistered while it waited
    WORKER_LOST = "worker-lost"  # its worker is gone, nobody knows how far it came

    @property
    def is_final(self) -> bool:
        """Nothing follows a final state."""
        return not TRANSITIONS[self]


TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.REFUSED, State.TIMED_OUT, State.CANCELLED}),
    State.RUNNING: frozenset(
        {State.SUCCEEDED, State.FAILED, State.TIMED_OUT, State.CANCELLED, State.WORKER_LOST},
    ),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.TIMED_OUT: frozenset(),
    State.CANCELLED: frozenset(),
    State.REFUSED: frozenset(),
    State.WORKER_LOST: frozenset(),
}


class Steps(msgspec.Struct, frozen=True, kw_only=True):
    """How long each step took, in seconds; None for a step that was not reached."""

    admit_s: Seconds | None = None  # at the API server: request read until the message was in the stream
    queue_s: Seconds | None = None  # in the stream, until a worker claimed it
    image_s: Seconds | None = None  # image made ready and container created
    start_s: Seconds | None = None  # parameter handed over, until the first byte of output or the exit
    run_s: Seconds | None = None  # parameter handed over, until no process was left


class Activation(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one activation. Small: the result and the logs are in the response stream."""

    v: int = 1
    state: State
    nonce: str  # new with each transition, so that a writer whose answer was lost knows its own win
    user_id: StoredUserId
    instance: StoredId  # the API server that waits for it
    ulid: StoredId
    function: StoredFunctionName
    function_id: StoredId
    image: str
    digest: StoredDigest | None
    result_type: HeaderText = DEFAULT_RESULT_TYPE
    parameter_bytes: Count
    parameter_sha256: str
    created_at: Moment  # the request's arrival. All times: seconds since the epoch by NATS's clock (`bus.clock`)
    deadline_at: Moment
    admitted_at: Moment | None = None  # when NATS took it into the queue
    claimed_at: Moment | None = None  # when a worker took it out
    ran: Ran = "no"
    worker: StoredWorkerId | None = None
    started_at: Moment | None = None  # when the command was sent into the container
    ended_at: Moment | None = None  # when this final state was written
    removed_at: Moment | None = None  # when nothing of the container was left; None until then, or if nobody could say
    attempt: str | None = None  # names the valid response: the nonce that won the start fence
    response_seq: Count | None = None  # where the response is in RESPONSES
    code: str | None = None  # of the error, if it ended with one
    detail: str | None = None
    clock: str | None = None  # of a time-out: queue, image or run
    exit_code: int | None = None
    result_bytes: Count | None = None
    stderr_bytes: Count | None = None
    cpu_us: Count | None = None
    memory_peak_bytes: Count | None = None
    steps: Steps = Steps()
    keep_s: KeepSeconds | None = None  # after its end, at most: its user's share of the store (`services.lifetimes`)

    @property
    def id(self) -> ActivationId:
        """The id by which the caller knows it."""
        return activation_id(self.instance, self.ulid)

    @property
    def key(self) -> str:
        """Its key in the bucket, and the tail of its response's subject."""
        return f"{self.user_id}.{self.instance}.{self.ulid}"

    def kept_s(self, longest_s: float) -> float:
        """Say how long it is kept after its end, and its response: *longest_s*, or its own time if that is shorter."""
        return longest_s if self.keep_s is None else min(longest_s, self.keep_s)

    def moved(self, state: State, *, nonce: str, **changes: object) -> Activation:
        """
        Return the record in its next state.

        Raises: ValueError when `TRANSITIONS` does not allow the step (a bug, never a caller's doing).
        """
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"an activation cannot go from {self.state} to {state}")
        return msgspec.structs.replace(self, state=state, nonce=nonce, **changes)

    @property
    def ready_at(self) -> float | None:
        """When image and container were ready."""
        return _after(self.claimed_at, self.steps.image_s)

    @property
    def first_byte_at(self) -> float | None:
        """When the first byte of output came, or the exit without any."""
        return _after(self.started_at, self.steps.start_s)

    @property
    def exited_at(self) -> float | None:
        """When the last process of the container was dead."""
        return _after(self.started_at, self.steps.run_s)


def _after(moment: float | None, seconds: float | None) -> float | None:
    return None if moment is None or seconds is None else moment + seconds


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """
    The message in the work stream: all a worker needs to run one activation.

    `budget_s` is what was left of the deadline when the message was published; together with the time that NATS
    itself says the message lay in the stream, it needs no agreement between the clocks of two machines.
    """

    v: int = 1
    user_id: StoredUserId
    instance: StoredId
    ulid: StoredId
    revision: Annotated[int, msgspec.Meta(ge=1)]  # of the record in state `queued`: what the start fence compares with
    record: Activation
    function: Function
    parameter: Annotated[bytes, msgspec.Meta(max_length=PARAMETER_MAX_BYTES)]
    budget_s: Seconds
    traceparent: HeaderText | None = None

    def __post_init__(self) -> None:
        """
        See that the parts belong together: what a worker does with one of them is done in the name of all.

        Raises: ValueError.
        """
        if self.record.key != self.key or self.record.state is not State.QUEUED:
            raise ValueError("the record is not that of the activation, waiting")
        if (self.function.user_id, self.function.id) != (self.user_id, self.record.function_id):
            raise ValueError("the function is not that of the activation")
        if self.function.parameter is not ParameterMode.STDIN and "\0" in self.parameter.decode():
            raise ValueError("the parameter has a NUL, and is no stdin")

    @property
    def key(self) -> str:
        """The record's key."""
        return f"{self.user_id}.{self.instance}.{self.ulid}"


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker answers, result or failure. Valid only if the final record names its `attempt`."""

    v: int = 1
    attempt: str
    result: bytes | None = None
    stderr: bytes = b""
    stderr_truncated: bool = False
