"""Asking for passwords: at a terminal without echo, or from stdin if that was asked for; never as an argument."""

from __future__ import annotations

import getpass

from mayfly.cli.exits import Refused
from mayfly.cli.interrupts import interruptible, stdin

STDIN_MAX_BYTES = 64 * 1024  # some clouds' passwords for registries have kilobytes


def can_ask() -> bool:
    """Whether there is somebody to ask."""
    return stdin().isatty()


def ask(prompt: str) -> str:
    """
    Ask for a password.

    Raises: Refused when there is nobody to ask, or no answer.
    """
    if not stdin().isatty():
        raise Refused("There is no terminal to ask for the password at. Pipe it in, and add --password-stdin.")
    try:
        with interruptible():
            return getpass.getpass(f"{prompt}: ")
    except EOFError:
        raise Refused("No password was given.") from None


def ask_new(prompt: str = "Password") -> str:
    """
    Ask for a password twice.

    Raises: Refused when the two differ, and as `ask`.
    """
    first = ask(prompt)
    if ask(f"{prompt} again") != first:
        raise Refused("The two passwords differ. Nothing was done.")
    return first


def from_stdin(count: int = 1) -> list[str]:
    """
    Read passwords from stdin, one a line.

    Raises: Refused when stdin is a terminal, which would show them, or has not *count* lines of text, or too long ones.
    """
    if stdin().isatty():
        raise Refused("stdin is a terminal. Leave --password-stdin out, and you are asked without echo.")
    with interruptible():
        content = stdin().buffer.read(STDIN_MAX_BYTES + 1)
    if len(content) > STDIN_MAX_BYTES:
        raise Refused(f"What is on stdin has more than {STDIN_MAX_BYTES:,} bytes, the most that is read as a password.")
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError:
        raise Refused("The password on stdin is not text in UTF-8.") from None
    if len(lines) != count or not all(lines):
        raise Refused(f"--password-stdin takes exactly {count} line{'s' if count > 1 else ''}, and not an empty one.")
    return lines
