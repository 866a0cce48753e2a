"""Rules about the upstream, that is, how the gateway speaks to API servers. Rows: A1, D3."""

from __future__ import annotations

from mayfly.api.server import GRACE_S, KEEP_ALIVE_S
from mayfly.ops.gateway.checks.rule import Found, Gateway, config_rule, routes_rule

KEEP_ALIVE_MARGIN_S = 10


@routes_rule
def longest_call_passes(gateway: Gateway) -> Found:
    """The gateway waits longer for an answer than an API server takes for the longest call and its own grace: else it
    answers 504 while the call goes on."""
    times = [(f"upstreams[{one['id']}]", one["timeout"]) for one in gateway.routes["upstreams"]]
    times += [
        (f"routes[{route['id']}]", route["timeout"])
        for route in gateway.routes["routes"]
        if "jwt-auth" in route["plugins"] and "timeout" in route
    ]
    for where, timeout in times:
        if timeout["read"] <= GRACE_S:
            yield (
                f"{where}.timeout.read",
                f"must be more than {GRACE_S} s, the longest call with its grace; 330 will do.",
            )


@routes_rule
def pool_ends_first(gateway: Gateway) -> Found:
    """Idle connections to an API server end at the gateway before the API server ends them: one that ends while a
    call is sent into it is a 502."""
    most = KEEP_ALIVE_S - KEEP_ALIVE_MARGIN_S
    for one in gateway.routes["upstreams"]:
        if one["keepalive_pool"]["idle_timeout"] > most:
            where = f"upstreams[{one['id']}].keepalive_pool.idle_timeout"
            yield where, f"must be at most {most} s: API servers keep idle connections for {KEEP_ALIVE_S} s."


@routes_rule
def draining_seen(gateway: Gateway) -> Found:
    """An API server whose /readyz says 503 counts as gone: so it says while it drains, before it stops."""
    for one in gateway.routes["upstreams"]:
        if 503 not in one["checks"]["active"]["unhealthy"].get("http_statuses", (503,)):
            where = f"upstreams[{one['id']}].checks.active.unhealthy.http_statuses"
            yield where, "lacks 503, which an API server says that is about to stop; it would go on to get calls."


@routes_rule
def servers_named_one_way(gateway: Gateway) -> Found:
    """An upstream names its API servers by `nodes`, or has them looked up by `service_name` and `discovery_type`."""
    for one in gateway.routes["upstreams"]:
        looked_up = {"service_name", "discovery_type"} & set(one)
        if ("nodes" in one) == bool(looked_up) or len(looked_up) == 1:
            yield f"upstreams[{one['id']}]", "needs either nodes, or service_name and discovery_type."


@config_rule
def discovery_only_where_used(gateway: Gateway) -> Found:
    """`discovery` is there if, and only if, an upstream has its API servers looked up."""
    used = any("discovery_type" in one for one in gateway.routes["upstreams"])
    if used and "discovery" not in gateway.config:
        yield "discovery", "is missing, and an upstream has its API servers looked up; add discovery.dns."
    elif "discovery" in gateway.config and not used:
        yield "discovery", "is there, and no upstream has its API servers looked up; remove it."


@routes_rule
def upstreams_exist(gateway: Gateway) -> Found:
    """Each route names an upstream that is there: else it answers 404 or 502."""
    known = {one["id"] for one in gateway.routes["upstreams"]}
    for route in gateway.routes["routes"]:
        if route["upstream_id"] not in known:
            yield f"routes[{route['id']}].upstream_id", f"names no upstream; there is {', '.join(sorted(known))}."
