"""Accounts and logins: register, login, logout, whoami, password."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mayfly.cli import passwords
from mayfly.cli.output import say
from mayfly.cli.terminal import Terminal, connected

if TYPE_CHECKING:
    from mayfly.client import Client, User

Name = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.", show_default=False)]
PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin, one line.")]
PasswordsStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read two lines from stdin: the password until now, and the new one.")
]

EndKeys = Annotated[bool, typer.Option("--end-keys", help="End all your keys as well.")]


@connected
async def register(
    terminal: Terminal,
    name: Name,
    *,
    invitation: Annotated[
        str | None, typer.Option(metavar="CODE", help="Your invitation's code, where registration takes one.")
    ] = None,
    password_stdin: PasswordStdin = False,
) -> None:
    """
    Make an account, and log in.

    You are asked for a password twice; it needs at least 10 characters. Where
    registration is by invitation you are asked for the code, too, if you have
    not given it.

    Example: mayfly register ann
    """
    password = passwords.from_stdin()[0] if password_stdin else passwords.ask_new()
    async with terminal.client() as client:
        user = await _register(client, name, password, invitation)
        await _log_in(terminal, client, name, password)
    terminal.done(user, f"{name} is registered and logged in at {terminal.url}.")


@connected
async def login(terminal: Terminal, name: Name, *, password_stdin: PasswordStdin = False) -> None:
    """
    Log in.

    Later commands use this login, with its URL and certificate authority,
    until you log out or log in elsewhere. The tokens are kept in
    MAYFLY_CONFIG_DIR (~/.config/mayfly), readable by you only.

    Example: mayfly login ann --url https://mayfly.example --ca ca.crt
    """
    password = passwords.from_stdin()[0] if password_stdin else passwords.ask("Password")
    async with terminal.client() as client:
        await _log_in(terminal, client, name, password)
    terminal.done({"username": name, "url": terminal.url}, f"{name} is logged in at {terminal.url}.")


@connected
async def logout(terminal: Terminal) -> None:
    """
    Log out.

    The tokens are refused from now on, and forgotten here.

    Example: mayfly logout
    """
    from mayfly.client import ApiError, Unreachable

    try:
        async with terminal.client() as client:
            await client.log_out()
    except ApiError as error:
        if error.status != 401:  # then the login had ended already, and only our copy is left
            raise
        await terminal.tokens.keep(None)
    except Unreachable:
        await terminal.tokens.keep(None)
        say("The tokens are forgotten here, but the login could not be ended there: it lasts until it expires.")
        raise
    terminal.done({"url": terminal.url}, f"You are logged out at {terminal.url}.")


@connected
async def whoami(terminal: Terminal) -> None:
    """
    Show who is logged in.

    Example: mayfly whoami
    """
    async with terminal.client() as client:
        user = await client.me()
    terminal.answer(user, user.username)


@connected
async def password(terminal: Terminal, *, password_stdin: PasswordsStdin = False, end_keys: EndKeys = False) -> None:
    """
    Change your password.

    All your other logins end; this one goes on, and so do keys.

    Example: mayfly password
    """
    if password_stdin:
        current, new = passwords.from_stdin(2)
    else:
        current, new = passwords.ask("Password until now"), passwords.ask_new("New password")
    async with terminal.client() as client:
        await client.change_password(current=current, new=new, end_keys=end_keys)
    ended = "All other logins and all keys have ended." if end_keys else "All other logins have ended; keys go on."
    terminal.done({}, f"Your password is changed. {ended}")


async def _register(client: Client, name: str, password: str, invitation: str | None) -> User:
    """Register; where it turns out that this takes an invitation, and there is somebody to ask, ask for the code."""
    from mayfly.client import ApiError

    try:
        return await client.register(name, password, invitation=invitation)
    except ApiError as error:
        if invitation or error.members.get("field") != "invitation" or not passwords.can_ask():
            raise
        say(error.detail)
    return await client.register(name, password, invitation=passwords.ask("Code of the invitation").strip())


async def _log_in(terminal: Terminal, client: Client, name: str, password: str) -> None:
    """Log in, and keep with the tokens how the installation was reached."""
    from mayfly.cli.logins import Login
    from mayfly.client import FixedToken

    if isinstance(terminal.tokens, FixedToken):
        say("MAYFLY_TOKEN is set: as long as it is, it is used instead of this login.")
    tokens = await client.log_in(name, password)
    ca_file = str(terminal.ca_file.resolve()) if terminal.ca_file else None
    async with terminal.logins.locked() as logins:
        kept = logins.having(terminal.url, Login(username=name, tokens=tokens, ca_file=ca_file))
        terminal.logins.write(kept.used(terminal.url))
