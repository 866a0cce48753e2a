"""docs/reference/cli.md, made from the commands themselves: what --help says, and the exit statuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from mayfly.cli.exits import EXITS
from mayfly.cli.terminal import PANEL

HEAD = """# The command line

<!-- made by scripts/docs from src/mayfly/cli and src/mayfly/ops/*commands.py -->

stdout is data, stderr is talk. The result of `mayfly invoke` and of `mayfly activations result`, and logs, are written
byte for byte. With `--json` each user's command writes one JSON document to stdout, and errors as one JSON object to
stderr (mistakes on the command line itself stay text). `mayfly --install-completion` teaches your shell the commands.
"""


def commands(app: typer.Typer) -> Iterator[tuple[str, Any]]:
    """Walk all commands that can be run, by their full names, in the order of the help."""
    yield from _walk("mayfly", typer.main.get_command(app))


def cli_reference(app: typer.Typer) -> str:
    """Write the page."""
    found = list(commands(app))
    return "\n".join([HEAD, *_exit_statuses(), *_common_options(found), *(_section(*each) for each in found)])


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner: dict[str, Any] = getattr(command, "commands", {})
    if not inner:
        yield name, command
    panels = list(dict.fromkeys(each.rich_help_panel for each in inner.values()))
    for each in sorted(inner, key=lambda each: panels.index(inner[each].rich_help_panel)):
        yield from _walk(f"{name} {each}", inner[each])


def _exit_statuses() -> list[str]:
    rows = [f"| {status} | {meaning} |" for status, meaning in EXITS.items()]
    return ["## Exit statuses", "", "| status | meaning |", "|---|---|", *rows, ""]


def _common_options(found: list[tuple[str, Any]]) -> list[str]:
    _, whoami = next(each for each in found if each[0] == "mayfly whoami")
    options = [_option(each) for each in whoami.params if _is_common(each)]
    return ["## Options of every user's command", "", *options, ""]


def _section(name: str, command: Any) -> str:
    paragraphs = command.help.split("\n\n")
    prose = [" ".join(each.split("\n")) for each in paragraphs if not each.startswith("Example: ")]
    examples = [each.removeprefix("Example: ") for each in paragraphs if each.startswith("Example: ")]
    usage = " ".join([name, *command.collect_usage_pieces(typer.Context(command))])
    own = [each for each in command.params if not _is_common(each) and not getattr(each, "hidden", False)]
    options = [_option(each) for each in own if each.param_type_name == "option"]
    arguments = [f"- `{each.metavar or each.name.upper()}`: {each.help}" for each in own if each not in _options(own)]
    lines = [f"## {name}", "", f"`{usage}`", "", "\n\n".join(prose), ""]
    lines += [*arguments, *options, *([""] if own else [])]
    return "\n".join([*lines, "```console", *(f"$ {example}" for example in examples), "```", ""])


def _options(parameters: list[Any]) -> list[Any]:
    return [each for each in parameters if each.param_type_name == "option"]


def _option(option: Any) -> str:
    value = "" if option.is_flag else f" {option.metavar or option.name.upper()}"
    names = ", ".join(f"`{name}{value}`" for name in option.opts)
    return f"- {names}: {option.help}"


def _is_common(parameter: Any) -> bool:
    return getattr(parameter, "rich_help_panel", None) == PANEL
