"""Calls, looked at afterwards: list, show, result, logs; and cancel, for one that goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mayfly.cli.exits import MISSING, PLATFORM, Refused
from mayfly.cli.moments import moment
from mayfly.cli.output import columns, instant, milliseconds, pairs, say, size, write_bytes
from mayfly.cli.terminal import Terminal, connected

if TYPE_CHECKING:
    from mayfly.client import Activation

app = typer.Typer(
    no_args_is_help=True,
    help="Your calls, looked at or ended. Records are kept for a day, less when you have very many.",
)

Id = Annotated[str, typer.Argument(metavar="ID", help="The activation's id.", show_default=False)]
State = Annotated[
    Literal["queued", "running", "succeeded", "failed", "timed-out", "cancelled", "refused", "worker-lost"] | None,
    typer.Option(help="Only calls in this state."),
]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="WHEN",
        help="Only calls that arrived since then: 90s, 10m, 2h or 1d ago, or a time such as 2026-11-29T12:00 (yours) "
        "or 2026-11-29T12:00Z.",
    ),
]

TIMES = (
    "created", "admitted", "claimed", "ready", "started", "first byte", "exited", "ended", "removed", "deadline",
)  # fmt: skip
"""What has a time in a record, in the order in which it comes."""


@app.command("list")
@connected
async def list_(
    terminal: Terminal,
    *,
    function: Annotated[str | None, typer.Option(metavar="NAME", help="Only calls of this function.")] = None,
    state: State = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many at most.")] = 20,
) -> None:
    """
    List your calls, the newest first.

    Example: mayfly activations list --function upper --limit 5

    Example: mayfly activations list --state failed --since 2h
    """
    found = []
    earliest = moment(since) if since is not None else None
    async with terminal.client() as client:
        async for activation in client.activations(function=function, state=state, since=earliest):
            found.append(activation)
            if len(found) == limit:
                break
    head = ("ID", "FUNCTION", "STATE", "CODE", "CREATED", "RUN")
    terminal.answer(found, columns(head, map(_row, found)))


@app.command()
@connected
async def show(terminal: Terminal, activation: Id) -> None:
    """
    Show a call: how it ended, when each step was done, and how long it took.

    Example: mayfly activations show $ID
    """
    async with terminal.client() as client:
        found = await client.activation(activation)
    terminal.answer(found, pairs(_lines(found)))


@app.command()
@connected
async def result(
    terminal: Terminal,
    activation: Id,
    *,
    wait: Annotated[float, typer.Option(metavar="SECONDS", min=0, max=60, help="Wait for its end.")] = 0,
) -> None:
    """
    Fetch the result of a call once more, exactly as it is.

    Example: mayfly activations result $ID --wait 30
    """
    async with terminal.client() as client, terminal.waiting("Waiting for the end"):
        answer = await client.result(activation, wait_s=wait)
    if answer is None:
        raise Refused("It has not ended, so there is no result yet. --wait SECONDS waits for it.", status=MISSING)
    if terminal.as_json:
        terminal.answer({"result": answer.text, "activation_id": answer.activation_id, "timing_s": answer.timing}, "")
    else:
        write_bytes(answer.result)


@app.command()
@connected
async def logs(terminal: Terminal, activation: Id) -> None:
    """
    Show what the function wrote to stderr during a call, exactly as it is.

    Example: mayfly activations logs $ID
    """
    async with terminal.client() as client:
        found = await client.logs(activation)
    if found.truncated:
        say("The function logged more than is kept; this is the end of it.")
    if terminal.as_json:
        terminal.answer({"stderr": found.stderr.decode(errors="replace"), "truncated": found.truncated}, "")
    else:
        write_bytes(found.stderr)


@app.command()
@connected
async def cancel(terminal: Terminal, activation: Id) -> None:
    """
    End a call: a waiting one never runs, a running one is killed.

    The state in which it has ended is on stdout: cancelled, or another one if
    it had ended before, which stays so. Both are status 0. Status 6 says that
    its worker has not ended it within ten seconds; cancel again then.

    Example: mayfly activations cancel $ID
    """
    async with terminal.client() as client, terminal.waiting("Waiting for the end"):
        found = await client.cancel(activation)
    terminal.answer(found, found.state)
    if found.ended_at is None:
        raise Refused("It is being ended, and has not ended yet. Cancel it again to see.", status=PLATFORM)
    if found.state != "cancelled" and not terminal.as_json:
        say("It had ended before, so there was nothing to cancel.")


def _row(activation: Activation) -> tuple[object, ...]:
    return (
        activation.id,
        activation.function,
        activation.state,
        activation.code,
        activation.created_at,
        milliseconds(activation.steps.run_s),
    )


def _lines(activation: Activation) -> list[tuple[str, object]]:
    steps = activation.steps
    return [
        ("id", activation.id),
        ("function", activation.function),
        ("state", activation.state),
        ("ran", activation.ran),
        ("code", activation.code),
        ("detail", activation.detail),
        ("exit code", activation.exit_code),
        ("image", activation.image),
        ("digest", activation.digest),
        *((name, instant(getattr(activation, f"{name.replace(' ', '_')}_at"))) for name in TIMES),
        *((f"{name[:-2]} took", milliseconds(getattr(steps, name))) for name in steps.__struct_fields__),
        ("parameter", size(activation.parameter_bytes)),
        ("result", size(activation.result_bytes)),
        ("stderr", size(activation.stderr_bytes)),
        ("cpu time", milliseconds(activation.cpu_s)),
        ("memory peak", size(activation.memory_peak_bytes)),
        ("worker", activation.worker),
    ]
