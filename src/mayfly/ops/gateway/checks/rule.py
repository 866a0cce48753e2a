"""
A rule: what must hold between values of the gateway's files, and why.

A rule is a generator of problems over two files whose forms are right, so it reads them without asking what is there.
Its docstring says first what must hold, then why; the reference page is made from it. Rows: D3.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mayfly.ops.gateway.checks.problem import CONFIG, ROUTES, Problem
from mayfly.settings import GatewaySettings

Found = Iterator[tuple[str, str]]  # where, and the message


@dataclass(frozen=True)
class Gateway:
    """Both files, read, and the settings that they should be made from."""

    config: dict[str, Any]
    routes: dict[str, Any]
    settings: GatewaySettings
    template: bool = False  # placeholders stand for secrets

    @property
    def nginx(self) -> dict[str, Any]:
        """What config.yaml says to nginx."""
        return dict(self.config["nginx_config"])

    @cached_property
    def global_plugins(self) -> dict[str, Any]:
        """The plugins of the global rule; the first one's, if there are several."""
        return dict(self.routes["global_rules"][0]["plugins"])

    @property
    def global_at(self) -> str:
        """Where the plugins of the global rule are."""
        return f"global_rules[{self.routes['global_rules'][0]['id']}].plugins"

    def plugins(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Go through all plugins of routes and global rules: where, the plugin's name, its configuration."""
        for kind in ("global_rules", "routes"):
            for item in self.routes[kind]:
                for name, conf in item["plugins"].items():
                    yield f"{kind}[{item['id']}].plugins.{name}", name, conf

    def chunks(self) -> Iterator[tuple[str, str, str]]:
        """Go through all Lua chunks of plugins: where, the plugin's name, the chunk."""
        for where, name, conf in self.plugins():
            for index, chunk in enumerate(conf.get("functions", ())):
                yield f"{where}.functions[{index}]", name, chunk


def is_placeholder(value: str, gateway: Gateway) -> bool:
    """Say whether a value is a placeholder's name, as `parse` leaves it in a template."""
    return gateway.template and re.fullmatch(r"[A-Z][A-Z0-9_]*", value) is not None


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its name, the file that it blames, and what finds what is wrong."""

    name: str
    file: str
    find: Callable[[Gateway], Found]

    @property
    def promise(self) -> str:
        """What holds where nothing is found, and why it must."""
        return " ".join(inspect.cleandoc(self.find.__doc__ or "").split())

    def problems(self, gateway: Gateway) -> Iterator[Problem]:
        """Ask it."""
        for where, message in self.find(gateway):
            yield Problem(self.file, where, message)


RULES: list[Rule] = []


def config_rule(find: Callable[[Gateway], Found]) -> Callable[[Gateway], Found]:
    """Make a rule about config.yaml of a function, and name it after that."""
    RULES.append(Rule(find.__name__.replace("_", "-"), CONFIG, find))
    return find


def routes_rule(find: Callable[[Gateway], Found]) -> Callable[[Gateway], Found]:
    """Make a rule about apisix.yaml of a function, and name it after that."""
    RULES.append(Rule(find.__name__.replace("_", "-"), ROUTES, find))
    return find
