"""docs/reference/gateway-checks.md: every demand and rule, from mayfly.ops.gateway.checks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

from mayfly.ops.gateway.check import FORMS, RULES
from mayfly.ops.gateway.checks.plugin_forms import PLUGINS
from mayfly.ops.gateway.checks.read import DEPTH_MAX, SIZE_MAX_BYTES
from mayfly.ops.gateway.checks.rule import Rule
from mayfly.ops.gateway.checks.shape import Shape, demands, refusals
from mayfly.ops.gateway.checks.words import demanded

HEAD = f"""# What `mayfly gateway check` looks at

<!-- made by scripts/docs from src/mayfly/ops/gateway/checks -->

APISIX takes a mistyped key of a plugin without a word, drops a global rule with an error in it and lets traffic flow
on, and of two objects with one id loses the first. So what it is given is checked before: [how to run the
gateway](../howto/run-the-gateway.md) says when. There are three steps, and each needs the one before. A problem names
file, place, rule and remedy, and never a value: that may be a secret.

## 1. The files can be read

- They are UTF-8 and YAML: one document, at most {SIZE_MAX_BYTES // 1024} KiB, {DEPTH_MAX} levels deep.
- No key is there twice, and there are no anchors, aliases, merges and tags: APISIX's reader and ours could differ.
- apisix.yaml ends with `#END`: without it APISIX takes the file as half written.
- No placeholder (`${{{{NAME}}}}`) is left where a secret belongs, but in the templates in `deploy/apisix`; and none
  is in a comment, where it counts, too.

## 2. Their forms are right

Each mapping has the keys that are known here and no others, and each value is of its kind. Plugins that may be used:
{", ".join(f"`{name}`" for name in sorted(PLUGINS))}. What is demanded for a reason:
"""


MANY = {"p": "plugins.*._meta", "e": "error_*"}


def page() -> str:
    """Write the whole page."""
    parts = [HEAD]
    for name, form in FORMS.items():
        parts += [f"\n### {name}\n\n| what | must be | since |\n|---|---|---|\n", *sorted(set(rows(form)))]
    parts += ["\n## 3. The rules hold\n"]
    for room, rules in groupby(sorted(RULES, key=room_of), key=room_of):
        parts += [f"\n### {title(room)}\n\n", *map(item, rules)]
    return "".join(parts)


def rows(form: Shape) -> Iterator[str]:
    """Write what a form demands, and which keys it refuses by name. A plugin's keys are the same wherever it is."""
    for where, shape in demands(form):
        yield f"| `{short(where)}` | {demanded(shape)} | {shape['description']} |\n"
    for where, reason in refusals(form):
        yield f"| `{short(where)}` | absent | {reason} |\n"


def short(where: str) -> str:
    """Leave out where a plugin is, and what is the same of all plugins or pages."""
    where = re.sub(r"^(routes|global_rules)\[\]\.plugins\.", "plugins.", where)
    return re.sub(r"^plugins\.[a-z-]+\._meta|error_\d+(?=\.)", lambda found: MANY[found[0][0]], where)


def room_of(rule: Rule) -> str:
    """Return the module that a rule is in."""
    return rule.find.__module__


def title(room: str) -> str:
    """Make a heading of a module's name."""
    return room.rpartition(".")[2].replace("_", " ").capitalize()


def item(rule: Rule) -> str:
    """Write one rule."""
    return f"- `{rule.name}` ({rule.file}): {rule.promise}\n"
