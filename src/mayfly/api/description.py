"""
The API described: OpenAPI for programs, completed with what FastAPI does not see, and the page for people that is made
from it (page.py); and the two files of the reference.
"""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from mayfly.api.admin_shapes import NewInvitation, UserChange
from mayfly.api.answers import add_errors, add_headers, add_meanings
from mayfly.api.errors import MEANINGS
from mayfly.api.page import page
from mayfly.api.secret_shapes import NewRegistryCredentials
from mayfly.api.shapes import FunctionChange, NewFunction, NewKey, NewUser, PasswordChange, Problem

READ_BY_HAND: tuple[type[BaseModel], ...] = (
    NewUser,
    PasswordChange,
    NewKey,
    NewFunction,
    FunctionChange,
    UserChange,
    NewInvitation,
    NewRegistryCredentials,
    Problem,
)
"""Shapes that FastAPI does not see, because the routes read bodies and write errors themselves."""

INTRODUCTION = (
    "Register a function, which is an image reference with a name, and invoke it: one HTTPS call runs one fresh "
    "container, and its stdout is the answer. Errors are problem+json; `ran` in each says whether the function ran."
)


ERRORS_HEAD = """\
# Errors

<!-- made by scripts/docs from src/mayfly/api/errors.py -->

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

Below stands each code with what has happened and what to do. Where a remedy is a command it is one of the
[command line](cli.md); the operator is whoever runs the installation. Which endpoint can answer with which code stands
in [the API](api.md), and which exit status the command line makes of it in
[its reference](cli.md#which-error-ends-with-which-status).

"""


@dataclass(frozen=True, slots=True)
class Description:
    """Both forms, made once at the start."""

    json: bytes
    page: bytes


def describe(app: FastAPI) -> Description:
    """Make both forms."""
    schema = openapi(app)
    return Description(json=json.dumps(schema).encode(), page=page(schema, INTRODUCTION).encode())


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
        for method, operation in methods.items():
            add_errors(path, operation)
            add_headers(operation)
            add_meanings(operation, schemas)
            operation["x-needs"] = app.state.needs[method.upper(), path]
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
