"""Keys for machines. create, list, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mayfly.cli.moments import duration
from mayfly.cli.output import columns, say
from mayfly.cli.terminal import Terminal, connected

if TYPE_CHECKING:
    from mayfly.client import Key

app = typer.Typer(no_args_is_help=True, help="Your keys: long-lived tokens for machines.")

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="What it is for, such as ci: letters, digits and -.", show_default=False)
]
NameOrId = Annotated[str, typer.Argument(metavar="NAME", help="The key's name, or its id.", show_default=False)]
Expires = Annotated[
    str | None,
    typer.Option("--expires", metavar="TIME", help="How long it is good for: 12h, 30d, at most 366d (default 90d)."),
]


@app.command()
@connected
async def create(terminal: Terminal, name: Name, *, expires: Expires = None) -> None:
    """
    Make a key.

    Its token goes to stdout, once: nobody can read it again. A machine calls with it in MAYFLY_TOKEN, and may do what
    you may, but not make or delete keys, log out, change the password or delete the account.

    Example: mayfly keys create ci --expires 30d > ci.token
    """
    lives_s = None if expires is None else int(duration(expires))
    async with terminal.client() as client:
        key = await client.create_key(name, expires_in_s=lives_s)
    terminal.answer(key, key.token)
    if not terminal.as_json:
        say(
            f"{name} is good until {key.expires_at:%Y-%m-%d %H:%M} UTC. Keep it like a password; it is not shown again."
        )


@app.command("list")
@connected
async def list_(terminal: Terminal) -> None:
    """
    List your keys.

    Example: mayfly keys list
    """
    async with terminal.client() as client:
        keys = await client.keys()
    terminal.answer(keys, columns(("NAME", "ID", "CREATED", "EXPIRES", "STATE"), map(_row, keys)))


@app.command()
@connected
async def delete(terminal: Terminal, name: NameOrId) -> None:
    """
    End a key: it is refused from now on.

    Example: mayfly keys delete ci
    """
    async with terminal.client() as client:
        await client.delete_key(name)
    terminal.done({"deleted": name}, f"The key {name} has ended.")


def _row(key: Key) -> tuple[object, ...]:
    return key.name, key.id, key.created_at, key.expires_at, "good" if key.usable else "its token key was removed"
