"""The call itself: a parameter goes in, the function's stdout comes out, byte for byte."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from mayfly.cli.exits import Refused
from mayfly.cli.interrupts import interruptible, stdin
from mayfly.cli.output import milliseconds, say, write_bytes
from mayfly.cli.terminal import Terminal, connected

INTERRUPTED = (
    "Interrupted. If the call was admitted it goes on: `mayfly activations list` shows it, and how it ends; "
    "`mayfly activations cancel ID` ends it now."
)


@connected
async def invoke(
    terminal: Terminal,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The function's name.", show_default=False)],
    parameter: Annotated[
        str | None,
        typer.Argument(
            metavar="PARAMETER", help="The parameter. - reads it from stdin; left out, it is empty.", show_default=False
        ),
    ] = None,
    *,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Read the parameter from a file.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Shorten the function's time-out for this call; never lengthens it."),
    ] = None,
    asynchronous: Annotated[
        bool, typer.Option("--async", help="Do not wait for the result: print the activation's id.")
    ] = False,
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Of your choice. Calls with the same one run once, and all get its outcome."),
    ] = None,
) -> None:
    """
    Invoke a function and wait for its result.

    The result is written to stdout exactly as it is. If the function fails,
    what it logged last is on stderr, and the exit status is 1. With --verbose
    the time of each step is on stderr too. A parameter that begins with -
    is written after --.

    With --async the call is in the queue when the command ends, with status 0,
    and its id alone is on stdout: `mayfly activations result ID --wait 30` has
    the result. With --idempotency-key a call whose connection is lost is sent
    again, a few times, and so can be the command: nothing runs twice.

    Example: mayfly invoke upper 'hello, mayfly'

    Example: mayfly invoke upper - < letter.txt

    Example: mayfly invoke --async --idempotency-key letter-1 upper - < letter.txt
    """
    content = _parameter(parameter, file)
    if asynchronous:
        async with terminal.client() as client:
            record = await client.submit(name, content, timeout_s=timeout, idempotency_key=idempotency_key)
        terminal.answer(record, record.id)
        return
    async with terminal.client() as client:
        try:
            async with terminal.waiting(f"Waiting for {name}"):
                answer = await client.invoke(name, content, timeout_s=timeout, idempotency_key=idempotency_key)
        except asyncio.CancelledError:
            say(INTERRUPTED)
            raise
    if terminal.verbose:
        say(f"* {answer.activation_id}: " + ", ".join(f"{k} {milliseconds(s)}" for k, s in answer.timing.items()))
    if terminal.as_json:
        terminal.answer({"result": answer.text, "activation_id": answer.activation_id, "timing_s": answer.timing}, "")
    else:
        write_bytes(answer.result)


def _parameter(text: str | None, file: Path | None) -> str | bytes:
    if file is not None and text is not None:
        raise Refused("Give PARAMETER or --file, not both.")
    if file is not None:
        try:
            with file.open("rb") as source:
                return _read(source)
        except OSError as error:
            raise Refused(f"{file} cannot be read: {error.strerror}.") from None
    if text == "-":
        return _read(stdin().buffer)
    return text or ""


def _read(source: BinaryIO) -> bytes:
    """Read a parameter; a source without end is not read for ever."""
    from mayfly.domain.limits import PARAMETER_MAX_BYTES

    with interruptible():
        content = source.read(PARAMETER_MAX_BYTES + 1)
    if len(content) > PARAMETER_MAX_BYTES:
        raise Refused(f"The parameter has more than {PARAMETER_MAX_BYTES:,} bytes, the most there can be.")
    return content
