"""docs/reference/cli.md: every command with each option, and the exit statuses, from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator

from mayfly.__main__ import compose
from mayfly.api.errors import MEANINGS
from mayfly.cli.exits import PLATFORM, REMEDIES, USAGE, exit_status
from mayfly.cli.reference import cli_reference
from mayfly.client import errors as client_errors
from mayfly.client.errors import ApiError, ClientError
from pages.page import table, wrapped

HEADING = "## Options of every user's command"
STATUSES = """## Which error ends with which status

With `--json` the error's `code` is on stderr. These are the API's, each explained in [errors](errors.md):

{of_the_api}

And these are the command line's own:

{own}

"""


def page() -> str:
    """
    Write the whole page.

    Raises: ValueError when there is no place for what is added to the reference.
    """
    head, heading, rest = cli_reference(compose()).partition(HEADING)
    if not heading:
        raise ValueError(f"the reference of the commands has no heading {HEADING!r}")
    by_status: dict[int, list[str]] = {}
    for kind, meaning in MEANINGS.items():
        problem = {"code": kind.code, "detail": "", "fault": kind.fault, "ran": kind.default_ran}
        status = exit_status(ApiError(problem, status=meaning.status))
        by_status.setdefault(status, []).append(f"[`{kind.code}`](errors.md#{kind.code})")
    statuses = STATUSES.format(
        of_the_api=table(("status", "codes"), ((status, ", ".join(by_status[status])) for status in sorted(by_status))),
        own=table(("code", "status", "meaning", "remedy"), _own()),
    )
    return wrapped(head + statuses + heading + rest)


def own_errors() -> dict[str, type[ClientError]]:
    """Return the errors that the client finds itself, by their codes."""
    kinds = vars(client_errors).values()
    return {
        kind.code: kind
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, ClientError) and kind not in {ClientError, ApiError}
    }


def _own() -> Iterator[tuple[str, str, str, str]]:
    for code, kind in own_errors().items():
        remedy = REMEDIES.get(code, "`detail` says what was wrong.")
        yield f"`{code}`", str(exit_status(kind(""))), (kind.__doc__ or "").strip(), remedy
    yield (
        "`refused`",
        f"{USAGE}, {PLATFORM} where something was begun",
        "The command itself does not go on.",
        "`detail` says why, and what to do instead.",
    )
