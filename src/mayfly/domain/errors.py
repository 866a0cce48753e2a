"""
Every error a caller can meet, as one tree. Inner rooms know no HTTP: `api.errors` maps `code` to a status.

    MayflyError
    |- RequestError     the caller's: what was asked cannot be done as asked
    |- LimitReached     admission refused, with the limit and when to come back
    |- FunctionError    the function ran (or could not), and this is its outcome
    `- PlatformError    ours

The docstring of a class is its default message, so an error never lacks one.
"""

from __future__ import annotations

from typing import ClassVar, Literal

Fault = Literal["caller", "function", "platform"]
Ran = Literal["no", "yes", "unknown"]


class MayflyError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "error"
    fault: ClassVar[Fault] = "platform"
    default_ran: ClassVar[Ran] = "no"

    def __init__(
        self,
        detail: str | None = None,
        *,
        ran: Ran | None = None,
        retry_after_s: float | None = None,
        **members: object,
    ) -> None:
        """*members* are further problem+json members, such as `field`, `limit` or `exit_code`."""
        self.detail = detail or (type(self).__doc__ or "").strip()
        self.ran: Ran = ran or self.default_ran
        self.retry_after_s = retry_after_s
        self.members = members
        super().__init__(self.detail)


class RequestError(MayflyError):
    """The request cannot be carried out as it stands."""

    fault = "caller"


class InvalidRequest(RequestError):
    """The request is not well formed."""

    code = "invalid-request"


class NotAuthenticated(RequestError):
    """A valid access token is needed: POST /v1/tokens gives one; send it as `Authorization: Bearer TOKEN`."""

    code = "not-authenticated"


class NotAllowed(RequestError):
    """This account may not do that."""

    code = "not-allowed"


class NotFound(RequestError):
    """There is no such thing under this name."""

    code = "not-found"


class AlreadyExists(RequestError):
    """The name is taken."""

    code = "already-exists"


class IdempotencyConflict(RequestError):
    """This Idempotency-Key was used for another call."""

    code = "idempotency-conflict"


class Gone(RequestError):
    """It existed, and does no longer."""

    code = "gone"


class PreconditionFailed(RequestError):
    """It changed since you read it: read it again and repeat the change."""

    code = "precondition-failed"


class ParameterTooLarge(RequestError):
    """The parameter is larger than allowed."""

    code = "parameter-too-large"


class UnsupportedEncoding(RequestError):
    """The body must come as it is: send it without Content-Encoding."""

    code = "unsupported-encoding"


class ParameterNotText(RequestError):
    """The parameter must be text in UTF-8."""

    code = "parameter-not-text"


class TooManyAttempts(RequestError):
    """Too many attempts; wait a little."""

    code = "too-many-attempts"


class LimitReached(MayflyError):
    """As many activations are in flight as the limit allows."""

    code = "concurrency-limit"
    fault = "caller"


class FunctionError(MayflyError):
    """The activation ended without a result."""

    fault: ClassVar[Fault] = "function"
    default_ran: ClassVar[Ran] = "yes"


class ImageUnavailable(FunctionError):
    """The image cannot be had."""

    code = "image-unavailable"
    default_ran = "no"


class FunctionFailed(FunctionError):
    """The function ended with an exit code other than 0."""

    code = "function-failed"


class ResultNotText(FunctionError):
    """The function's stdout is not text in UTF-8."""

    code = "result-not-text"


class ResultTooLarge(FunctionError):
    """The function wrote more to stdout than a result may hold."""

    code = "result-too-large"


class OutOfMemory(FunctionError):
    """The function needed more memory than its limit."""

    code = "out-of-memory"


class TimedOut(FunctionError):
    """The time allowed for the activation ran out."""

    code = "timed-out"


class Cancelled(FunctionError):
    """The activation was cancelled."""

    code = "cancelled"
    fault = "caller"


class PlatformError(MayflyError):
    """Mayfly could not do its part."""


class WorkerLost(PlatformError):
    """The worker that ran the activation was lost."""

    code = "worker-lost"
    default_ran = "unknown"


class QueueUnavailable(PlatformError):
    """The queue or the database does not answer; try again shortly."""

    code = "queue-unavailable"


class NoWorkers(PlatformError):
    """No worker could be asked; try again shortly."""

    code = "no-workers"


class RuntimeFailed(PlatformError):
    """The container could not be started or removed."""

    code = "runtime-failed"


class SecretUnavailable(PlatformError):
    """A secret that the function needs cannot be read."""

    code = "secret-unavailable"


class InternalError(PlatformError):
    """Something failed inside Mayfly; the request id finds it in the operator's log."""

    code = "internal-error"
    default_ran = "unknown"
