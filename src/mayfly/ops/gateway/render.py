"""
The gateway's two files as text. Rows: A1, D3.

`static` and `routes` have what is in them; here it becomes YAML that APISIX and a person can read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from mayfly.ops.gateway.material import PLACEHOLDERS, Material
from mayfly.ops.gateway.routes import route_config
from mayfly.ops.gateway.static import static_config
from mayfly.settings import GatewaySettings

CONFIG, ROUTES = "config.yaml", "apisix.yaml"
MADE = "# Made by `mayfly gateway render` for APISIX 3.18: change settings, not this file. deploy/apisix/README.md\n"
END = "#END\n"  # without it in the last ten bytes APISIX takes the file for half written


@dataclass(frozen=True, slots=True)
class Rendered:
    """Both files. `routes` has secrets, unless it has placeholders."""

    config: str
    routes: str = field(repr=False)


def render(settings: GatewaySettings, material: Material = PLACEHOLDERS) -> Rendered:
    """Write both files."""
    config, routes = static_config(settings), route_config(settings, material)
    return Rendered(MADE + _yaml(config), MADE + _yaml(routes) + END)


class _Dumper(yaml.SafeDumper):
    """Code and PEM as they are; placeholders in double quotes, where `\\n` in their values is a line break."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else '"' if "${{" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _yaml(tree: dict[str, Any]) -> str:
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=100_000, allow_unicode=True)
