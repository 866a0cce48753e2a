"""The help: there for every command, with examples that parse."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mayfly
from mayfly.__main__ import compose
from mayfly.cli.activations import State as StateOption
from mayfly.cli.exits import EXITS
from mayfly.cli.functions import Parameter
from mayfly.cli.reference import commands
from mayfly.client.shapes import Limits
from mayfly.domain.activation import State
from mayfly.domain.function import ParameterMode

COMMANDS = dict(commands(compose()))


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAYFLY_", "_MAYFLY"))}
    command = [sys.executable, "-m", "mayfly", *arguments]
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=False, timeout=30)


def examples(command: Any) -> list[str]:
    """The examples in a command's help."""
    return re.findall(r"^Example: (.*)$", command.help, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_parses(name: str) -> None:
    """Each command shows at least one call of itself, and the command line takes it as it stands."""
    shown = examples(COMMANDS[name])

    assert shown
    for example in shown:
        words = shlex.split(example[example.rindex(name) :])
        here = next((i for i, word in enumerate(words) if word in {"<", ">", "|", "&&"}), len(words))
        COMMANDS[name].make_context(name, words[len(name.split()) : here])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    """No argument and no option is without a word on what it is."""
    silent = [parameter.name for parameter in COMMANDS[name].params if not parameter.help]

    assert silent == []


@pytest.mark.parametrize(
    "arguments", [(), ("functions", "create"), ("invoke",), ("activations", "logs"), ("login",)], ids=" ".join
)
def test_help_is_data_on_stdout(arguments: tuple[str, ...]) -> None:
    """--help answers on stdout, with status 0 and its example; the statuses are at the end of the first page."""
    ended = run(*arguments, "--help", COLUMNS="100", TERM="dumb")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Example: mayfly" in ended.stdout or all(meaning in ended.stdout for meaning in EXITS.values())


def test_defaults_in_the_help_are_those_that_hold() -> None:
    """The help names the defaults of limits, the ways of the parameter and the states, as the domain has them."""
    create = {parameter.name: parameter.help for parameter in COMMANDS["mayfly functions create"].params}
    limits = Limits()

    assert f"(default {limits.memory_mib})" in create["memory"]
    assert f"(default {limits.cpus})" in create["cpus"]
    assert f"(default {limits.pids})" in create["pids"]
    assert f"(default {limits.timeout_s:g})" in create["timeout"]
    assert all(f"'{mode}'" in str(Parameter) for mode in ParameterMode)
    assert all(f"'{state}'" in str(StateOption) for state in State)


def test_version_is_told() -> None:
    """--version prints the version of the package."""
    assert run("--version").stdout == f"mayfly {mayfly.__version__}\n"


def test_a_mistyped_command_is_answered_with_the_nearest() -> None:
    """An unknown command ends with status 2 and the one that was probably meant."""
    ended = run("invok", TERM="dumb")

    assert ended.returncode == 2
    assert "Did you mean 'invoke'?" in ended.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [("mayfly func", "functions"), ("mayfly functions cr", "create"), ("mayfly invoke --ver", "--verbose")],
)
def test_shells_can_complete(line: str, expected: str) -> None:
    """The completion that `--install-completion` puts into bash knows commands and options."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}

    assert expected in run(_MAYFLY_COMPLETE="complete_bash", **words).stdout.split()


def imported(*arguments: str, config_dir: Path) -> set[str]:
    """The packages that a command imports until it fails for want of a login."""
    command = [sys.executable, "-X", "importtime", "-m", "mayfly", *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": str(config_dir)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    names = re.findall(r"^import time:.*\| +(\S+)$", ended.stderr, re.MULTILINE)
    return {name if name.startswith("mayfly") else name.partition(".")[0] for name in names}


def test_a_call_does_not_load_the_platform(tmp_path: Path) -> None:
    """`mayfly invoke` imports neither the operator's commands nor what servers need."""
    loaded = imported("invoke", "x", config_dir=tmp_path)

    assert {"httpx", "mayfly.client"} <= loaded
    assert not {"mayfly.ops.commands", "mayfly.api", "mayfly.bus", "nats", "fastapi", "uvicorn", "structlog"} & loaded


def test_a_command_loads_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    """httpx loads a command of its own wherever what that needs is installed: not for ours."""
    loaded = imported("functions", "list", config_dir=tmp_path)

    assert "httpcore" in loaded
    assert not {"click", "rich", "pygments"} & loaded


def test_version_loads_next_to_nothing(tmp_path: Path) -> None:
    """`mayfly --version` is not kept waiting by HTTP or settings."""
    assert not {"httpx", "pydantic", "msgspec", "rich"} & imported("--version", config_dir=tmp_path)
