"""docs/reference/cli.md: every command with each option, and the exit statuses, from the commands themselves."""

from __future__ import annotations

from mayfly.__main__ import compose
from mayfly.cli.reference import cli_reference
from pages.page import wrapped


def page() -> str:
    """Write the whole page."""
    return wrapped(cli_reference(compose()))
