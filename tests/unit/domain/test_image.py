"""The command line: what the image says, and what a registration puts in its place."""

from __future__ import annotations

import pytest

from mayfly.domain.image import ProcessConfig

IMAGE = ProcessConfig(entrypoint=("/init",), cmd=("serve", "80"))


@pytest.mark.F6
@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        (None, None, ("/init", "serve", "80")),
        (None, ("once",), ("/init", "once")),
        (None, (), ("/init",)),
        (("tr", "a", "b"), None, ("tr", "a", "b")),
        (("tr",), ("a", "b"), ("tr", "a", "b")),
        ((), None, ()),
    ],
)
def test_command_and_args_replace_entrypoint_and_cmd(
    command: tuple[str, ...] | None, args: tuple[str, ...] | None, expected: tuple[str, ...]
) -> None:
    """`command` replaces ENTRYPOINT and CMD, `args` replaces CMD alone, as on Kubernetes."""
    assert IMAGE.command_line(command, args) == expected
