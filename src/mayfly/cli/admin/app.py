"""`mayfly admin`: an operator's commands for what goes through the API; nobody's parameters or results are in them."""

from __future__ import annotations

import typer

from mayfly.cli.admin import invitations, users, workers
from mayfly.cli.admin.activations import activations, kill

app = typer.Typer(
    no_args_is_help=True,
    help="For operators: everybody's accounts and calls, invitations, workers. `mayfly users role` makes an operator.",
)
app.add_typer(users.app, name="users")
app.add_typer(invitations.app, name="invitations")
app.add_typer(workers.app, name="workers")
app.command()(activations)
app.command()(kill)
