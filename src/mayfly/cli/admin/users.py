"""Everybody's accounts: list, show, limit, role, suspend, resume, delete."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mayfly.cli.exits import Refused
from mayfly.cli.output import columns, pairs
from mayfly.cli.terminal import Terminal, connected

if TYPE_CHECKING:
    from mayfly.client.admin import Account

app = typer.Typer(no_args_is_help=True, help="Everybody's accounts.")

NO_LIMIT = "none"
HEAD = ("NAME", "ROLE", "LIMIT", "STATE", "CREATED", "ID")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.", show_default=False)]


@app.command("list")
@connected
async def list_(terminal: Terminal) -> None:
    """
    List all accounts by name.

    Example: mayfly admin users list
    """
    async with terminal.client() as client:
        found = [account async for account in client.admin.users()]
    terminal.answer(found, columns(HEAD, map(_row, found)))


@app.command()
@connected
async def show(terminal: Terminal, name: Name) -> None:
    """
    Show an account, and how many calls it has in flight.

    Example: mayfly admin users show ann
    """
    async with terminal.client() as client:
        found = await client.admin.user(name)
    terminal.answer(found, pairs(_lines(found)))


@app.command()
@connected
async def limit(
    terminal: Terminal,
    name: Name,
    activations: Annotated[str, typer.Argument(metavar="N", help="So many; or `none`, for no limit of its own.")],
) -> None:
    """
    Set how many calls of one user may be in flight, below the limit for all.

    It holds from the next call on. Calls in flight go on.

    Example: mayfly admin users limit ann 4

    Example: mayfly admin users limit ann none
    """
    if activations != NO_LIMIT and not re.fullmatch(r"[0-9]{1,9}", activations):
        raise Refused(f"A limit is a whole number, or {NO_LIMIT}.")
    count = None if activations == NO_LIMIT else int(activations)
    await _change(terminal, name, max_activations=count)


@app.command()
@connected
async def role(
    terminal: Terminal,
    name: Name,
    given: Annotated[Literal["operator", "user"], typer.Argument(metavar="ROLE", help="`operator` or `user`.")],
) -> None:
    """
    Make a user an operator, or an operator a user again.

    It holds from the next call on, in all logins. Your own role you cannot
    change.

    Example: mayfly admin users role ann operator
    """
    await _change(terminal, name, role=given)


@app.command()
@connected
async def suspend(terminal: Terminal, name: Name) -> None:
    """
    Take no login and no call of a user, until `resume`.

    Its functions, records and logins stay. What is in flight goes on:
    `mayfly admin kill NAME --all` ends it.

    Example: mayfly admin users suspend ann
    """
    await _change(terminal, name, suspended=True)


@app.command()
@connected
async def resume(terminal: Terminal, name: Name) -> None:
    """
    Take logins and calls of a user again.

    Example: mayfly admin users resume ann
    """
    await _change(terminal, name, suspended=False)


@app.command()
@connected
async def delete(
    terminal: Terminal,
    name: Name,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether this is meant.")] = False,
) -> None:
    """
    Delete an account with its functions, records and results.

    What it has in flight is ended. Nothing of it can be had back, and the
    name is free again.

    Example: mayfly admin users delete ann --yes
    """
    if not yes:
        raise Refused(f"This deletes {name} with all functions, records and results. Add --yes if that is meant.")
    async with terminal.client() as client, terminal.waiting("Waiting for what is in flight"):
        await client.admin.delete_user(name)
    terminal.done({"username": name}, f"{name} is deleted.")


async def _change(terminal: Terminal, name: str, **changes: object) -> None:
    async with terminal.client() as client:
        found = await client.admin.change_user(name, **changes)
    terminal.answer(found, pairs(_lines(found)))


def _row(account: Account) -> tuple[object, ...]:
    limit = NO_LIMIT if account.max_activations is None else account.max_activations
    return (account.username, account.role, limit, _state(account), account.created_at, account.id)


def _lines(account: Account) -> list[tuple[str, object]]:
    return [
        ("name", account.username),
        ("id", account.id),
        ("role", account.role),
        ("state", _state(account)),
        ("limit", NO_LIMIT if account.max_activations is None else account.max_activations),
        ("in flight", account.in_flight),
        ("created", account.created_at),
        ("invitation", account.invitation),
    ]


def _state(account: Account) -> str:
    return "suspended" if account.suspended else "active"
