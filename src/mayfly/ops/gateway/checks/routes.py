"""Rules about who may call what: which routes ask for a token, and which need not. Rows: A1, D3, F3."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mayfly.api.auth import PUBLIC
from mayfly.ops.gateway.checks.lua import fault_of, without_comments
from mayfly.ops.gateway.checks.rule import Found, Gateway, routes_rule

EVERY_METHOD = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
A_CALL = "/v1/functions/name/activations"


@routes_rule
def token_unless_public(gateway: Gateway) -> Found:
    """Each route asks for a token (jwt-auth), but for the methods and paths that the API itself answers without one,
    named one by one: a pattern opens all below it, and what is added to the API later."""
    for route in gateway.routes["routes"]:
        if "jwt-auth" not in route["plugins"] and not is_public(route):
            yield f"routes[{route['id']}]", _opened(route)


@routes_rule
def paths_given_once(gateway: Gateway) -> Found:
    """A route has `uri` or `uris`, one of them."""
    for route in gateway.routes["routes"]:
        if ("uri" in route) == ("uris" in route):
            yield f"routes[{route['id']}]", "needs either uri or uris."


@routes_rule
def whole_api_reached(gateway: Gateway) -> Found:
    """Each public path of the API has a route, and so has everything under /v1/."""
    for method, path in sorted(PUBLIC):
        if not any(_matches(route, method, path) for route in gateway.routes["routes"]):
            yield "routes", f"none is for {method} {path}, which the API has; callers would get 404."
    if not any(_matches(route, "POST", A_CALL) for route in gateway.routes["routes"]):
        yield "routes", "none is for /v1/*, which has functions and calls; callers would get 404."


@routes_rule
def users_told_from_other_tokens(gateway: Gateway) -> Found:
    """A route that asks for a token says which consumer's (consumer-restriction), and that consumer is there."""
    known = {one["username"] for one in gateway.routes["consumers"] if "username" in one}
    for route in gateway.routes["routes"]:
        if "jwt-auth" not in route["plugins"]:
            continue
        where = f"routes[{route['id']}].plugins.consumer-restriction"
        restriction = route["plugins"].get("consumer-restriction")
        if restriction is None:
            yield where, "is missing: any consumer's token would do; add whitelist with the consumer of users' keys."
        elif not set(restriction["whitelist"]) <= known:
            yield f"{where}.whitelist", f"names no consumer; there is {', '.join(sorted(known))}."


@routes_rule
def sub_looked_at(gateway: Gateway) -> Found:
    """A route that asks for a token takes the user from it, in the phase `access`, after jwt-auth: limits count by that
    variable, and by address where it is empty."""
    for route in gateway.routes["routes"]:
        if "jwt-auth" not in route["plugins"]:
            continue
        where = f"routes[{route['id']}].plugins"
        chunks = route["plugins"].get("serverless-pre-function", {}).get("functions", ())
        if any(map(fault_of, chunks)):
            continue
        code = " ".join(map(without_comments, chunks))
        for name, conf in route["plugins"].items():
            if name.startswith("limit-") and f"ctx.var.{conf['key']} =" not in code:
                yield f"{where}.{name}.key", "is no variable that the route's chunk sets (ctx.var.NAME = ...)."


def is_public(route: dict[str, Any]) -> bool:
    """Whether all that a route passes on is answered without a token by the API itself."""
    return not _patterns(route) and all(_answers_anybody(*operation) for operation in _operations(route))


def _opened(route: dict[str, Any]) -> str:
    if _patterns(route):
        return "has no jwt-auth, and a pattern opens all below it; add jwt-auth or name the public paths."
    secret = next(operation for operation in _operations(route) if not _answers_anybody(*operation))
    return f"has no jwt-auth, and {' '.join(secret)} needs a token; add jwt-auth, or take that out."


def _patterns(route: dict[str, Any]) -> bool:
    return any("*" in path or ":" in path for path in _paths(route))


def _answers_anybody(method: str, path: str) -> bool:
    """Outside of /v1/ the API has nothing but what is public; within, a method is a secret of its own."""
    if path.startswith("/v1/"):
        return (method, path) in PUBLIC
    return any(path == public for _, public in PUBLIC)


def _paths(route: dict[str, Any]) -> list[str]:
    return [*route.get("uris", ()), *([route["uri"]] if "uri" in route else ())]


def _operations(route: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for path in _paths(route):
        for method in route.get("methods", EVERY_METHOD):
            yield method, path


def _matches(route: dict[str, Any], method: str, path: str) -> bool:
    return method in route.get("methods", EVERY_METHOD) and any(
        path == mine or (mine.endswith("*") and path.startswith(mine[:-1])) for mine in _paths(route)
    )
