"""Who did what with one's account."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mayfly.cli.output import columns
from mayfly.cli.terminal import Terminal, connected

if TYPE_CHECKING:
    from mayfly.client import AuditEntry

HEAD = ("AT", "ACTION", "SUBJECT", "OUTCOME", "TIMES", "BY", "FROM", "LOGIN")


@connected
async def audit(
    terminal: Terminal, *, limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many at most.")] = 20
) -> None:
    """
    Show who did what with your account, the newest first.

    Logins and refused ones, changes of functions and password, what the
    operator set: each with the address from which it came and the login with
    which it was done. Calls are in `mayfly activations list`.

    Example: mayfly audit --limit 50
    """
    found: list[AuditEntry] = []
    async with terminal.client() as client:
        async for entry in client.audit():
            found.append(entry)
            if len(found) == limit:
                break
    terminal.answer(found, columns(HEAD, map(_row, found)))


def _row(entry: AuditEntry) -> tuple[object, ...]:
    outcome = f"{entry.outcome}: {entry.code}" if entry.code else entry.outcome
    return (entry.at, entry.action, entry.subject, outcome, entry.times, entry.by, entry.address, entry.session)
