"""`mayfly users`: who has an account, a limit for one of them, who is operator, who is invited. Rows: F2, F13."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn, TypeVar

import typer

from mayfly.domain.limits import CONCURRENCY_MAX, CONCURRENCY_MIN

if TYPE_CHECKING:
    from mayfly.bus.stores import Stores
    from mayfly.domain.user import User
    from mayfly.services.audit import Audit
    from mayfly.services.invitations import Issued

# What each command needs it imports itself, so that `mayfly invoke` starts quickly.
# ruff: noqa: PLC0415

EXIT_USAGE = 2
EXIT_MISSING = 5
EXIT_PLATFORM = 6

PANEL = "Operator's commands"
NO_LIMIT = "none"

T = TypeVar("T")

DataDir = Annotated[
    Path | None, typer.Option(help="That of the running `mayfly up`; else the NATS of MAYFLY_NATS_URL is meant.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]

users = typer.Typer(
    no_args_is_help=True, help="Everybody's accounts: a limit for one of them, the role, an invitation."
)


def register(app: typer.Typer) -> None:
    """Add the commands to *app*."""
    app.add_typer(users, name="users", rich_help_panel=PANEL)


@users.command("list")
def list_(data_dir: DataDir = None, *, as_json: AsJson = False) -> None:
    """
    List the accounts: name, id, since when, a limit of one's own, and who is operator.

    Example: mayfly users list
    """
    from mayfly.services.users import all_users

    for user in _run(data_dir, lambda stores, _: all_users(stores)):
        typer.echo(_line(user, as_json=as_json))


@users.command()
def show(name: Name, data_dir: DataDir = None, *, as_json: AsJson = False) -> None:
    """
    Show an account. Status 5 says that there is none.

    Example: mayfly users show ann
    """
    from mayfly.services.users import find_user

    user = _run(data_dir, lambda stores, _: find_user(stores, name)).value
    typer.echo(_line(user, as_json=as_json))


@users.command()
def limit(
    name: Name,
    activations: Annotated[str, typer.Argument(metavar="N", help="So many; or `none`, for no limit of one's own.")],
    data_dir: DataDir = None,
) -> None:
    """
    Set how many activations of one user may be in flight, below the limit for every user.

    It holds from the next call on, in logins that there are and in those to
    come, until it is lifted or the account is deleted. Calls in flight go on.
    Status 5 says that there is no such user.

    Example: mayfly users limit ann 4

    Example: mayfly users limit ann none
    """
    from mayfly.domain.audit import OPERATOR, Action
    from mayfly.services.users import limit_user

    wanted = _count(activations)

    async def set_limit(stores: Stores, trail: Audit) -> User:
        user = await limit_user(stores, name, wanted)
        await trail.record(OPERATOR, Action.LIMIT_SET, f"{wanted or NO_LIMIT}", in_trail_of=user.id)
        return user

    user = _run(data_dir, set_limit)
    typer.echo(_line(user, as_json=False))


@users.command()
def role(
    name: Name,
    given: Annotated[Literal["operator", "user"], typer.Argument(metavar="ROLE", help="`operator` or `user`.")],
    data_dir: DataDir = None,
) -> None:
    """
    Make a registered user an operator, or an operator a user again.

    This is how an installation gets its first operator; operators do the rest
    through the API, with the commands of `admin`. It holds from the next call
    on, in all logins. Status 5 says that there is no such user.

    Example: mayfly users role ann operator
    """
    from mayfly.domain.audit import OPERATOR, Action
    from mayfly.services.users import give_role

    async def set_role(stores: Stores, trail: Audit) -> User:
        user = await give_role(stores, name, given)
        await trail.record(OPERATOR, Action.ROLE_SET, given, in_trail_of=user.id)
        return user

    typer.echo(_line(_run(data_dir, set_role), as_json=False))


@users.command()
def invite(
    data_dir: DataDir = None,
    note: Annotated[str, typer.Option(metavar="TEXT", help="For operators: for whom it is.")] = "",
) -> None:
    """
    Make an invitation that is good for a week, and print its code.

    For the first user of an installation where registration is by invitation,
    who is to be its operator: later operators invite through the API.

    Example: mayfly users invite --note "the first operator"
    """
    from mayfly.domain.audit import OPERATOR, Action
    from mayfly.domain.invitation import BY_HOST, EXPIRES_DEFAULT_S, NOTE, NOTE_MAX_CHARACTERS
    from mayfly.services.invitations import Invitations

    if not NOTE.fullmatch(note):
        _fail(f"A note is one line of at most {NOTE_MAX_CHARACTERS} characters.", EXIT_USAGE)

    async def issue(stores: Stores, trail: Audit) -> Issued:
        issued = await Invitations(stores).issue(BY_HOST, expires_in_s=EXPIRES_DEFAULT_S, note=note)
        await trail.record(OPERATOR, Action.INVITATION_CREATE, issued.invitation.id)
        return issued

    typer.echo(_run(data_dir, issue).code)


def _count(text: str) -> int | None:
    if text == NO_LIMIT:
        return None
    count = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0
    if not CONCURRENCY_MIN <= count <= CONCURRENCY_MAX:
        _fail(f"A user's limit is a number from {CONCURRENCY_MIN} to {CONCURRENCY_MAX}, or {NO_LIMIT}.", EXIT_USAGE)
    return count


def _run(data_dir: Path | None, action: Callable[[Stores, Audit], Awaitable[T]]) -> T:
    """Connect as admin, and do it; what changes something writes it into the audit trail."""
    from mayfly.bus.clock_reading import keeping_time
    from mayfly.bus.connection import connect
    from mayfly.bus.stores import Stores
    from mayfly.domain.errors import MayflyError, NotFound
    from mayfly.ops.access import admin_access
    from mayfly.ops.nats_config import ADMIN
    from mayfly.services.audit import Audit
    from mayfly.settings import SettingsError

    async def run() -> T:
        async with connect(admin_access(data_dir, "users"), role=ADMIN) as bus, keeping_time(bus):
            return await action(Stores.on(bus), Audit(bus))

    try:
        return asyncio.run(run())
    except SettingsError as error:
        _fail(str(error), EXIT_USAGE)
    except NotFound as error:
        _fail(f"{error.detail} `mayfly users list` shows whom there is.", EXIT_MISSING)
    except MayflyError as error:
        _fail(error.detail, EXIT_PLATFORM)


def _line(user: User, *, as_json: bool) -> str:
    """Word an account, without what is secret about it."""
    since = datetime.fromtimestamp(user.created_at, UTC)
    if as_json:
        shown = {"name": user.name, "id": user.id, "role": user.role, "created_at": since.isoformat()}
        return json.dumps({**shown, "max_activations": user.max_activations, "suspended": user.suspended})
    limit = f"at most {user.max_activations} in flight" if user.max_activations else "no limit of its own"
    marks = "".join([", operator" if user.role == "operator" else "", ", suspended" if user.suspended else ""])
    return f"{user.name:<32} {user.id} since {since:%Y-%m-%d %H:%M:%SZ} {limit}{marks}"


def _fail(sentence: str, status: int) -> NoReturn:
    typer.echo(f"mayfly: {sentence}", err=True)
    raise typer.Exit(status)
