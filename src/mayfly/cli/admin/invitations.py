"""Invitations: create, list, delete."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from mayfly.cli.exits import Refused
from mayfly.cli.output import columns, say
from mayfly.cli.terminal import Terminal, connected

app = typer.Typer(no_args_is_help=True, help="Codes with which one account each is made, where that takes one.")

UNIT_S = {"m": 60, "h": 3600, "d": 86_400}
HEAD = ("ID", "BY", "CREATED", "EXPIRES", "NOTE")


@app.command()
@connected
async def create(
    terminal: Terminal,
    *,
    expires_in: Annotated[
        str, typer.Option(metavar="TIME", help="How long it is good: 30m, 12h or 7d, at most 30d.")
    ] = "7d",
    note: Annotated[str, typer.Option(metavar="TEXT", help="For operators: for whom it is.")] = "",
) -> None:
    """
    Make an invitation, and print its code.

    The code is good for one registration, and is never shown again:
    `mayfly register NAME --invitation CODE`.

    Example: mayfly admin invitations create --note "for ann" --expires-in 2d
    """
    seconds = _seconds(expires_in)
    async with terminal.client() as client:
        made = await client.admin.invite(expires_in_s=seconds, note=note)
    terminal.answer(made, made.code or "")
    if not terminal.as_json:
        say(f"It makes one account, until {made.expires_at:%Y-%m-%d %H:%M:%SZ}. It is not shown again.")


@app.command("list")
@connected
async def list_(terminal: Terminal) -> None:
    """
    List the invitations that can still be used, the newest first.

    Example: mayfly admin invitations list
    """
    async with terminal.client() as client:
        found = [invitation async for invitation in client.admin.invitations()]
    rows = [(each.id, each.created_by, each.created_at, each.expires_at, each.note or None) for each in found]
    terminal.answer(found, columns(HEAD, rows))


@app.command()
@connected
async def delete(
    terminal: Terminal,
    invitation: Annotated[str, typer.Argument(metavar="ID", help="The invitation's id, as the list has it.")],
) -> None:
    """
    Revoke an invitation: its code is good for nothing from now on.

    Example: mayfly admin invitations delete $ID
    """
    async with terminal.client() as client:
        await client.admin.revoke_invitation(invitation)
    terminal.done({"id": invitation}, "The invitation is revoked.")


def _seconds(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,6})([mhd])", text)
    if not found:
        raise Refused("A time is a whole number with m, h or d behind it, such as 12h.")
    return int(found[1]) * UNIT_S[found[2]]
