"""Secrets of a function: set, list, delete. A value is read from stdin or a file; it is never an argument, or shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mayfly.cli import passwords
from mayfly.cli.exits import Refused
from mayfly.cli.interrupts import interruptible, stdin
from mayfly.cli.output import columns, say
from mayfly.cli.terminal import Terminal, connected

app = typer.Typer(no_args_is_help=True, help="Values that a function is given and nobody is shown.")

Function = Annotated[str, typer.Argument(metavar="NAME", help="The function's name.", show_default=False)]
Key = Annotated[str, typer.Argument(metavar="KEY", help="The secret's name.", show_default=False)]
DeliverAs = Annotated[
    Literal["environment", "file"],
    typer.Option("--as", help="As the variable KEY, or as the file /run/secrets/KEY."),
]
File = Annotated[
    Path | None, typer.Option("--file", "-f", metavar="FILE", help="Read the value from a file, not from stdin.")
]


@app.command("set")
@connected
async def set_(
    terminal: Terminal, name: Function, key: Key, *, file: File = None, deliver_as: DeliverAs = "environment"
) -> None:
    """
    Set a secret: the next call has it.

    The value is what stdin has, or the file, byte for byte; at a terminal you
    are asked for it without echo. It is sealed when it arrives, and never
    shown again.

    Example: mayfly functions secrets set report API_TOKEN < token.txt

    Example: mayfly functions secrets set report CLIENT_KEY --as file --file client.key
    """
    value = _value(key, file)
    async with terminal.client() as client:
        await client.set_secret(name, key, value, deliver_as=deliver_as)
    terminal.done({"set": key, "function": name, "as": deliver_as}, f"{key} is set; the next call of {name} has it.")
    if value.endswith(b"\n"):
        say("Its value ends with a newline, which is part of it: `printf %s` writes one without.")


@app.command("list")
@connected
async def list_(terminal: Terminal, name: Function) -> None:
    """
    List a function's secrets, without their values.

    Example: mayfly functions secrets list report
    """
    async with terminal.client() as client:
        found = await client.secrets(name)
    rows = [(secret.key, secret.deliver_as, secret.size_bytes, secret.updated_at) for secret in found]
    terminal.answer(found, columns(("KEY", "AS", "BYTES", "UPDATED"), rows))


@app.command()
@connected
async def delete(terminal: Terminal, name: Function, key: Key) -> None:
    """
    Delete a secret: the next call does not have it.

    Example: mayfly functions secrets delete report API_TOKEN
    """
    async with terminal.client() as client:
        await client.delete_secret(name, key)
    terminal.done({"deleted": key, "function": name}, f"{key} is deleted.")


def _value(key: str, file: Path | None) -> bytes:
    from mayfly.domain.secret import VALUE_MAX_BYTES

    if file is not None:
        try:
            with interruptible(), file.open("rb") as content:
                return _bounded(content.read(VALUE_MAX_BYTES + 1))
        except OSError as error:
            raise Refused(f"{file} cannot be read: {error.strerror}.") from None
    if stdin().isatty():
        return passwords.ask(f"Value of {key}").encode()
    with interruptible():
        return _bounded(stdin().buffer.read(VALUE_MAX_BYTES + 1))


def _bounded(value: bytes) -> bytes:
    from mayfly.domain.secret import VALUE_MAX_BYTES

    if len(value) > VALUE_MAX_BYTES:
        raise Refused(f"The value has more than {VALUE_MAX_BYTES:,} bytes, the most there can be.")
    return value
