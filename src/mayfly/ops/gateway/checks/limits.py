"""Rules about the gateway's limits, which must never be narrower than what the API grants. Rows: A1, D3, F13."""

from __future__ import annotations

from typing import Any

from mayfly.api.bodies import JSON_MAX_BYTES
from mayfly.domain.limits import PARAMETER_MAX_BYTES
from mayfly.ops.gateway.checks.routes import is_public
from mayfly.ops.gateway.checks.rule import Found, Gateway, config_rule, routes_rule


@routes_rule
def bodies_taken(gateway: Gateway) -> Found:
    """A route takes bodies as large as the API does: with a token the largest parameter, else, if there are bodies at
    all, the largest JSON."""
    for route in gateway.routes["routes"]:
        least = _largest_taken(route)
        if _body(route) < least:
            where = f"routes[{route['id']}].plugins.client-control.max_body_size"
            yield (
                where,
                f"must be at least {least}: the API takes bodies so large.",
            )


@config_rule
def nginx_takes_the_largest_body(gateway: Gateway) -> Found:
    """nginx's own limit of bodies is no narrower than that of any route."""
    largest = max(map(_body, gateway.routes["routes"]))
    if gateway.nginx["http"]["client_max_body_size"] < largest:
        yield "nginx_config.http.client_max_body_size", f"must be at least {largest} bytes, the largest of the routes'."


@routes_rule
def every_route_limited(gateway: Gateway) -> Found:
    """Each route has a limit, and without a token it counts callers by their address: there is nothing else to count
    them by."""
    for route in gateway.routes["routes"]:
        where = f"routes[{route['id']}].plugins"
        counted = {name: conf["key"] for name, conf in route["plugins"].items() if name.startswith("limit-")}
        if not counted:
            yield where, "has no limit: add limit-req."
        for name, key in counted.items():
            if is_public(route) and key != "remote_addr":
                yield f"{where}.{name}.key", "must be remote_addr: callers of a public route have no other name."


@routes_rule
def wider_than_the_limit_of_users(gateway: Gateway) -> Found:
    """The gateway's cap on one user's open calls (limit-conn) is above what the API lets a user have in flight: the
    API's refusal is the exact one and says what is in use; and users read their records while calls are open."""
    limits = (gateway.settings.max_activations_per_user, gateway.settings.max_activations)
    most = min((limit for limit in limits if limit != "none"), default=0)
    for route in gateway.routes["routes"]:
        conn = route["plugins"].get("limit-conn")
        if conn is not None and "jwt-auth" in route["plugins"] and conn["conn"] <= most:
            where = f"routes[{route['id']}].plugins.limit-conn.conn"
            yield where, f"must be more than {most}, what the API lets a user have in flight: it refuses exactly."


def _body(route: dict[str, Any]) -> int:
    return int(route["plugins"]["client-control"]["max_body_size"])


def _largest_taken(route: dict[str, Any]) -> int:
    if "jwt-auth" in route["plugins"]:
        return PARAMETER_MAX_BYTES
    return JSON_MAX_BYTES if "POST" in route.get("methods", ()) else 1
