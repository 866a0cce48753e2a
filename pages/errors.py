"""docs/reference/errors.md: every error with cause and remedy, from mayfly.api.errors."""

from __future__ import annotations

from mayfly.api.description import errors_reference
from pages.page import wrapped


def page() -> str:
    """Write the whole page."""
    return wrapped(errors_reference())
