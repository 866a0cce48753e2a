"""`mayfly secrets`: the keys, certificates and passwords of a deployment. Rows: D4, D5, D7."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

# What each command needs it imports itself, so that `mayfly invoke` starts quickly.
# ruff: noqa: PLC0415

EXIT_USAGE = 2
EXIT_PLATFORM = 6

secrets = typer.Typer(no_args_is_help=True, help="The keys, certificates and passwords of a deployment.")

DataDir = Annotated[
    Path | None, typer.Option(help="That of the running `mayfly up`; else the NATS of MAYFLY_NATS_URL is meant.")
]
Directory = Annotated[Path, typer.Argument(help="The directory of all roles' secrets.")]
ApiUid = Annotated[int, typer.Option(help="Who owns DIR/api.")]
NatsUid = Annotated[int, typer.Option(help="Who owns DIR/nats-*.")]
GatewayUid = Annotated[int, typer.Option(help="Who owns DIR/gateway.")]
WorkerUid = Annotated[int, typer.Option(help="Who owns DIR/worker.")]
AdminUid = Annotated[int, typer.Option(help="Who owns DIR/admin, for bootstrap and backup.")]


def register(app: typer.Typer) -> None:
    """Add the group to *app*."""
    app.add_typer(secrets, name="secrets", rich_help_panel="Operator's commands")


@secrets.command()
def create(
    directory: Directory,
    *,
    host: Annotated[list[str] | None, typer.Option(help="A name by which clients reach the gateway.")] = None,
    api_host: Annotated[list[str] | None, typer.Option(help="A name by which the gateway reaches the API.")] = None,
    nats: Annotated[list[str] | None, typer.Option(help="A nats-server's host; its first label is its name.")] = None,
    nats_monitor: Annotated[str | None, typer.Option(help="Where nats-servers listen for monitoring.")] = None,
    nats_store_gib: Annotated[int | None, typer.Option(help="What each nats-server may store, in GiB.")] = None,
    api_uid: ApiUid = 59802,
    nats_uid: NatsUid = 59801,
    gateway_uid: GatewayUid = 636,
    worker_uid: WorkerUid = 0,
    admin_uid: AdminUid = 59802,
) -> None:
    """
    Make the secrets of a deployment, one directory for each role; keep what is there, renew what is about to end.

    Can be run before every start. As root it gives each directory to its role's user. The first five options, of which
    the first three can be given several times, replace what was given before, which DIR/ca/names.json keeps; one that
    is not given stays as it was. A name that is given no more stays in its certificate until that ends, or `rotate
    certificates` makes another. A new DIR has: localhost, 127.0.0.1, ::1 for --host; api, api-1, api-2,
    localhost, 127.0.0.1 for --api-host; nats-1, nats-2, nats-3 for --nats; 127.0.0.1 for --nats-monitor; 5 for
    --nats-store-gib, of which the volume has to have twice as much.

    Example: mayfly secrets create ./secrets --host faas.example.org
    """
    from mayfly.ops.secrets import Owners, Wanted
    from mayfly.ops.secrets import create as make

    wanted = Wanted(
        hosts=tuple(host or ()),
        api_hosts=tuple(api_host or ()),
        nats=tuple(nats or ()),
        nats_monitor=nats_monitor,
        nats_store_gib=nats_store_gib,
        owners=Owners(api=api_uid, nats=nats_uid, gateway=gateway_uid, worker=worker_uid, admin=admin_uid),
    )
    with _told():
        done = make(directory, wanted)
    for line in done or ["all there, nothing to do"]:
        typer.echo(line)
    _say_whose()


@secrets.command()
def rotate(
    directory: Directory,
    what: Annotated[str, typer.Argument(help="token-key, sealing-key, gateway-secret, nats-passwords, certificates.")],
    *,
    api_uid: ApiUid = 59802,
    nats_uid: NatsUid = 59801,
    gateway_uid: GatewayUid = 636,
    worker_uid: WorkerUid = 0,
    admin_uid: AdminUid = 59802,
) -> None:
    """
    Take the next step of changing a secret, and say what to restart before the step after it.

    Example: mayfly secrets rotate ./secrets token-key
    """
    from mayfly.ops.secrets import Owners
    from mayfly.ops.secrets_rotation import STEPS
    from mayfly.ops.secrets_rotation import rotate as take_step

    if what not in STEPS:
        _fail(f"{what!r} cannot be rotated: one of {', '.join(STEPS)}.", EXIT_USAGE)
    owners = Owners(api=api_uid, nats=nats_uid, gateway=gateway_uid, worker=worker_uid, admin=admin_uid)
    with _told():
        done = take_step(directory, what, owners)
    for line in done:
        typer.echo(line)
    _say_whose()


@secrets.command()
def reseal(
    keys: Annotated[Path, typer.Argument(help="The workers' sealing keys, such as DIR/worker/sealing-keys.")],
    data_dir: DataDir = None,
) -> None:
    """
    Seal with the newest sealing key what is sealed with an older one, while everything runs.

    The last step of rotating a sealing key: then the older one can be removed. Without --data-dir the settings of
    `mayfly bootstrap` say where NATS is.

    Example: mayfly secrets reseal ./secrets/worker/sealing-keys
    """
    import asyncio

    from mayfly.bus.connection import connect
    from mayfly.domain.errors import MayflyError
    from mayfly.ops.access import admin_access
    from mayfly.ops.nats_config import ADMIN
    from mayfly.ops.reseal import reseal as seal_anew

    async def run() -> list[str]:
        async with connect(admin_access(data_dir, "reseal"), role=ADMIN) as bus:
            return await seal_anew(bus, keys)

    with _told():
        try:
            done = asyncio.run(run())
        except MayflyError as error:
            _fail(error.detail, EXIT_PLATFORM)
    for line in done:
        typer.echo(line)
    if any(line.startswith("NOT DONE") for line in done):
        raise typer.Exit(EXIT_PLATFORM)


@secrets.command("bundle")
def bundle_(
    directory: Annotated[Path, typer.Argument(help="One role's directory, such as DIR/api.")],
) -> None:
    """
    Print a role's secrets as one line, for the variable MAYFLY_SECRETS_BUNDLE. It is as secret as they are.

    Example: mayfly secrets bundle ./secrets/api
    """
    from mayfly.ops.bundle import bundle

    with _told():
        typer.echo(bundle(directory))


@secrets.command(context_settings={"allow_interspersed_args": False})
def unpack(
    command: Annotated[list[str], typer.Argument(help="What to run then, after `--`.")],
    to: Annotated[Path, typer.Option(help="Where the files are written.")] = Path("/run/secrets/mayfly"),
    bundle: Annotated[
        str,
        typer.Option(
            envvar="MAYFLY_SECRETS_BUNDLE",
            hidden=True,  # only by the variable: other users see command lines
            help="The bundle.",
        ),
    ] = "",
) -> None:
    """
    Write the files of the variable MAYFLY_SECRETS_BUNDLE, remove it, and become the command.

    Example: mayfly secrets unpack -- mayfly api
    """
    from mayfly.ops.bundle import VARIABLE
    from mayfly.ops.bundle import unpack as write

    if not bundle:
        _fail(f"{VARIABLE} is not set: `mayfly secrets bundle DIR/ROLE` prints what belongs into it.", EXIT_USAGE)
    with _told():
        write(bundle, to)
    os.unsetenv(VARIABLE)  # of this process, whose environment the command inherits
    try:
        os.execvp(command[0], command)  # noqa: S606 - an argument list
    except OSError as error:
        _fail(f"{command[0]} cannot be run: {error.strerror}.", EXIT_USAGE)


@contextmanager
def _told() -> Iterator[None]:
    """Turn what is wrong with the directory, or with what was given, into one sentence."""
    from mayfly.settings import SettingsError

    try:
        yield
    except SettingsError as error:
        _fail(str(error), EXIT_USAGE)
    except OSError as error:
        needs = " Writing secrets for other users needs root." if isinstance(error, PermissionError) else ""
        _fail(f"{error.filename or 'A file'}: {error.strerror}.{needs}", EXIT_PLATFORM)


def _say_whose() -> None:
    if os.geteuid() != 0:
        typer.echo("mayfly: not run as root, so all files are your own: see that each role can read its own.", err=True)


def _fail(sentence: str, status: int) -> NoReturn:
    typer.echo(f"mayfly: {sentence}", err=True)
    raise typer.Exit(status)
