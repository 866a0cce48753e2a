"""docs/reference/settings.md: every setting, and what is said when one is wrong, from mayfly.settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mayfly.settings import PREFIX, ROLES, SettingsError, load
from pages.page import code, table

HEAD = """# Settings

<!-- made by scripts/docs from src/mayfly/settings.py -->

Each setting is an environment variable. A variable that begins with `MAYFLY_` and is no setting stops the start, with
the nearest right name. `mayfly settings ROLE` prints the values in force.
"""
MACHINE = {"slots": "4 a core", "login_concurrency": "half the cores"}
"""Defaults that depend on the machine, and are not to be this one's."""


MISTAKES: tuple[tuple[str, str, str], ...] = (
    ("worker", "MAYFLY_SLOT", "4"),
    ("worker", "MAYFLY_SLOTS", "many"),
    ("api", "MAYFLY_DRAIN_S", "-1"),
    ("api", "MAYFLY_REGISTRATION", "closd"),
    ("api", "MAYFLY_TLS_KEY_FILE", ""),
    ("gateway", "MAYFLY_GATEWAY_API", "api-1"),
)
"""A role, a variable of it, and a value that it cannot have."""

WRONG = """## When one is wrong

A role looks at all its settings before it does anything. If one is wrong it says so on stderr, one line for each, and
ends with status 2; started again it says the same. Each line names the variable, the rule, and what was given:

"""
AND_FILES = """
A file that is named and cannot be read, or does not hold what it should (a key, a certificate, a password), ends the
start as well, with status 2 or 6, and the line names the file. `mayfly settings ROLE` looks at the
values without starting anything.
"""


def fields() -> dict[str, Any]:
    """Return every setting of every role, by name."""
    found = {name: field for role in ROLES.values() for name, field in role.model_fields.items()}
    return dict(sorted(found.items()))


def roles_of(name: str) -> list[str]:
    """Return the roles that have a setting."""
    return [role for role, settings in ROLES.items() if name in settings.model_fields]


def rows() -> list[tuple[str, str, str, str]]:
    """Return for each setting its variable, its default, the roles that read it, and what it means."""
    return [
        (
            f"`{PREFIX}{name.upper()}`",
            MACHINE.get(name) or code(field.default),
            ", ".join(roles_of(name)),
            field.description or "",
        )
        for name, field in fields().items()
    ]


def said(role: str, variable: str, value: str) -> str:
    """
    Return what a role says at its start with this variable.

    Raises: ValueError when it says nothing, so that the page does not show what is no mistake.
    """
    with _environment({variable: value}):
        try:
            load(ROLES[role])
        except SettingsError as error:
            return str(error)
    raise ValueError(f"{variable}={value} is right for {role}")


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Have these variables of ours, and no others, meanwhile."""
    before = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    for name in before:
        del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
        os.environ.update(before)


def page() -> str:
    """Write the whole page."""
    mistakes = ((f"`{variable}={value}`", said(role, variable, value)) for role, variable, value in MISTAKES)
    return (
        f"{HEAD}\n{table(('variable', 'default', 'of', 'meaning'), rows())}\n\n"
        f"{WRONG}{table(('given', 'said'), mistakes)}\n{AND_FILES}"
    )
