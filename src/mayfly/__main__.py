"""`python -m mayfly` and the command `mayfly`: the user's commands and the operator's, in one program."""

from __future__ import annotations

import sys

from mayfly.cli.app import build, names


def main() -> None:
    """Run the command line."""
    app = build()
    # a user's call neither waits for the operator's part nor needs what that needs
    if not sys.argv[1:] or sys.argv[1] not in {*names(app), "--version"}:
        from mayfly.ops.commands import register

        register(app)
    app(prog_name="mayfly")


if __name__ == "__main__":
    main()
