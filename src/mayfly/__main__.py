"""`python -m mayfly` and the command `mayfly`: the user's commands and the operator's, in one program."""

from __future__ import annotations

import os
import sys

import typer

from mayfly.cli.app import build, names

UNUSED = "httpx._main"
"""
What httpx loads wherever it can: a command of its own, with click, rich and pygments. Without it `mayfly functions
list` starts in nine tenths of the time. Trio, which httpcore loads likewise, is not kept out: libraries such as
tenacity take its name among the modules for a sign that it runs.
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
    sys.modules[UNUSED] = None  # type: ignore[assignment]  # Python's way to say that it cannot be imported
    users = {*names(build()), "--version"}
    compose(operator=sys.argv[1:2] == [] or sys.argv[1] not in users)(prog_name="mayfly")


if __name__ == "__main__":
    main()
