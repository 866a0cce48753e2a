"""Exit statuses: the one table, and what an error leaves on stderr."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mayfly.cli.output import say, say_bytes

if TYPE_CHECKING:
    from mayfly.client import ApiError, ClientError

OK, FUNCTION, USAGE, LIMIT, IDENTITY, MISSING, PLATFORM, INTERRUPTED, PIPE = 0, 1, 2, 3, 4, 5, 6, 130, 141

EXITS = {
    OK: "It is done.",
    FUNCTION: "The call gave no result: it failed, took too long, was cancelled, wrote too much or no text.",
    USAGE: "The command line or a value in it cannot be.",
    LIMIT: "Refused by a limit; nothing ran. Try again later.",
    IDENTITY: "Not logged in, or not allowed.",
    MISSING: "There is no such function, activation, image or user, or no longer; or the name is taken.",
    PLATFORM: "Mayfly cannot be reached, or could not do its part.",
    INTERRUPTED: "Ctrl-C.",
    PIPE: "Whoever read the output stopped reading.",
}
"""What each status means. docs/reference/cli.md and the help are made from this table."""

EPILOG = "\n".join(["Exit statuses:", *(f"{status:>3}  {meaning}" for status, meaning in EXITS.items())])

BY_CODE = {
    "image-unavailable": MISSING,
    "cancelled": FUNCTION,
    "not-logged-in": IDENTITY,
    "invalid-call": USAGE,
    "idempotency-conflict": USAGE,
}
BY_STATUS = {401: IDENTITY, 403: IDENTITY, 404: MISSING, 409: MISSING, 410: MISSING, 412: MISSING, 429: LIMIT}

LOG_IN = "`mayfly login NAME` logs you in, `mayfly register NAME` makes an account."
REMEDIES = {
    "not-logged-in": LOG_IN,
    "not-authenticated": LOG_IN,
    "not-found": "`mayfly functions list` and `mayfly activations list` show what you have.",
    "unreachable": "Is `mayfly up` running, and is --url (or MAYFLY_URL) right?",
    "not-trusted": "Name its certificate authority with --ca FILE or MAYFLY_CA_FILE; `mayfly up` prints where its own "
    "is.",
}
MORE_TIME = "`mayfly functions update NAME --timeout SECONDS` gives it more time."


class Refused(Exception):
    """The command cannot go on. The first argument is a sentence for a person, with the remedy."""

    def __init__(self, sentence: str, *, status: int = USAGE) -> None:
        """End with *status*."""
        self.status = status
        super().__init__(sentence)


def exit_status(error: ClientError) -> int:
    """Tell with which status a command ends that met *error*."""
    if error.code in BY_CODE:
        return BY_CODE[error.code]
    if error.fault == "function":
        return FUNCTION
    status: int = getattr(error, "status", 500)
    return BY_STATUS.get(status, USAGE if status < 500 else PLATFORM)


def report(error: ClientError, *, as_json: bool) -> None:
    """Say on stderr what went wrong: the function's own last words first, then a sentence and a remedy."""
    if as_json:
        say(json.dumps(_as_problem(error)))
        return
    members: dict[str, Any] = getattr(error, "members", {})
    if members.get("stderr"):
        _show_last_words(str(members["stderr"]))
    say(f"mayfly: {error.detail}")
    for hint in _hints(error, members):
        say(hint)


def report_refusal(sentence: str, *, as_json: bool) -> None:
    """Say on stderr why the command itself did not go on."""
    problem = {"code": "refused", "detail": sentence, "fault": "caller", "ran": "no"}
    say(json.dumps(problem) if as_json else f"mayfly: {sentence}")


def _show_last_words(stderr: str) -> None:
    say_bytes(stderr.encode(errors="replace"))
    if not stderr.endswith("\n"):
        say("")


def _hints(error: ClientError, members: dict[str, Any]) -> list[str]:
    hints = []
    # a wrong password, or a login that has ended, is said with its remedy by the API
    if error.code in REMEDIES and members.get("error") != "invalid_grant":
        hints.append(REMEDIES[error.code])
    if error.code == "timed-out" and members.get("clock") == "run":
        hints.append(MORE_TIME)
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        hints.append(f"Try again in {retry_after_s:g} s.")
    if "activation_id" in members and error.fault != "caller":
        hints.append(f"`mayfly activations show {members['activation_id']}` tells more.")
    if error.ran == "unknown":
        hints.append("It is not known whether the function ran: `mayfly activations list` may tell.")
    return hints


def _as_problem(error: ClientError) -> dict[str, Any]:
    problem: dict[str, Any] = {"code": error.code, "detail": error.detail, "fault": error.fault, "ran": error.ran}
    api_error: ApiError | Any = error
    for name in ("status", "request_id", "retry_after_s"):
        if getattr(api_error, name, None) is not None:
            problem[name] = getattr(api_error, name)
    return problem | getattr(error, "members", {})
