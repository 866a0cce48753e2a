"""`python -m mayfly` and the command `mayfly`: the user's commands and the operator's, in one program."""

from __future__ import annotations

import os
import sys

import typer

from mayfly.cli.app import build, names

UNUSED = ("httpx._main", "trio")
"""
What httpx and httpcore load wherever it is installed, and Mayfly never uses: httpx's own command with click, rich and
pygments, and another event loop. Without them `mayfly functions list` starts in two thirds of the time (440 of 690 ms).
"""


def compose(*, operator: bool = True) -> typer.Typer:
    """Put the commands together; without the operator's, neither they nor what they need is imported."""
    app = build()
    if operator:
        from mayfly.ops.commands import register

        register(app)
    return app


def main() -> None:
    """
    Run the command line. A user's call does not wait for the operator's part. Nobody may write to what is made but its
    owner, with which umask ever the program was started.
    """
    os.umask(os.umask(0o077) | 0o022)
    for module in UNUSED:
        sys.modules[module] = None  # type: ignore[assignment]  # Python's way to say that it cannot be imported
    users = {*names(build()), "--version"}
    compose(operator=sys.argv[1:2] == [] or sys.argv[1] not in users)(prog_name="mayfly")


if __name__ == "__main__":
    main()
