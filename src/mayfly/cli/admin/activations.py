"""Other people's calls, as far as they are an operator's business: list, end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mayfly.cli.activations import State
from mayfly.cli.exits import PLATFORM, Refused
from mayfly.cli.output import columns, milliseconds, say, size
from mayfly.cli.terminal import Terminal, connected

if TYPE_CHECKING:
    from mayfly.client.admin import Call

HEAD = ("ID", "FUNCTION", "IMAGE", "STATE", "CREATED", "RUN", "CPU", "MEMORY")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.", show_default=False)]


@connected
async def activations(
    terminal: Terminal,
    name: Name,
    *,
    state: State = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many at most.")] = 20,
) -> None:
    """
    List a user's calls, the newest first: when, how long and how much.

    Example: mayfly admin activations ann --state running
    """
    found = []
    async with terminal.client() as client:
        async for call in client.admin.activations(name, state=state):
            found.append(call)
            if len(found) == limit:
                break
    terminal.answer(found, columns(HEAD, map(_row, found)))


@connected
async def kill(
    terminal: Terminal,
    name: Name,
    activation: Annotated[str | None, typer.Argument(metavar="[ID]", help="The activation's id.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All that the user has in flight.")] = False,
) -> None:
    """
    End a call of a user, or all that it has in flight.

    A waiting one never runs, a running one is killed. Its owner is told that
    an operator did it. The state in which it has ended is on stdout.

    Example: mayfly admin kill ann $ID

    Example: mayfly admin kill ann --all
    """
    if (activation is None) != everything:
        raise Refused("Name one activation by its id, or all by --all.")
    async with terminal.client() as client, terminal.waiting("Waiting for the end"):
        if activation is None:
            ended = await client.admin.end_all(name)
            is_over = ended.going_on == 0
            terminal.answer(ended, f"{ended.ended} ended")
        else:
            call = await client.admin.end(name, activation)
            is_over = call.ended_at is not None
            terminal.answer(call, call.state)
            if is_over and call.state != "cancelled" and not terminal.as_json:
                say("It had ended before, so there was nothing to end.")
    if not is_over:
        raise Refused("Not all has ended yet. Its worker was told; ask again to see.", status=PLATFORM)


def _row(call: Call) -> tuple[object, ...]:
    cpu = milliseconds(call.cpu_s)
    times = (call.created_at, milliseconds(call.run_s), cpu)
    return (call.id, call.function, call.image, call.state, *times, size(call.memory_peak_bytes))
