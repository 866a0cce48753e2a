"""
Whether APISIX may be given these two files. `mayfly gateway check` prints the answer, `install` obeys it.

APISIX itself takes a mistyped key of a plugin, drops an invalid global rule and lets traffic flow, and loses the first
of two equal ids without a word. So the files are compared with a form of our own, which names each key that we use and
no other, and then with rules between values. It goes in three steps, each of which needs the one before: the files can
be read, their forms are right, the rules hold. Rows: A1, D3.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path

from mayfly.ops.gateway import checks
from mayfly.ops.gateway.checks.config_form import CONFIG_FORM
from mayfly.ops.gateway.checks.problem import CONFIG, ROUTES, Problem
from mayfly.ops.gateway.checks.read import Unreadable, parse, read_file
from mayfly.ops.gateway.checks.routes_form import ROUTES_FORM
from mayfly.ops.gateway.checks.rule import RULES, Gateway
from mayfly.ops.gateway.checks.words import form_problems
from mayfly.settings import GatewaySettings

FORMS = {CONFIG: CONFIG_FORM, ROUTES: ROUTES_FORM}

for _module in pkgutil.iter_modules(checks.__path__, prefix=f"{checks.__name__}."):
    import_module(_module.name)  # a module's rules are known once it is imported

__all__ = ["FORMS", "RULES", "Problem", "problems", "problems_of_files"]


def problems(
    config: str, routes: str, *, settings: GatewaySettings | None = None, template: bool = False
) -> list[Problem]:
    """
    Find what is wrong with the texts of config.yaml and apisix.yaml; nothing, if the list is empty.

    *settings* are those that the files are made from, the defaults if none are given. In a *template*, such as the
    committed files, placeholders (`${{NAME}}`) may stand for secrets. Problems have no value of the files in them.
    """
    contents, found = {}, []
    for name, text in ((CONFIG, config), (ROUTES, routes)):
        try:
            contents[name] = parse(text, name, template=template)
        except Unreadable as error:
            found += error.problems
    if found:
        return found
    for name, content in contents.items():
        found += form_problems(content, FORMS[name], name)
    if found:
        return found
    gateway = Gateway(contents[CONFIG], contents[ROUTES], settings or GatewaySettings(), template=template)
    return [problem for rule in RULES for problem in rule.problems(gateway)]


def problems_of_files(
    config: Path, routes: Path, *, settings: GatewaySettings | None = None, template: bool = False
) -> list[Problem]:
    """Do the same with two files, of which no more is read than is allowed."""
    texts, found = [], []
    for path, name in ((config, CONFIG), (routes, ROUTES)):
        try:
            texts.append(read_file(path, name))
        except Unreadable as error:
            found += error.problems
    return found or problems(*texts, settings=settings, template=template)
