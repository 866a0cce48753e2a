"""Rules about the gateway's limits, which must never be narrower than what the API grants. Rows: A1, D3, F13."""

from __future__ import annotations

from mayfly.domain.limits import PARAMETER_MAX_BYTES
from mayfly.ops.gateway.checks.routes import is_public
from mayfly.ops.gateway.checks.rule import Found, Gateway, config_rule, routes_rule


@routes_rule
def bodies_limited(gateway: Gateway) -> Found:
    """Each route limits the body (client-control); with a token, no narrower than the largest parameter."""
    for route in gateway.routes["routes"]:
        where = f"routes[{route['id']}].plugins.client-control"
        control = route["plugins"].get("client-control")
        if control is None:
            yield where, f"is missing: add max_body_size, {PARAMETER_MAX_BYTES} where calls pass."
        elif "jwt-auth" in route["plugins"] and control["max_body_size"] < PARAMETER_MAX_BYTES:
            yield (
                f"{where}.max_body_size",
                f"must be at least {PARAMETER_MAX_BYTES}: the API takes parameters so large.",
            )


@config_rule
def nginx_takes_the_largest_body(gateway: Gateway) -> Found:
    """nginx's own limit of bodies is no narrower than that of any route."""
    largest = max(
        (route["plugins"].get("client-control", {}).get("max_body_size", 0) for route in gateway.routes["routes"]),
    )
    if gateway.nginx["http"]["client_max_body_size"] < largest:
        yield "nginx_config.http.client_max_body_size", f"must be at least {largest} bytes, the largest of the routes'."


@routes_rule
def public_routes_limited(gateway: Gateway) -> Found:
    """A route without a token counts callers by their address: there is nothing else to count them by."""
    for route in gateway.routes["routes"]:
        if not is_public(route):
            continue
        counted = {name: conf["key"] for name, conf in route["plugins"].items() if name.startswith("limit-")}
        where = f"routes[{route['id']}].plugins"
        if not counted:
            yield where, "has no limit: add limit-req with key remote_addr."
        for name, key in counted.items():
            if key != "remote_addr":
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
