"""
Which errors each operation can answer, and with which headers, for the OpenAPI.

A route says in `openapi_extra` what is its own (`raises`, `heads`). What the way to it adds is added here to all whom
it concerns: the door, the parser, the token, the reading of a body, the gateway in front. Statuses and codes are those
of the one table, `errors.MEANINGS`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from mayfly.api import errors
from mayfly.api.door import OPEN_PATHS
from mayfly.api.errors import MEANINGS, MEDIA_TYPE
from mayfly.domain import errors as domain
from mayfly.domain.errors import MayflyError

RAISES = "x-raises"
HEADS = "x-heads"
PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
ANY_ERROR = {"description": "An error.", "content": PROBLEM}

EVERYWHERE: tuple[type[MayflyError], ...] = (
    domain.InvalidRequest,
    errors.HeadTooLarge,
    domain.InternalError,
    errors.GatewayRateLimit,
    errors.BadGateway,
    errors.GatewayUnavailable,
    errors.GatewayTimeout,
)
WITH_A_TOKEN = (domain.NotAuthenticated, domain.QueueUnavailable)
WITH_A_BODY = (errors.BodyTimeout, domain.UnsupportedEncoding)
WITH_A_TYPED_BODY = (errors.BodyTooLarge, errors.UnsupportedMediaType)

REQUEST_ID = "X-Request-Id"
LOCATION, ETAG, RETRY_AFTER = "Location", "ETag", "Retry-After"
HEADERS = {
    REQUEST_ID: "Finds the request in the operator's log: the caller's own X-Request-Id, if it is 1 to 64 of `A-Z`, "
    "`a-z`, `0-9`, `.`, `_` and `-`, else a new one.",
    LOCATION: "Where to find what was made or written.",
    ETAG: "The revision, for If-Match.",
    RETRY_AFTER: "Seconds until it is worth asking again.",
    "Mayfly-Logs-Truncated": "`true` when only the end of the logs is kept; else it is not there.",
    "WWW-Authenticate": "`Bearer`, with the reason.",
}
"""Headers of answers, and what they mean."""

OF_PROBLEMS = {"401": "WWW-Authenticate", "429": RETRY_AFTER, "503": RETRY_AFTER}
"""Headers that errors of a status can have; 429 has it always."""

ENDINGS: tuple[type[MayflyError], ...] = (
    domain.Gone,
    domain.LimitReached,
    domain.ImageUnavailable,
    domain.FunctionFailed,
    domain.ResultNotText,
    domain.ResultTooLarge,
    domain.OutOfMemory,
    domain.TimedOut,
    domain.Cancelled,
    domain.WorkerLost,
    domain.RuntimeFailed,
    domain.SecretUnavailable,
)
"""How an activation can end without a result, for whoever asks for it."""


def raises(*kinds: type[MayflyError]) -> dict[str, Any]:
    """Say in a route's `openapi_extra` which errors it raises itself."""
    return {RAISES: [kind.code for kind in kinds]}


def heads(*names: str) -> dict[str, Any]:
    """Say in a route's `openapi_extra` which headers its answers have when all went well."""
    return {HEADS: list(names)}


def add_headers(operation: dict[str, Any]) -> None:
    """Document the headers of one operation's answers."""
    own = operation.pop(HEADS, [])
    for status, answer in operation["responses"].items():
        names = own if status.startswith("2") else filter(None, [OF_PROBLEMS.get(status)])
        present = answer.get("headers", {})
        answer["headers"] = present | {name: _header(name) for name in (*names, REQUEST_ID) if name not in present}


def add_meanings(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Say of each answer what it is, where the route does not: its shape's own words, or that it is done."""
    for status, answer in operation["responses"].items():
        if answer["description"] == "Successful Response":
            content = answer.get("content", {}).get("application/json", {}).get("schema", {})
            shape = schemas.get(content.get("$ref", "").rpartition("/")[2], {})
            answer["description"] = shape.get("description") or {"204": "It is done; there is no body."}[status]


def _header(name: str) -> dict[str, Any]:
    return {"description": HEADERS[name], "schema": {"type": "string"}}


def add_errors(path: str, operation: dict[str, Any]) -> None:
    """
    Document the errors of one operation: one response for each status, with the codes that it can have. One that does
    not say what it raises may answer with any.
    """
    responses: dict[str, Any] = operation["responses"]
    responses.pop("422", None)  # FastAPI's own, which is never sent
    own = operation.pop(RAISES, None)
    if own is None:
        responses["default"] = ANY_ERROR
        return
    for status, codes in _by_status({*own, *(kind.code for kind in _on_the_way(path, operation))}).items():
        present = responses.get(status, {})
        words = [present["description"].rstrip(".")] if "description" in present else []
        responses[status] = {
            **present,
            "description": ", or ".join([*words, ", ".join(f"`{code}`" for code in codes)]) + ".",
            "content": {**present.get("content", {}), **PROBLEM},
        }
    operation["responses"] = dict(sorted(responses.items()))


def _on_the_way(path: str, operation: dict[str, Any]) -> Iterator[type[MayflyError]]:
    """What can be wrong with any request like this, before the route has seen it or the gateway the answer."""
    yield from EVERYWHERE
    if path not in OPEN_PATHS:
        yield domain.NotAllowed
    if "{" in path:
        yield domain.NotFound
    if operation.get("security"):
        yield from WITH_A_TOKEN
    if "requestBody" in operation:
        yield from WITH_A_BODY
        if "*/*" not in operation["requestBody"]["content"]:
            yield from WITH_A_TYPED_BODY


def _by_status(codes: Collection[str]) -> dict[str, list[str]]:
    """The codes of each status, in the order of the table."""
    found: dict[str, list[str]] = {}
    for kind, meaning in MEANINGS.items():
        if kind.code in codes:
            found.setdefault(str(meaning.status), []).append(kind.code)
    return found
