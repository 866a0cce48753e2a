"""The operator's commands: up, api, worker, bootstrap, settings, inspect, images, and other files' groups. Rows: D2."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from mayfly.domain.errors import MayflyError
from mayfly.ops import backup_commands, gateway_commands, secrets_commands, users_commands
from mayfly.settings import (
    ApiSettings,
    BootstrapSettings,
    Settings,
    SettingsError,
    UpSettings,
    WorkerSettings,
    load,
)

S = TypeVar("S", bound=Settings)
R = TypeVar("R")

EXIT_USAGE = 2
EXIT_PLATFORM = 6

PANEL = "Operator's commands"

images = typer.Typer(no_args_is_help=True, help="The images on this worker.")


def register(app: typer.Typer) -> None:
    """Add the operator's commands to *app*."""
    for command in (up, api, worker, bootstrap, settings, inspect):
        app.command(rich_help_panel=PANEL)(command)
    app.add_typer(images, name="images", rich_help_panel=PANEL)
    secrets_commands.register(app)
    backup_commands.register(app)
    gateway_commands.register(app)
    users_commands.register(app)


def up(
    data_dir: Annotated[Path | None, typer.Option(help="Where everything lasting is kept.")] = None,
    listen: Annotated[str | None, typer.Option(help="Address and port, such as 127.0.0.1:8443.")] = None,
    slots: Annotated[int | None, typer.Option(help="Activations run at once.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes that share the slots.")] = None,
    *,
    private_registries: Annotated[
        str | None, typer.Option(help="Registries at private or loopback addresses that may be named.")
    ] = None,
    plain_http_registries: Annotated[str | None, typer.Option(help="Registries spoken to without TLS.")] = None,
    listen_anywhere: Annotated[bool, typer.Option(help="Mean it, when --listen is not loopback.")] = False,
) -> None:
    """
    Run the whole system on this machine, for development: NATS, one API server, one worker or several.

    Needs root, for containers. Everything it keeps is in the data directory; Ctrl-C ends all of it.

    Example: mayfly up --data-dir /var/lib/mayfly
    """
    from mayfly.ops.supervisor import ChildEnded
    from mayfly.ops.up import up as run_up

    given = _settings(
        UpSettings,
        data_dir=data_dir,
        listen=listen,
        slots=slots,
        worker_processes=workers,
        private_registries=private_registries,
        plain_http_registries=plain_http_registries,
    )
    _need_root("up")
    _configure_logs(given, "up")
    try:
        _run(run_up(given, anywhere=listen_anywhere))
    except (ChildEnded, TimeoutError) as error:
        _fail(str(error) or "It did not become ready within a minute; its last words are above.", EXIT_PLATFORM)


def api() -> None:
    """
    Run one API server, in the foreground.

    Example: MAYFLY_NATS_URL=nats://nats-1:4222 mayfly api
    """
    from mayfly.api.door import SecretUnusable
    from mayfly.api.server import ServerFailed, run
    from mayfly.services.tokens import KeysMissing

    given = _settings(ApiSettings)
    try:
        run(given)
    except SettingsError as error:
        _fail(str(error), EXIT_USAGE)
    except MayflyError as error:
        _fail(error.detail, EXIT_PLATFORM)
    except (ServerFailed, SecretUnusable, KeysMissing, OSError) as error:
        _fail(str(error), EXIT_PLATFORM)


def worker(
    process: Annotated[
        int | None,
        typer.Option(help="Be this one of MAYFLY_WORKER_PROCESSES, from 1 on. Without it all are started, and kept."),
    ] = None,
) -> None:
    """
    Run one worker, in the foreground. Needs root; enters namespaces of its own first, where a watchdog keeps it.

    With MAYFLY_WORKER_PROCESSES it is as many, which share slots and images.

    Example: MAYFLY_NATS_URL=nats://nats-1:4222 mayfly worker
    """
    import uvloop

    from mayfly.containers.host import enter_namespaces
    from mayfly.containers.watchdog import watched
    from mayfly.ops.processes import keep, share_of
    from mayfly.worker.serve import serve

    given = _settings(WorkerSettings)
    _need_root("worker")
    if process is None and given.worker_processes > 1:
        _configure_logs(given, "worker")
        _run(keep(given))
        return
    siblings = None if process is None else given.state_dir
    try:
        given = given if process is None else share_of(given, process)
        # With docker a daemon has the containers, and their namespaces; confined, there are none: nothing to enter.
        feed = watched() if given.runtime in ("docker", "confined") else enter_namespaces()
        _configure_logs(given, "worker")
        uvloop.run(serve(given, feed, siblings=siblings))
    except SettingsError as error:
        _fail(str(error), EXIT_USAGE)
    except MayflyError as error:
        _fail(error.detail, EXIT_PLATFORM)


def bootstrap() -> None:
    """
    Make the streams and buckets on NATS, or bring them up to date. Can be run at any time.

    Example: MAYFLY_NATS_REPLICAS=3 mayfly bootstrap
    """
    from mayfly.bus.connection import connect
    from mayfly.bus.schema import bootstrap as make

    given = _settings(BootstrapSettings)
    _configure_logs(given, "bootstrap")

    async def run() -> list[str]:
        async with connect(given, role="admin") as bus:
            return await make(bus, given)

    made = _run(run())
    typer.echo(f"made: {', '.join(made)}" if made else "all there, brought up to date")


def settings(
    role: Annotated[str, typer.Argument(help="up, api, worker, bootstrap or client.")] = "up",
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """
    Print the settings in force for a role, secrets masked, and which container runtime is used and why.

    Example: MAYFLY_SLOTS=4 mayfly settings worker
    """
    from mayfly.ops.show_settings import show_settings

    try:
        typer.echo(show_settings(role, as_json=as_json))
    except SettingsError as error:
        _fail(str(error), EXIT_USAGE)


def inspect(
    name: Annotated[str | None, typer.Argument(help="A stream (ACT, RESPONSES, AUDIT) or bucket (users, ...).")] = None,
    data_dir: backup_commands.DataDir = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """
    Look into NATS: all streams and buckets, or what lies in one of them. Nothing is changed or claimed.

    Without --data-dir the settings of `mayfly bootstrap` say where NATS is, or else the usual data directory.

    Of more than a thousand messages those among the last thousand sequences are shown, as of the moment it begins.

    Parameters, results, password hashes and token digests are not shown.

    Example: mayfly inspect ACT
    """
    from mayfly.ops.inspect import inspect as run_inspect

    for line in _run(run_inspect(data_dir, name, as_json=as_json)):
        typer.echo(line)


@images.command("list")
def images_list(data_dir: Annotated[Path | None, typer.Option(help="That of `mayfly up`.")] = None) -> None:
    """
    List the unpacked images of this worker.

    Example: mayfly images list
    """
    from mayfly.ops.layout import Layout
    from mayfly.worker.serve import open_images

    given = _settings(UpSettings, data_dir=data_dir)

    async def run() -> list[str]:
        async with open_images(given, Layout(given.data_dir).images, may_evict=False) as store:
            return [f"{image.digest}  {image.size_bytes >> 20} MiB" for image in store.list()]

    for line in _run(run()):
        typer.echo(line)


@images.command("import")
def images_import(
    source: Annotated[str, typer.Argument(help="A docker or OCI archive, or docker-daemon:REFERENCE.")],
    name: Annotated[str, typer.Argument(help="Functions then name it local/NAME.")],
    data_dir: Annotated[Path | None, typer.Option(help="That of `mayfly up`.")] = None,
) -> None:
    """
    Bring in an image without a registry. Everybody's functions may name it.

    Example: docker save upper | gzip > upper.tar.gz && mayfly images import upper.tar.gz upper
    """
    from mayfly.ops.layout import Layout
    from mayfly.worker.serve import open_images

    given = _settings(UpSettings, data_dir=data_dir)
    _need_root("images import", "unpacks an image for all users")

    async def run() -> str:
        async with open_images(given, Layout(given.data_dir).images, may_evict=False) as store:
            return await store.import_image(source, name)

    typer.echo(f"local/{name}@{_run(run())}")


def _settings(role: type[S], **given: Any) -> S:
    try:
        return load(role, **given)
    except SettingsError as error:
        _fail(str(error), EXIT_USAGE)


def _run(work: Coroutine[Any, Any, R]) -> R:
    try:
        return asyncio.run(work)
    except SettingsError as error:
        _fail(str(error), EXIT_USAGE)
    except MayflyError as error:
        _fail(error.detail, EXIT_PLATFORM)


def _configure_logs(given: Any, role: str) -> None:
    from mayfly.services.logs import configure_logs

    configure_logs(given, role=role)


def _need_root(command: str, why: str = "starts containers") -> None:
    if os.geteuid() != 0:
        # sudo looks for programs where root's are, and a virtual environment's are not there
        program = sys.argv[0] if Path(sys.argv[0]).name == "mayfly" else "mayfly"
        _fail(f"`mayfly {command}` {why}, which needs root. Run `sudo {shlex.quote(program)} {command}`.", EXIT_USAGE)


def _fail(sentence: str, status: int) -> NoReturn:
    typer.echo(f"mayfly: {sentence}", err=True)
    raise typer.Exit(status)
