"""`mayfly gateway`: APISIX's two files, written from the settings, checked, put into force. Rows: A1, D3, D7."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

# What each command needs it imports itself, so that `mayfly invoke` starts quickly.
# ruff: noqa: PLC0415

EXIT_USAGE = 2
EXIT_PLATFORM = 6

gateway = typer.Typer(no_args_is_help=True, help="The files of the gateway (APISIX): write, check, put into force.")


def register(app: typer.Typer) -> None:
    """Add the group to *app*."""
    app.add_typer(gateway, name="gateway", rich_help_panel="Operator's commands")


@gateway.command()
def render(
    *,
    secrets: Annotated[
        Path | None, typer.Option(help="DIR/gateway of `mayfly secrets create`. Without it placeholders are written.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write them; else beside the secrets, or here if there are none.")
    ] = None,
) -> None:
    """
    Write config.yaml and apisix.yaml from the MAYFLY_GATEWAY_ settings, checked; files that say the same stay.

    Example: mayfly gateway render --secrets ./secrets/gateway --out ./new
    """
    from mayfly.ops.folder import read_followed
    from mayfly.ops.gateway.install import install, put
    from mayfly.ops.gateway.material import AUTHORITY, PLACEHOLDERS, read_material
    from mayfly.ops.gateway.render import render as written
    from mayfly.settings import GatewaySettings, load

    target = out or secrets or Path()
    with _told():
        settings = load(GatewaySettings)
        material = read_material(secrets) if secrets else PLACEHOLDERS
        done = install(written(settings, material), target, settings=settings, template=secrets is None)
        if secrets and put(target / AUTHORITY, read_followed(secrets / AUTHORITY)):
            done.append(f"wrote {target / AUTHORITY}")
    _say(done)


@gateway.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="Their directory, or config.yaml and apisix.yaml themselves.")],
    *,
    template: Annotated[bool, typer.Option(help="Placeholders may stand in place of secrets.")] = False,
) -> None:
    """
    Find what is wrong with the gateway's files, also against the settings: a misspelt key, an open route, a second try.

    APISIX itself would take most such files, and say nothing.

    Example: mayfly gateway check /run/secrets/mayfly
    """
    from mayfly.ops.gateway.check import problems_of_files
    from mayfly.ops.gateway.render import CONFIG, ROUTES
    from mayfly.settings import GatewaySettings, load

    with _told():
        settings = load(GatewaySettings)
    if len(files) > 2:
        _fail("check takes a directory, or two files: config.yaml and apisix.yaml.", EXIT_USAGE)
    named = " and ".join(map(str, files))
    config, routes = files if len(files) == 2 else (files[0] / CONFIG, files[0] / ROUTES)
    found = problems_of_files(config, routes, settings=settings, template=template)
    for problem in found:
        typer.echo(str(problem), err=True)
    if found:
        _fail(f"{len(found)} {'mistake' if len(found) == 1 else 'mistakes'} in {named}.", EXIT_USAGE)
    typer.echo(f"{named}: good")


@gateway.command()
def install(
    *,
    source: Annotated[Path, typer.Option("--from", help="Where the new config.yaml and apisix.yaml are.")],
    to: Annotated[Path, typer.Option(help="Where the gateway reads them.")],
) -> None:
    """
    Check new files and put them in the place of the old ones; bad ones leave the old ones in force.

    APISIX sees a new apisix.yaml within two seconds, and a new config.yaml when it starts again.

    Example: mayfly gateway install --from ./new --to /run/secrets/mayfly
    """
    from mayfly.ops.gateway.install import install as put_in_force
    from mayfly.ops.gateway.install import read_files
    from mayfly.settings import GatewaySettings, load

    with _told():
        done = put_in_force(read_files(source), to, settings=load(GatewaySettings))
    _say(done)


@contextmanager
def _told() -> Iterator[None]:
    """Turn what is wrong with settings, secrets or files into sentences, none of which has a secret in it."""
    from mayfly.settings import SettingsError

    try:
        yield
    except SettingsError as error:
        _fail(str(error), EXIT_USAGE)
    except OSError as error:
        _fail(f"{error.filename or 'A file'}: {error.strerror}.", EXIT_PLATFORM)


def _say(done: list[str]) -> None:
    for line in done or ["all as it should be, nothing to do"]:
        typer.echo(line)


def _fail(sentence: str, status: int) -> NoReturn:
    typer.echo(f"mayfly: {sentence}", err=True)
    raise typer.Exit(status)
