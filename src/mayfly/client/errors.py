"""
What can go wrong with a call, seen by the one who calls.

    ClientError
    |- ApiError       Mayfly answered with a problem (RFC 9457); `code` is one of docs/reference/errors.md
    |- NotMayfly      something answered, but not as Mayfly does: another server, or a proxy in between
    |- Unreachable    nobody answered, or the connection broke
    |  `- NotTrusted  the server's certificate could not be verified
    |- NotLoggedIn    there is no token to call with; nothing was sent
    `- InvalidCall    what was asked cannot be sent; nothing was
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from typing import Any, ClassVar, cast

import httpx

from mayfly.domain.errors import Fault, Ran

PROBLEM = "application/problem+json"
SHOWN_CHARACTERS = 120


class ClientError(Exception):
    """A call came to nothing. `detail` is a sentence for a person, `ran` whether a function may have run."""

    code: str = "client-error"
    fault: Fault = "caller"

    def __init__(self, detail: str, *, ran: Ran = "no") -> None:
        """Nothing has run unless *ran* says so."""
        self.detail = detail
        self.ran: Ran = ran
        super().__init__(detail)


class ApiError(ClientError):
    """Mayfly's own word on why not. `members` are the problem's further members, such as `exit_code` or `limit`."""

    STANDARD: ClassVar = frozenset(
        {"type", "title", "status", "detail", "code", "fault", "ran", "request_id", "retry_after_s"}
    )

    def __init__(self, problem: dict[str, Any], *, status: int) -> None:
        """Take a problem apart; *status* is the answer's."""
        super().__init__(str(problem["detail"]), ran=cast("Ran", problem.get("ran", "unknown")))
        self.code = str(problem["code"])
        self.fault = cast("Fault", problem.get("fault", "platform"))
        self.status = status
        self.request_id = str(problem.get("request_id", ""))
        retry_after_s = problem.get("retry_after_s")
        self.retry_after_s: float | None = retry_after_s if isinstance(retry_after_s, int | float) else None
        self.members = {name: value for name, value in problem.items() if name not in self.STANDARD}


class NotMayfly(ClientError):
    """The answer is not one that Mayfly gives."""

    code = "not-mayfly"
    fault = "platform"


class Unreachable(ClientError):
    """There was no complete answer."""

    code = "unreachable"
    fault = "platform"


class NotTrusted(Unreachable):
    """The server's certificate could not be verified, so nothing was sent."""

    code = "not-trusted"


class NotLoggedIn(ClientError):
    """There is no token to call with."""

    code = "not-logged-in"


class InvalidCall(ClientError):
    """It cannot be sent."""

    code = "invalid-call"


def answer_error(response: httpx.Response) -> ApiError | NotMayfly:
    """Read an answer that is none of success."""
    if response.headers.get("content-type", "").partition(";")[0].strip().lower() == PROBLEM:
        problem = _json_object(response.content)
        if isinstance(problem.get("code"), str) and "detail" in problem:
            return ApiError(problem, status=response.status_code)
    return not_mayfly(response)


def not_mayfly(response: httpx.Response) -> NotMayfly:
    """Word an answer that Mayfly would not give."""
    kind = response.headers.get("content-type", "no content type")
    beginning = " ".join(response.content[:1024].decode(errors="replace").split())[:SHOWN_CHARACTERS]
    return NotMayfly(
        f"{response.url.scheme}://{response.url.netloc.decode()} answered {response.status_code} "
        f"{response.reason_phrase} ({kind}), which is not an answer of Mayfly's: {beginning!r}. "
        "Is the URL right, and is there a proxy in between?",
        ran="unknown" if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR else "no",
    )


def transport_error(error: httpx.RequestError, url: str) -> Unreachable:
    """Word a connection that failed. A request may have arrived unless it is certain that it was not sent."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return NotTrusted(f"The certificate of {url} is not trusted: {cause.verify_message}.")
    if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
        return Unreachable(f"{url} does not answer: there was no connection in time.")
    if isinstance(error, httpx.ConnectError):
        return Unreachable(_not_connected(causes, url))
    if isinstance(error, httpx.TimeoutException):
        return Unreachable(f"{url} did not answer in time.", ran="unknown")
    why = str(error) or type(error).__name__
    return Unreachable(f"The connection to {url} broke: {why}.", ran="unknown")


def _not_connected(causes: list[BaseException], url: str) -> str:
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return f"Nothing listens at {url}: the connection was refused."
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return f"{url} does not speak TLS as it should: {cause.reason or cause}."
    return f"There is no connection to {url}: {causes[-1] or type(causes[-1]).__name__}."


def _causes(error: BaseException) -> Iterator[BaseException]:
    """All that is behind an exception, the outermost first."""
    yield error
    for inner in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield from _causes(inner)
    behind = error.__cause__ or error.__context__
    if behind is not None:
        yield from _causes(behind)


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
