"""
`apisix.yaml`: what APISIX reads again whenever it changes. API servers, token keys, the global rule, routes, TLS.

There is exactly one global rule, since two that name the same plugin lose it. Every object has an id of its own, since
APISIX counts and keeps health by it. Rows: A1, D3, F1.
"""

from __future__ import annotations

from typing import Any

from mayfly.api.auth import PUBLIC
from mayfly.api.envelope import REQUEST_ID
from mayfly.domain.ids import ID
from mayfly.ops.gateway.bounds import CHECK_EVERY_S, CHECK_FAILURES, CONNECT_S, SHORT_BODY_BYTES, Bounds, bounds_of
from mayfly.ops.gateway.chunks import chunk
from mayfly.ops.gateway.material import Material
from mayfly.ops.gateway.refusals import CLOSE, INSIDE, OF_NGINX, PARAMETER_TOO_LARGE, pages, static_body
from mayfly.ops.gateway.static import retry_after, server_names
from mayfly.settings import GatewaySettings

CONSUMER = "mayfly-user"
OF_THE_CALLER = (
    "X-Consumer-Username",
    "X-Credential-Identifier",
    "X-Consumer-Custom-ID",
    "X-Consumer-Groups",
    "X-Userinfo",
    "X-Access-Token",
    "X-Mayfly-User",
    "X-Mayfly-Gateway",
    "X-Forwarded-For",
)
"""Headers that only a gateway may send. X-Forwarded-For is begun anew, with the address that nginx found out."""

TOO_MANY = 429
ANSWER_HEADERS = {
    "X-Request-Id": "$apisix_request_id",
    "Strict-Transport-Security": "max-age=31536000",
    "X-Content-Type-Options": "nosniff",
}


def route_config(settings: GatewaySettings, material: Material) -> dict[str, Any]:
    """Return apisix.yaml as a tree."""
    bounds = bounds_of(settings)
    return {
        "upstreams": [_upstream(settings, bounds)],
        "consumers": _consumers(material, bounds),
        "global_rules": [_global_rule(material)],
        "plugin_metadata": [_error_pages()],
        "routes": _routes(bounds),
        "ssls": [_tls(settings, material)],
    }


def api_name(settings: GatewaySettings) -> str:
    """Return the name that API servers' certificates must have."""
    if settings.gateway_api_name or settings.gateway_api_discovery == "names":
        return settings.gateway_api_name or "api"
    return settings.gateway_api[0].rpartition(":")[0]


def _upstream(settings: GatewaySettings, bounds: Bounds) -> dict[str, Any]:
    return {
        "id": "api",
        "name": "api",
        "type": "least_conn",
        "scheme": "https",
        "pass_host": "rewrite",  # this name is also the one that the certificate is checked for
        "upstream_host": api_name(settings),
        "retries": 0,
        "timeout": {"connect": CONNECT_S, "send": bounds.send_s, "read": bounds.read_s},
        "keepalive_pool": {"size": 128, "idle_timeout": bounds.pool_idle_s, "requests": 1000},
        **_nodes(settings),
        "checks": {"active": _check()},
    }


def _nodes(settings: GatewaySettings) -> dict[str, Any]:
    if settings.gateway_api_discovery == "dns":
        return {"discovery_type": "dns", "service_name": settings.gateway_api[0]}
    parts = [node.rpartition(":") for node in settings.gateway_api]
    return {"nodes": [{"host": host, "port": int(port), "weight": 1} for host, _, port in parts]}


def _check() -> dict[str, Any]:
    """Asked, never inferred from answers to calls: a function that fails often must not take API servers out."""
    return {
        "type": "https",
        "https_verify_certificate": True,
        "http_path": "/readyz",
        "timeout": CHECK_EVERY_S,
        "healthy": {"interval": CHECK_EVERY_S, "successes": 1, "http_statuses": [200]},
        "unhealthy": {
            "interval": CHECK_EVERY_S,
            "http_failures": CHECK_FAILURES,
            "tcp_failures": CHECK_FAILURES,
            "timeouts": CHECK_FAILURES,
            "http_statuses": [403, 404, 429, 500, 501, 502, 503, 504, 505],
        },
    }


def _consumers(material: Material, bounds: Bounds) -> list[dict[str, Any]]:
    """One consumer stands for all users; its credentials are the platform's keys, all good at once."""
    credentials = [
        {
            "id": f"{CONSUMER}/credentials/{kid}",
            "name": kid,
            "plugins": {
                "jwt-auth": {
                    "key": kid,
                    "algorithm": "ES256",
                    "public_key": public_key,
                    "lifetime_grace_period": bounds.clock_skew_s,
                }
            },
        }
        for kid, public_key in material.token_keys.items()
    ]
    return [{"id": CONSUMER, "username": CONSUMER}, *credentials]


def _global_rule(material: Material) -> dict[str, Any]:
    large = PARAMETER_TOO_LARGE.page
    of_nginx = tuple(refusal for refusal in INSIDE if refusal.status in OF_NGINX)
    refuse = chunk(
        "refuse", pages=pages(INSIDE), parameter_too_large=large, close=CLOSE, retry_after=retry_after(INSIDE)
    )
    page = chunk("page", pages=pages(of_nginx), parameter_too_large=large, close=CLOSE)
    guard = chunk("guard", secret=material.secret, request_id=whole(REQUEST_ID.pattern), of_the_caller=OF_THE_CALLER)
    return {
        "id": "base",
        "plugins": {
            "request-id": {"algorithm": "uuidv7", "_meta": {"priority": 9000}},  # after the guard, which has 10000
            "serverless-pre-function": {"phase": "rewrite", "functions": [guard]},
            "exit-transformer": {"functions": [refuse]},
            "error-page": {},
            "serverless-post-function": {"phase": "body_filter", "functions": [page]},
            "response-rewrite": {"headers": {"set": dict(ANSWER_HEADERS), "remove": ["X-APISIX-Upstream-Status"]}},
            "prometheus": {"prefer_name": True},
        },
    }


def whole(pattern: str) -> str:
    """Return a pattern of ours, which all have but the simplest syntax, for the whole of a text, as PCRE."""
    return rf"\A(?:{pattern})\z"


def _error_pages() -> dict[str, Any]:
    problem = "application/problem+json"
    bodies = {f"error_{status}": {"content_type": problem, "body": static_body(status)} for status in OF_NGINX}
    return {"id": "error-page", "enable": True, **bodies}


def _routes(bounds: Bounds) -> list[dict[str, Any]]:
    short = {"connect": CONNECT_S, "send": bounds.send_s, "read": bounds.short_read_s}
    return [
        {
            "id": "public-write",
            "name": "public-write",
            "uris": _public("POST"),
            "methods": ["POST"],
            "upstream_id": "api",
            "timeout": dict(short),
            "plugins": {
                "client-control": {"max_body_size": bounds.public_body_bytes},
                "limit-req": _rate(bounds.login_rate, bounds.login_burst, "remote_addr"),
            },
        },
        {
            "id": "public-read",
            "name": "public-read",
            "uris": _public("GET"),
            "upstream_id": "api",
            "timeout": dict(short),
            "plugins": {
                "client-control": {"max_body_size": SHORT_BODY_BYTES},
                "limit-req": _rate(bounds.client_rate, bounds.client_burst, "remote_addr"),
            },
        },
        {"id": "api", "name": "api", "uri": "/v1/*", "upstream_id": "api", "plugins": _with_token(bounds)},
    ]


def _public(method: str) -> list[str]:
    return sorted(path for public, path in PUBLIC if public == method)


def _with_token(bounds: Bounds) -> dict[str, Any]:
    return {
        "client-control": {"max_body_size": bounds.body_bytes},
        "jwt-auth": {
            "key_claim_name": "kid",
            "claims_to_verify": ["exp"],
            "store_in_ctx": True,
            "realm": "mayfly",
            "query": "_nojwt",  # cannot be turned off; the API reads the header only
            "cookie": "_nojwt",
        },
        "consumer-restriction": {"whitelist": [CONSUMER]},
        "serverless-pre-function": {"phase": "access", "functions": [chunk("subject", subject=whole(ID.pattern))]},
        "limit-conn": {
            "conn": bounds.user_open,
            "burst": 0,
            "default_conn_delay": 0.1,
            "key": "mayfly_sub",
            "rejected_code": TOO_MANY,
        },
        "limit-req": _rate(bounds.user_rate, bounds.user_rate, "mayfly_sub"),
    }


def _rate(rate: int, burst: int, key: str) -> dict[str, Any]:
    return {"rate": rate, "burst": burst, "nodelay": True, "key": key, "rejected_code": TOO_MANY}


def _tls(settings: GatewaySettings, material: Material) -> dict[str, Any]:
    """`sni: "*"` is any name; in a list, `snis`, it would be none."""
    names = server_names(settings)
    return {
        "id": "main",
        **({"snis": names} if names else {"sni": "*"}),
        "cert": material.certificate,
        "key": material.key,
    }
