"""Workers: list, drain, undrain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mayfly.cli.output import columns
from mayfly.cli.status import WORKERS, worker_row
from mayfly.cli.terminal import Terminal, connected

if TYPE_CHECKING:
    from mayfly.client import Worker

app = typer.Typer(no_args_is_help=True, help="The workers, one by one.")

Id = Annotated[str, typer.Argument(metavar="ID", help="The worker's id, as the list has it.", show_default=False)]


@app.command("list")
@connected
async def list_(terminal: Terminal) -> None:
    """
    List the workers that live.

    Example: mayfly admin workers list
    """
    async with terminal.client() as client:
        found = await client.admin.workers()
    _answer(terminal, found, found)


@app.command()
@connected
async def drain(terminal: Terminal, worker: Id) -> None:
    """
    Have a worker claim nothing more.

    It gives back what it has not started, finishes what runs, and stays,
    idle, until `undrain` or until it is started anew. When its line says
    running 0, its machine can be stopped without anybody's noticing.

    Example: mayfly admin workers drain $ID
    """
    async with terminal.client() as client:
        found = await client.admin.drain(worker)
    _answer(terminal, found, [found])


@app.command()
@connected
async def undrain(terminal: Terminal, worker: Id) -> None:
    """
    Let a drained worker claim again.

    Example: mayfly admin workers undrain $ID
    """
    async with terminal.client() as client:
        found = await client.admin.undrain(worker)
    _answer(terminal, found, [found])


def _answer(terminal: Terminal, value: object, workers: list[Worker]) -> None:
    terminal.answer(value, columns(WORKERS, map(worker_row, workers)))
