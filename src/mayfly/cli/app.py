"""The user's commands as one typer application."""

from __future__ import annotations

from typing import Annotated

import typer

import mayfly
from mayfly.cli import account, activations, functions, keys, registries
from mayfly.cli.admin.app import app as admin
from mayfly.cli.audit import audit
from mayfly.cli.exits import EPILOG
from mayfly.cli.invoke import invoke
from mayfly.cli.status import status

ACCOUNT, FUNCTIONS, OPERATORS = "Your account", "Your functions", "Operators' commands, through the API"


def build() -> typer.Typer:
    """Make the application."""
    app = typer.Typer(
        no_args_is_help=True,
        epilog=EPILOG,
        context_settings={"help_option_names": ["--help", "-h"]},
        pretty_exceptions_enable=False,  # it would print local variables: passwords, tokens
    )
    app.callback()(root)
    for command in (account.register, account.login, account.logout, account.whoami, account.password, audit):
        app.command(rich_help_panel=ACCOUNT)(command)
    app.add_typer(keys.app, name="keys", rich_help_panel=ACCOUNT)
    app.add_typer(functions.app, name="functions", rich_help_panel=FUNCTIONS)
    app.command(rich_help_panel=FUNCTIONS)(invoke)
    app.add_typer(activations.app, name="activations", rich_help_panel=FUNCTIONS)
    app.add_typer(registries.app, name="registries", rich_help_panel=FUNCTIONS)
    app.command(rich_help_panel=FUNCTIONS)(status)
    app.add_typer(admin, name="admin", rich_help_panel=OPERATORS)
    return app


def names(app: typer.Typer) -> set[str]:
    """List the names by which the commands of *app* are called."""
    commands = {info.name or getattr(info.callback, "__name__", "") for info in app.registered_commands}
    return commands | {group.name for group in app.registered_groups if isinstance(group.name, str)}


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"mayfly {mayfly.__version__}")
        raise typer.Exit


def root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """
    Run a fresh container of any docker image for every call, and get its stdout.

    Begin with:
      mayfly register NAME
      mayfly functions create upper busybox -- tr a-z A-Z
      mayfly invoke upper 'hello, mayfly'

    Data goes to stdout, everything else to stderr.
    """
