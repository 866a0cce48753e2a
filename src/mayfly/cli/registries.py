"""One's own accounts at registries: set, list, delete. A password is asked for or piped in, never an argument."""

from __future__ import annotations

from typing import Annotated

import typer

from mayfly.cli import passwords
from mayfly.cli.output import columns
from mayfly.cli.terminal import Terminal, connected

app = typer.Typer(no_args_is_help=True, help="Your accounts at registries, for images that are not public.")

Host = Annotated[
    str,
    typer.Argument(metavar="HOST", help="The registry, as images name it: ghcr.io, docker.io.", show_default=False),
]
Username = Annotated[str, typer.Argument(metavar="USERNAME", help="Your name there.", show_default=False)]
PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin, one line.")]


@app.command("set")
@connected
async def set_(terminal: Terminal, host: Host, username: Username, *, password_stdin: PasswordStdin = False) -> None:
    """
    Set your account at a registry.

    Your functions' images are fetched with it from there; nobody else's are.
    The password, or what the registry calls a token, is sealed when it
    arrives, and never shown again.

    Example: mayfly registries set ghcr.io ann
    """
    password = passwords.from_stdin()[0] if password_stdin else passwords.ask(f"Password of {username} at {host}")
    async with terminal.client() as client:
        await client.set_registry(host, username=username, password=password)
    terminal.done({"set": host, "username": username}, f"Your images at {host} are fetched as {username} from now on.")


@app.command("list")
@connected
async def list_(terminal: Terminal) -> None:
    """
    List your accounts at registries, without the passwords.

    Example: mayfly registries list
    """
    async with terminal.client() as client:
        found = await client.registries()
    rows = [(entry.host, entry.username, entry.updated_at) for entry in found]
    terminal.answer(found, columns(("HOST", "USERNAME", "UPDATED"), rows))


@app.command()
@connected
async def delete(terminal: Terminal, host: Host) -> None:
    """
    Forget your account at a registry. Images that were fetched with it stay.

    Example: mayfly registries delete ghcr.io
    """
    async with terminal.client() as client:
        await client.delete_registry(host)
    terminal.done({"deleted": host}, f"Your account at {host} is forgotten.")
