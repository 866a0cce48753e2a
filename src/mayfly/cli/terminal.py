"""What a command has at hand: which installation, whose login, how to answer, and what runs it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, TextIO

import typer

from mayfly.cli import exits
from mayfly.cli.output import Unwritable, say, write
from mayfly.cli.spinner import waiting

if TYPE_CHECKING:
    from mayfly.cli.logins import LoginFile
    from mayfly.client import Client, TokenKeeper

P = ParamSpec("P")

PANEL = "Common options"

COMMON = {
    "url": (
        Annotated[
            str | None,
            typer.Option(
                metavar="URL",
                rich_help_panel=PANEL,
                help="Where the API is. Else MAYFLY_URL, else where you logged in last, else https://127.0.0.1:8443.",
            ),
        ],
        None,
    ),
    "ca": (
        Annotated[
            Path | None,
            typer.Option(
                metavar="FILE",
                rich_help_panel=PANEL,
                help="The certificate authority to trust. Else MAYFLY_CA_FILE, else the one you logged in with, else "
                "the system's.",
            ),
        ],
        None,
    ),
    "as_json": (
        Annotated[
            bool, typer.Option("--json", rich_help_panel=PANEL, help="Answer in JSON; errors too, those on stderr.")
        ],
        False,
    ),
    "verbose": (
        Annotated[
            bool,
            typer.Option("--verbose", "-v", rich_help_panel=PANEL, help="Show the HTTP on stderr, without tokens."),
        ],
        False,
    ),
}
"""The options of every command: annotation and default."""


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """One run of one command."""

    url: str
    ca_file: Path | None
    tokens: TokenKeeper
    logins: LoginFile
    as_json: bool
    verbose: bool

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Open a client for the login in use."""
        from mayfly.client import Client

        trace = say if self.verbose else None
        async with Client(self.url, ca_file=self.ca_file, tokens=self.tokens, trace=trace) as client:
            yield client

    @asynccontextmanager
    async def waiting(self, for_what: str) -> AsyncIterator[None]:
        """Say what is waited for, to a person, if it takes longer; the HTTP of `--verbose` says it already."""
        if self.verbose:
            yield
            return
        async with waiting(for_what):
            yield

    def answer(self, value: object, text: str) -> None:
        """Give the data: as JSON if that was asked for, else as text."""
        write(_json(value) if self.as_json else text)

    def done(self, value: object, sentence: str) -> None:
        """Say that it is done; there is no data, but with `--json` there is always an object."""
        if self.as_json:
            write(_json(value))
        else:
            say(sentence)


def connected(command: Callable[Concatenate[Terminal, P], Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """
    Make a command of a coroutine function: it gets a `Terminal` and the common options, errors become sentences and
    exit statuses.
    """

    @functools.wraps(command)
    def run(*, url: str | None, ca: Path | None, as_json: bool, verbose: bool, **given: Any) -> None:
        def work() -> None:
            terminal = open_terminal(url, ca, as_json=as_json, verbose=verbose)
            asyncio.run(command(terminal, **given))  # type: ignore[call-arg]

        status = guarded(work, as_json=as_json)
        if status:
            raise typer.Exit(status)

    signature = inspect.signature(command, eval_str=True)
    own = list(signature.parameters.values())[1:]
    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in COMMON.items()
    ]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + common
    run.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def open_terminal(url: str | None, ca: Path | None, *, as_json: bool, verbose: bool) -> Terminal:
    """
    Find out which installation is meant and who is logged in there.

    Raises: SettingsError; Refused; InvalidCall.
    """
    from mayfly.cli.logins import KeptTokens, LoginFile
    from mayfly.client import FixedToken
    from mayfly.client.connection import normal_url
    from mayfly.settings import ClientSettings, load

    settings = load(ClientSettings, url=url, ca_file=ca)
    file = LoginFile(settings.config_dir)
    logins = file.read()
    latest = None if "url" in settings.model_fields_set else logins.latest
    there = normal_url(latest or settings.url)
    login = logins.logins.get(there)
    kept_ca = Path(login.ca_file) if login and login.ca_file else None
    return Terminal(
        url=there,
        ca_file=settings.ca_file or kept_ca,
        tokens=FixedToken(settings.token) if settings.token else KeptTokens(file, there),
        logins=file,
        as_json=as_json,
        verbose=verbose,
    )


def guarded(work: Callable[[], None], *, as_json: bool) -> int:
    """Do *work*, say what went wrong with it, and return the exit status."""
    try:
        return _attempt(work, as_json=as_json)
    except BrokenPipeError:  # one of the two; nobody is left to tell
        _to_nowhere(sys.stdout, sys.stderr)
        return exits.PIPE
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except Exception:  # noqa: BLE001 - a defect is shown whole, and must not look like a function that failed
        traceback.print_exc()
        return exits.PLATFORM


def _attempt(work: Callable[[], None], *, as_json: bool) -> int:
    from mayfly.client.errors import ClientError
    from mayfly.settings import SettingsError

    try:
        work()
    except ClientError as error:
        exits.report(error, as_json=as_json)
        return exits.exit_status(error)
    except (exits.Refused, SettingsError) as refused:
        exits.report_refusal(str(refused), as_json=as_json)
        return getattr(refused, "status", exits.USAGE)
    except Unwritable as error:
        _to_nowhere(sys.stdout)
        exits.report_refusal(f"The answer cannot be written: {error}.", as_json=as_json)
        return exits.PLATFORM
    return exits.OK


def _to_nowhere(*streams: TextIO | None) -> None:
    """Let what is still buffered go nowhere, or Python complains about it at its end, with a status of its own."""
    for stream in streams:
        if stream is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _json(value: object) -> str:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
