"""Rules about plugins and their chunks as such. Rows: D3."""

from __future__ import annotations

import difflib
import re

from mayfly.ops.gateway.checks.lua import fault_of, skeleton, without_comments
from mayfly.ops.gateway.checks.plugin_forms import PLUGINS, REFUSED_PLUGINS
from mayfly.ops.gateway.checks.rule import Found, Gateway, config_rule, routes_rule

GIVES_A_FUNCTION = re.compile(r"""\s*(?:local\s+\w+\s*=\s*(?:\{[^{}]*\}|""|\d+)\s*)*return\s+function\b""")


@config_rule
def plugins_known(gateway: Gateway) -> Found:
    """`plugins` names only what the gateway uses: each plugin more is code that requests can reach."""
    for index, name in enumerate(gateway.config["plugins"]):
        if name in PLUGINS:
            continue
        near = difflib.get_close_matches(name, PLUGINS, n=1)
        hint = f"did you mean {near[0]}?" if near else REFUSED_PLUGINS.get(name, "remove it.")
        yield f"plugins[{index}]", f"is no plugin that the gateway uses; {hint}"


@config_rule
def plugins_enabled(gateway: Gateway) -> Found:
    """Each plugin that apisix.yaml uses is in `plugins`: else APISIX 3.18 drops the route, and later versions the
    plugin alone, which opens the route."""
    used = {name for _, name, _ in gateway.plugins()}
    used |= {name for one in gateway.routes["consumers"] for name in one.get("plugins", ())}
    for name in sorted(used - set(gateway.config["plugins"])):
        yield "plugins", f"lacks {name}, which apisix.yaml uses: APISIX would drop what uses it. Add it."


@routes_rule
def chunks_compile(gateway: Gateway) -> Found:
    """Each Lua chunk compiles: APISIX drops the whole route or global rule if one does not, and traffic flows on."""
    for where, _, chunk in gateway.chunks():
        if fault := fault_of(chunk):
            yield where, f"does not compile: {fault}."


@routes_rule
def chunks_give_functions(gateway: Gateway) -> Found:
    """A serverless chunk returns a function, after nothing but `local NAME = ...` lines; one of exit-transformer is the
    body itself. APISIX runs what stands outside of the function when it reads the file."""
    for where, name, chunk in gateway.chunks():
        if fault_of(chunk):
            continue
        gives = GIVES_A_FUNCTION.match(skeleton(chunk)) is not None
        if name.startswith("serverless-") and not gives:
            yield where, "must be `return function(conf, ctx) ... end`, with nothing but `local NAME = ...` before it."
        elif name == "exit-transformer" and (gives or "..." not in without_comments(chunk)):
            yield where, "must be the function's body and begin with `local code, body, headers = ...`."


@routes_rule
def ids_unique(gateway: Gateway) -> Found:
    """Ids are unique in each list: of two equal ones APISIX loses the first, without a line in the log."""
    for kind, items in gateway.routes.items():
        seen: set[str] = set()
        for item in items:
            name = item.get("id", "")
            if name in seen:
                yield f"{kind}[{name}].id", "is there twice: APISIX would lose the first. Give each its own."
            seen.add(name)
