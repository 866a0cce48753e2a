"""
The API described: OpenAPI for programs, and one page of plain HTML for people, made from the same and from the table
of errors. The page needs no script and nothing from elsewhere, so it works without internet and under a strict policy.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from html import escape
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from mayfly.api.admin_shapes import NewInvitation, UserChange
from mayfly.api.answers import add_errors
from mayfly.api.errors import MEANINGS
from mayfly.api.secret_shapes import NewRegistryCredentials
from mayfly.api.shapes import FunctionChange, NewFunction, NewUser, PasswordChange, Problem

READ_BY_HAND: tuple[type[BaseModel], ...] = (
    NewUser,
    PasswordChange,
    NewFunction,
    FunctionChange,
    UserChange,
    NewInvitation,
    NewRegistryCredentials,
    Problem,
)
"""Shapes that FastAPI does not see, because the routes read bodies and write errors themselves."""

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
code,pre{font:14px/1.4 ui-monospace,monospace}h2{margin-top:2.5rem;border-bottom:1px solid #ccc}
h3 code{font-size:16px}table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;
padding:.25rem .6rem;border-top:1px solid #ddd}summary{cursor:pointer}.lock{color:#666;font-size:14px}
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

PAGE_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
}

INTRODUCTION = (
    "Register a function, which is an image reference with a name, and invoke it: one HTTPS call runs one fresh "
    "container, and its stdout is the answer. Errors are problem+json; `ran` in each says whether the function ran."
)


ERRORS_HEAD = """\
# Errors

<!-- made by scripts/openapi from src/mayfly/api/errors.py -->

Every error of the API is a problem (RFC 9457, `application/problem+json`) with these members:

| member | meaning |
|---|---|
| `code` | which error; stable, for programs |
| `detail` | what is wrong and what to do about it, for people |
| `fault` | who can do something about it: `caller`, `function` or `platform` |
| `ran` | whether the function's container ran: `no`, `yes`, or `unknown`. With `no` a call may be repeated safely |
| `request_id` | finds the request in the operator's log; also in the header `X-Request-Id` |
| `retry_after_s` | when to try again, where that helps; also in the header `Retry-After` |
| `errors` | for `invalid-request`: each wrong field with its rule |
| `activation_id` | of the activation that ended so; its record and logs are under `/v1/activations/{id}` |
| `scope`, `limit`, `in_use` | for `concurrency-limit`: whose limit, how much, how many in flight |
| `exit_code`, `stderr` | for errors of the function: how it ended, and the end of what it logged |
| `clock` | for `timed-out`: where the time ran out, `queue`, `image` or `run` |
| `error` | for POST /v1/tokens: the code of RFC 6749, section 5.2 |

"""


@dataclass(frozen=True, slots=True)
class Description:
    """Both forms, made once at the start."""

    json: bytes
    page: bytes


def describe(app: FastAPI) -> Description:
    """Make both forms."""
    schema = openapi(app)
    return Description(json=json.dumps(schema).encode(), page=_page(schema).encode())


def described(app: FastAPI) -> Description:
    """Find what was made at the start."""
    found: Description = app.state.description
    return found


def openapi(app: FastAPI) -> dict[str, Any]:
    """Complete FastAPI's OpenAPI with the shapes that it does not see and the errors."""
    schema = deepcopy(app.openapi())  # which is kept, and is to be completed once
    _, definitions = models_json_schema(
        [(shape, "validation") for shape in READ_BY_HAND], ref_template="#/components/schemas/{model}"
    )
    schemas = schema["components"]["schemas"] | definitions["$defs"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schema["components"]["schemas"] = dict(sorted(schemas.items()))
    for path, methods in schema["paths"].items():
        for operation in methods.values():
            add_errors(path, operation)
    return schema


def openapi_file(app: FastAPI) -> str:
    """Write docs/reference/openapi.json."""
    return json.dumps(openapi(app), indent=2, ensure_ascii=False) + "\n"


def errors_reference() -> str:
    """Write docs/reference/errors.md."""
    rows = [
        f"## {kind.code}\n\n*{meaning.status} {meaning.title}; fault: {kind.fault}; "
        f"`ran`: {kind.default_ran} unless it says otherwise*\n\n{meaning.cause}\n\n**Remedy.** {meaning.remedy}\n"
        for kind, meaning in MEANINGS.items()
    ]
    return ERRORS_HEAD + "\n".join(rows)


def _page(schema: dict[str, Any]) -> str:
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Mayfly API</title><style>{STYLE}</style><h1>Mayfly API {escape(schema['info']['version'])}</h1>"
        f"<p>{_prose(INTRODUCTION)} <a href=/openapi.json>openapi.json</a>"
        f"{_all_operations(schema)}{_all_shapes(schema)}{_all_errors()}"
    )


def _all_operations(schema: dict[str, Any]) -> str:
    groups: dict[str, list[str]] = {}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append(_operation(method.upper(), path, operation))
    return "".join(f"<h2>{escape(tag)}</h2>{''.join(parts)}" for tag, parts in groups.items())


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    lock = "<span class=lock>needs a token</span>" if operation.get("security") else ""
    rows = [
        (parameter["name"], parameter["in"], parameter.get("description", ""))
        for parameter in operation.get("parameters", ())
    ]
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        rows.append(("body", media_type, _schema_name(content["schema"])))
    answers = [(status, answer["description"]) for status, answer in operation["responses"].items()]
    return (
        f"<h3><code>{method} {escape(path)}</code> {lock}</h3><p>{_prose(operation.get('description', ''))}"
        f"{_table(rows)}{_table(answers)}"
    )


def _all_shapes(schema: dict[str, Any]) -> str:
    parts = []
    for name, shape in schema["components"]["schemas"].items():
        rows = [
            (field, _schema_name(rule), rule.get("description", "") + _default(rule))
            for field, rule in shape.get("properties", {}).items()
        ]
        parts.append(f"<h3 id='{name}'>{name}</h3><p>{_prose(shape.get('description', ''))}{_table(rows)}")
    return f"<h2>Shapes</h2>{''.join(parts)}"


def _all_errors() -> str:
    parts = [
        f"<h3 id='{kind.code}'><code>{kind.code}</code> {meaning.status} ({kind.fault})</h3>"
        f"<p>{_prose(meaning.cause)}<p>{_prose(meaning.remedy)}"
        for kind, meaning in MEANINGS.items()
    ]
    return f"<h2>Errors</h2>{''.join(parts)}"


def _default(rule: dict[str, Any]) -> str:
    return f" Default: `{json.dumps(rule['default'])}`." if rule.get("default") is not None else ""


def _schema_name(rule: dict[str, Any]) -> str:
    if "$ref" in rule:
        return str(rule["$ref"].rpartition("/")[2])
    if "anyOf" in rule:
        return " or ".join(_schema_name(part) for part in rule["anyOf"])
    if "items" in rule:
        return f"list of {_schema_name(rule['items'])}"
    return str(rule.get("format") or rule.get("type") or rule.get("const", ""))


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["<tr>" + "".join(f"<td>{_prose(cell)}" for cell in row) for row in rows]
    return f"<table>{''.join(lines)}</table>" if lines else ""


def _prose(text: str) -> str:
    """Escape a text, and set what is between backquotes as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
