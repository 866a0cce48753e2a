"""
The API's page for people, plain HTML made from the OpenAPI and the table of errors: each operation with a call by curl,
the shapes of bodies, and the errors, to which the `type` of every problem leads.

It needs no script and nothing from elsewhere, so it works without internet and under a strict policy. It is as dark as
the reader's system, and as wide as the window.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Iterable
from html import escape
from typing import Any

from mayfly.api.errors import MEANINGS

STYLE = """
:root{color-scheme:light dark;--text:#1f2328;--faint:#59636e;--back:#fff;--code:#f3f4f6;--line:#d7dbe0;--link:#1a4fa0;
--mark:#fff3c4}
@media(prefers-color-scheme:dark){:root{--text:#e3e6ea;--faint:#a2abb5;--back:#16191d;--code:#23282e;--line:#3a414a;
--link:#8ab4f8;--mark:#4a3f12}}
*{box-sizing:border-box}
html{scroll-padding-top:1rem}
body{font:16px/1.5 system-ui,sans-serif;color:var(--text);background:var(--back);margin:0 auto;max-width:76rem;
padding:1rem;display:grid;gap:0 3rem;grid-template-columns:minmax(0,1fr)}
a{color:var(--link)}
code,pre{font:.875em/1.45 ui-monospace,monospace;background:var(--code);border-radius:4px}
code{padding:.1em .3em;overflow-wrap:anywhere}
pre{padding:.7rem .9rem;overflow-x:auto}pre code{padding:0;overflow-wrap:normal}
h1{margin:.5rem 0}h2{margin:3rem 0 1rem;padding-bottom:.2rem;border-bottom:1px solid var(--line)}
h3{margin:2rem 0 .5rem;font-size:1.05rem;overflow-wrap:anywhere}
h3 a{color:inherit;text-decoration:none}h3:target{background:var(--mark)}
.faint{color:var(--faint);font-size:.875rem;font-weight:normal}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%}
td{text-align:left;vertical-align:top;padding:.3rem 1rem .3rem 0;border-top:1px solid var(--line)}
td:first-child{white-space:nowrap}td:last-child{width:70%;min-width:10rem;padding-right:0}
summary{cursor:pointer;color:var(--faint);margin:.5rem 0}
nav ul{list-style:none;margin:0;padding:0}nav>ul>li{display:inline-block;margin-right:1rem}nav ul ul{display:none}
@media(min-width:60rem){body{grid-template-columns:19rem minmax(0,1fr)}header{grid-column:1/3}
nav{position:sticky;top:0;align-self:start;max-height:100vh;overflow-y:auto;padding:1.5rem 0;font-size:.875rem}
nav>ul>li{display:block;margin:0 0 1rem}nav ul ul{display:block;font-weight:normal}nav>ul>li>a{font-weight:bold}
nav li li{margin:.15rem 0}nav a{text-decoration:none}nav code{background:none;padding:0;font-size:.8rem}}
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

PAGE_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
}

BODIES: dict[str, dict[str, Any]] = {
    "NewUser": {"username": "ann", "password": "correct horse battery"},
    "PasswordChange": {"current_password": "correct horse battery", "new_password": "battery horse correct"},
    "NewKey": {"name": "ci"},
    "NewFunction": {"name": "upper", "image": "busybox", "command": ["tr", "a-z", "A-Z"]},
    "FunctionChange": {"image": "busybox", "command": ["rev"]},
    "NewRegistryCredentials": {"username": "ann", "password": "what the registry gave her"},
    "UserChange": {"max_activations": 4},
    "NewInvitation": {"note": "for Ben"},
}
"""What the examples send, by the shape that it has."""
FORM = "--data grant_type=password --data username=ann --data-urlencode 'password=correct horse battery'"
NAMES = {
    "/functions/{name}": "/functions/upper",
    "/users/{name}": "/users/ben",
    "/secrets/{key}": "/secrets/API_KEY",
    "{host}": "registry.example.org",
}
"""What the examples call; what has an id is in a variable."""
CURL = "curl --cacert ca.crt"
LINE = 96
"""A longer command is written on several lines."""
BEARER = '--header "Authorization: Bearer $TOKEN"'

_CODES = {kind.code for kind in MEANINGS}


def page(schema: dict[str, Any], introduction: str) -> str:
    """Write it."""
    groups = _groups(schema)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>Mayfly API</title><style>{STYLE}</style>"
        f"<header><h1>Mayfly API {escape(schema['info']['version'])}</h1><p>{_prose(introduction)} "
        "For programs: <a href=/openapi.json>openapi.json</a>.</header>"
        f"{_contents(groups)}<main>{_first_call(schema)}"
        + "".join(
            f"<h2 id='{_id(tag)}'>{escape(tag)}</h2>{''.join(_operation(*each) for each in operations)}"
            for tag, operations in groups.items()
        )
        + f"{_shapes(schema)}{_errors()}</main>"
    )


Operation = tuple[str, str, dict[str, Any]]
"""Method, path, and what the OpenAPI says of it."""


def _groups(schema: dict[str, Any]) -> dict[str, list[Operation]]:
    groups: dict[str, list[Operation]] = {}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append((method.upper(), path, operation))
    return groups


def _contents(groups: dict[str, list[Operation]]) -> str:
    parts = [_entry("first-call", "A first call")]
    for tag, operations in groups.items():
        below = "".join(
            f"<li><a href='#{operation['operationId']}'><code>{method} {escape(path.removeprefix('/v1'))}</code></a>"
            for method, path, operation in operations
        )
        parts.append(_entry(_id(tag), escape(tag), f"<ul>{below}</ul>"))
    parts += [_entry("shapes", "Shapes"), _entry("errors", "Errors")]
    return f"<nav aria-label=Contents><ul>{''.join(parts)}</ul></nav>"


def _entry(to: str, words: str, below: str = "") -> str:
    return f"<li><a href='#{to}'>{words}</a>{below}"


def _first_call(schema: dict[str, Any]) -> str:
    paths = schema["paths"]
    asked = [
        (path, curl("POST", path, paths[path]["post"]))
        for path in ("/v1/users", "/v1/tokens", "/v1/functions", "/v1/functions/{name}/activations")
    ]
    lines = [f"TOKEN=$({line} | jq --raw-output .access_token)" if "tokens" in path else line for path, line in asked]
    return (
        "<h2 id=first-call>A first call</h2><p>Here and below, <code>$URL</code> is where this page is, without "
        "<code>/docs</code>, and <code>ca.crt</code> is what its operator gave you; with a public certificate leave "
        "<code>--cacert</code> out. On a machine of several users, who can see what stands in a command, let curl read "
        "passwords and tokens: <code>--json @FILE</code>, <code>--data-urlencode password@FILE</code>, <code>--header "
        f"@FILE</code>.<pre><code>{escape(chr(10).join(lines))}</code></pre>"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    name = operation["operationId"]
    lock = "needs a token" if operation.get("security") else "needs no token"
    given = [
        (f"`{parameter['name']}`", f"{parameter['in']} {parameter.get('description', '')}")
        for parameter in operation.get("parameters", ())
    ]
    bodies = operation.get("requestBody", {}).get("content", {})
    given += [("body", f"{_schema_name(content['schema'])} ({kind})") for kind, content in bodies.items()]
    good = [(status, _answer(answer)) for status, answer in operation["responses"].items() if status.startswith("2")]
    bad = [
        (status, answer["description"])
        for status, answer in operation["responses"].items()
        if not status.startswith("2")
    ]
    return (
        f"<h3 id='{name}'><a href='#{name}'><code>{method} {escape(path)}</code></a> <span class=faint>{lock}</span>"
        f"</h3><p>{_prose(operation.get('description', ''))}"
        f"<pre><code>{escape(curl(method, path, operation))}</code></pre>"
        f"{_table(given)}{_table(good)}<details><summary>{len(bad)} statuses of errors</summary>{_table(bad)}</details>"
    )


def curl(method: str, path: str, operation: dict[str, Any]) -> str:
    """The call of an operation as a command."""
    for name, value in NAMES.items():
        path = path.replace(name, value)
    path = re.sub(r"\{(\w+)\}", lambda match: f"${match[1].upper()}", path)
    body = [_sent(*each) for each in operation.get("requestBody", {}).get("content", {}).items()]
    given = [f"--request {method}"] if method != ("POST" if body else "GET") else []
    given += [BEARER] if operation.get("security") else []
    lines = [CURL]
    for part in (*given, *body, f"$URL{path}"):
        if len(lines[-1]) + len(part) < LINE:
            lines[-1] += f" {part}"
        else:
            lines.append(f"    {part}")
    return " \\\n".join(lines)


def _sent(media_type: str, content: dict[str, Any]) -> str:
    if media_type == "application/json":
        return f"--json {shlex.quote(json.dumps(BODIES[_referred(content['schema'])]))}"
    if media_type == "application/x-www-form-urlencoded":
        return FORM
    return "--data 'what nobody may know'" if "format" in content["schema"] else "--data 'hello, mayfly'"


def _answer(answer: dict[str, Any]) -> str:
    """What an answer means; the framework's words for nothing in particular are left out."""
    words = "" if answer["description"] == "Successful Response" else answer["description"]
    shape = _schema_name(answer.get("content", {}).get("application/json", {}).get("schema", {}))
    return " ".join(filter(None, [shape, words])) or "done"


def _shapes(schema: dict[str, Any]) -> str:
    parts = []
    for name, shape in schema["components"]["schemas"].items():
        rows = [
            (f"`{field}`", f"{_schema_name(rule)}. {rule.get('description', '')}{_default(rule)}")
            for field, rule in shape.get("properties", {}).items()
        ]
        values = ", ".join(f"`{value}`" for value in shape.get("enum", ()))
        parts.append(
            f"<h3 id='{name}'>{name}</h3><p>{_prose(shape.get('description', ''))} {_prose(values)}{_table(rows)}"
        )
    return f"<h2 id=shapes>Shapes</h2>{''.join(parts)}"


def _errors() -> str:
    parts = [
        f"<h3 id='{kind.code}'><a href='#{kind.code}'><code>{kind.code}</code></a> <span class=faint>{meaning.status} "
        f"{escape(meaning.title)}; fault: {kind.fault}; ran: {kind.default_ran} unless it says otherwise</span></h3>"
        f"<p>{_prose(meaning.cause)}<p>{_prose(meaning.remedy)}"
        for kind, meaning in MEANINGS.items()
    ]
    return f"<h2 id=errors>Errors</h2>{''.join(parts)}"


def _default(rule: dict[str, Any]) -> str:
    return f" Default: `{json.dumps(rule['default'])}`." if rule.get("default") is not None else ""


def _schema_name(rule: dict[str, Any]) -> str:
    if "$ref" in rule:
        return f"`#{_referred(rule)}`"
    if "anyOf" in rule:
        return " or ".join(_schema_name(part) for part in rule["anyOf"])
    if "oneOf" in rule:
        return " or ".join(", ".join(part["required"]) for part in rule["oneOf"])
    if "items" in rule:
        return f"list of {_schema_name(rule['items'])}"
    return str(rule.get("format") or rule.get("type") or rule.get("const", ""))


def _referred(rule: dict[str, Any]) -> str:
    return str(rule["$ref"].rpartition("/")[2])


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["<tr>" + "".join(f"<td>{_prose(cell)}" for cell in row) for row in rows]
    return f"<div class=wide><table>{''.join(lines)}</table></div>" if lines else ""


def _prose(text: str) -> str:
    """
    Escape a text, and set what is between backquotes as code. An error's code leads to the error, and what begins with
    a # to the shape that is called so.
    """
    parts = escape(text).split("`")
    return "".join(_code(part) if number % 2 else part for number, part in enumerate(parts))


def _code(words: str) -> str:
    if words.startswith("#") or words in _CODES:
        name = words.removeprefix("#")
        return f"<a href='#{name}'><code>{name}</code></a>"
    return f"<code>{words}</code>"


def _id(tag: str) -> str:
    return f"about-{tag.lower()}"
