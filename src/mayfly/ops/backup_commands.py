"""`mayfly backup` and `mayfly restore`. Rows: A4, D7."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from mayfly.bus.connection import Bus

# What each command needs it imports itself, so that `mayfly invoke` starts quickly.
# ruff: noqa: PLC0415

EXIT_USAGE = 2
EXIT_PLATFORM = 6
EXIT_INTERRUPTED = 130

PANEL = "Operator's commands"

DataDir = Annotated[
    Path | None, typer.Option(help="That of the running `mayfly up`; else the NATS of MAYFLY_NATS_URL is meant.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to *app*."""
    for command in (backup, restore):
        app.command(rich_help_panel=PANEL)(command)


def backup(
    file: Annotated[Path, typer.Argument(help="Where it is written; it must not be there.")],
    data_dir: DataDir = None,
) -> None:
    """
    Save users, functions, records, results and the audit trail in one file, while everything runs.

    The file is a tar, 0600: it has password hashes. Without --data-dir the settings of `mayfly bootstrap` say where
    NATS is, or else the usual data directory.

    Example: mayfly backup mayfly-2026-11-24.tar
    """
    from mayfly.ops.backup import backup as make

    _run(data_dir, lambda bus: make(bus, file))


def restore(
    file: Annotated[Path, typer.Argument(help="What `mayfly backup` wrote.")],
    data_dir: DataDir = None,
    *,
    replace: Annotated[bool, typer.Option("--replace", help="Remove what is there.")] = False,
    logins: Annotated[bool, typer.Option("--logins", help="Bring back also who was logged in.")] = False,
) -> None:
    """
    Bring back what a backup holds, into an installation that runs and has nothing yet.

    The file is checked before anything is touched. Calls that were in flight when it was made come back as lost,
    and do not run. A restore that was cut off is run again, with --replace.

    Example: mayfly restore mayfly-2026-11-24.tar
    """
    from mayfly.ops.backup import restore as bring_back

    _run(data_dir, lambda bus: bring_back(bus, file, replace_all=replace, logins=logins))


def _run(data_dir: Path | None, action: Callable[[Bus], Awaitable[list[str]]]) -> None:
    """Connect as admin, do it, and print what it says."""
    from mayfly.bus.connection import connect
    from mayfly.domain.errors import MayflyError
    from mayfly.ops.access import admin_access
    from mayfly.ops.nats_config import ADMIN
    from mayfly.settings import SettingsError

    async def run() -> list[str]:
        task = asyncio.current_task()
        if task is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        async with connect(admin_access(data_dir, "backup"), role=ADMIN) as bus:
            return await action(bus)

    try:
        for line in asyncio.run(run()):
            typer.echo(line)
    except (KeyboardInterrupt, asyncio.CancelledError):
        _fail("Interrupted. A backup has left no file; run a restore again, with --replace.", EXIT_INTERRUPTED)
    except SettingsError as error:
        _fail(str(error), EXIT_USAGE)
    except MayflyError as error:
        _fail(error.detail, EXIT_PLATFORM)
    except OSError as error:
        _fail(f"{error.filename or 'The file'}: {error.strerror}.", EXIT_USAGE)


def _fail(sentence: str, status: int) -> NoReturn:
    typer.echo(f"mayfly: {sentence}", err=True)
    raise typer.Exit(status)
