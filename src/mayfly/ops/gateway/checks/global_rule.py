"""
Rules about the one global rule: what happens to each request before, and to each answer after, its route's own plugins.

An invalid global rule fails open: APISIX drops it, logs a line, and lets traffic flow without it. Rows: A1, D3.
"""

from __future__ import annotations

import re

from mayfly.api.door import SECRET_MIN_BYTES
from mayfly.ops.gateway.checks.lua import fault_of, header_set_to, removed_headers, without_comments
from mayfly.ops.gateway.checks.rule import Found, Gateway, routes_rule

IDENTITY_HEADERS = (
    "X-Consumer-Username",
    "X-Credential-Identifier",
    "X-Consumer-Custom-ID",
    "X-Consumer-Groups",
    "X-Userinfo",
    "X-Access-Token",
)
"""What APISIX's plugins tell API servers about a caller."""

PRE_FUNCTION, PRE_FUNCTION_PRIORITY = "serverless-pre-function", 10_000
DOOR = "X-Mayfly-Gateway"
PATH_TRICKS = {"//": "//", r"\.{1,2}": "dot segments", "%2e": "%2e", "%2f": "%2f", "%5c": "%5c"}
HSTS_MIN_S = 31_536_000


@routes_rule
def one_global_rule(gateway: Gateway) -> Found:
    """There is one global rule: of a plugin that is in two, APISIX runs neither."""
    if len(gateway.routes["global_rules"]) > 1:
        yield "global_rules", "has more than one rule: APISIX runs no plugin that is in two. Put all into one."


@routes_rule
def callers_words_stripped(gateway: Gateway) -> Found:
    """The global rule's chunk takes away each header that names a user (`set_header(ctx, NAME, nil)`), since on routes
    without a token APISIX passes the caller's own; and X-Forwarded-For, to which APISIX only appends, unless
    MAYFLY_GATEWAY_TRUSTED_PROXIES names who sends it."""
    removed = removed_headers(_chunk(gateway))
    theirs = (*IDENTITY_HEADERS, *(() if gateway.settings.gateway_trusted_proxies else ("X-Forwarded-For",)))
    missing = [name for name in theirs if name.lower() not in removed]
    if missing and _chunk(gateway):
        yield _at(gateway), f"does not take away {', '.join(missing)}: callers could name themselves who they like."


@routes_rule
def gateway_proves_itself(gateway: Gateway) -> Found:
    """The global rule's chunk sets X-Mayfly-Gateway to the secret that API servers know, and to nothing that a caller
    sent: so a gateway that has lost this rule reaches no API server."""
    chunk = _chunk(gateway)
    if not chunk:
        return
    value = header_set_to(chunk, DOOR)
    if value is None:
        yield (
            _at(gateway),
            f"does not set {DOOR}: API servers refuse what comes without it, and callers could guess it.",
        )
    elif not re.fullmatch(r"""(["'])[^"'\\]+\1""", value):
        yield _at(gateway), f"sets {DOOR} to what is no text of its own: a caller could choose it."
    elif not gateway.template and len(value) - 2 < SECRET_MIN_BYTES:
        yield _at(gateway), f"sets {DOOR} to less than {SECRET_MIN_BYTES} characters; API servers refuse such a secret."


@routes_rule
def paths_in_normal_form(gateway: Gateway) -> Found:
    """The global rule's chunk refuses paths that are not in normal form: APISIX chooses the route by the
    normalised path and passes on the raw one, so a public route would lead anywhere."""
    code = without_comments(_chunk(gateway))
    missing = [word for sign, word in PATH_TRICKS.items() if sign not in code.lower()]
    if code.strip() and missing:
        yield _at(gateway), f"does not refuse {', '.join(missing)} in raw paths: a public route would lead anywhere."


@routes_rule
def one_request_id(gateway: Gateway) -> Found:
    """Each request has exactly one X-Request-Id: the chunk overwrites the caller's, request-id comes after the chunk
    (`_meta.priority` below 10000), and the answer carries the same."""
    plugins, chunk = gateway.global_plugins, _chunk(gateway)
    if chunk and header_set_to(chunk, "X-Request-Id") is None:
        yield _at(gateway), "does not overwrite X-Request-Id: the caller's would pass as it is, twice if sent twice."
    priority = plugins["request-id"].get("_meta", {}).get("priority", 12_015)
    if priority >= PRE_FUNCTION_PRIORITY:
        where = f"{gateway.global_at}.request-id._meta.priority"
        yield where, f"must be less than {PRE_FUNCTION_PRIORITY}, that of {PRE_FUNCTION}, which looks at the id first."
    if plugins["response-rewrite"]["headers"]["set"].get("X-Request-Id") != "$apisix_request_id":
        where = f"{gateway.global_at}.response-rewrite.headers.set.X-Request-Id"
        yield where, "must be $apisix_request_id: else an answer's id is not the one in the logs."


@routes_rule
def browsers_stay_on_https(gateway: Gateway) -> Found:
    """Answers say Strict-Transport-Security of a year or more, and nosniff."""
    headers = gateway.global_plugins["response-rewrite"]["headers"]["set"]
    where = f"{gateway.global_at}.response-rewrite.headers.set"
    age = re.match(r"max-age=(\d+)", headers.get("Strict-Transport-Security", ""))
    if not age or int(age[1]) < HSTS_MIN_S:
        yield f"{where}.Strict-Transport-Security", f"must be max-age={HSTS_MIN_S} or more."
    if headers.get("X-Content-Type-Options") != "nosniff":
        yield f"{where}.X-Content-Type-Options", "must be nosniff: a result is no page, whatever is in it."


def _chunk(gateway: Gateway) -> str:
    """Return the chunks of the global rule's pre-function; empty if it has none that compiles."""
    functions = gateway.global_plugins[PRE_FUNCTION]["functions"]
    return "\n".join(chunk for chunk in functions if not fault_of(chunk))


def _at(gateway: Gateway) -> str:
    return f"{gateway.global_at}.{PRE_FUNCTION}.functions[0]"
