"""
Rules about what config.yaml tells nginx. What APISIX has no keys for stands in snippets of nginx's own language.
Rows: D3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mayfly.api.server import GRACE_S
from mayfly.ops.gateway.checks.lua import fault_of, masked
from mayfly.ops.gateway.checks.rule import Found, Gateway, config_rule

HTTP, SERVER, LOCATION = (
    "http_configuration_snippet",
    "http_server_configuration_snippet",
    "http_server_location_configuration_snippet",
)
BEFORE_A_ROUTE = ("400", "405", "414", "494", "497", "501", "505")
"""What nginx refuses before APISIX sees it. 494 and 497 are its own: too large a head, and clear text on a TLS port."""

_COMMENT = re.compile(r"(?:(?<=[\s;{}])|\A)#[^\n]*")
_LUA_BLOCK = re.compile(r"\w+_by_lua_block\s*\{")


@config_rule
def sent_once_by_nginx(gateway: Gateway) -> Found:
    """nginx passes a request on once (`proxy_next_upstream off`), the second belt beside `retries: 0`: a call that is
    sent again may run twice."""
    if _values(gateway.nginx[HTTP], "proxy_next_upstream") != ["off"]:
        yield f"nginx_config.{HTTP}", "`proxy_next_upstream off;` is missing: a call that is sent again may run twice."
    for name in (SERVER, LOCATION):
        if _values(gateway.nginx[name], "proxy_next_upstream"):
            yield f"nginx_config.{name}", "sets proxy_next_upstream again; only the http snippet may, and to off."


@config_rule
def api_servers_verified(gateway: Gateway) -> Found:
    """nginx verifies the certificate of API servers (`proxy_ssl_verify on`): APISIX 3.18's own `tls.verify` does
    nothing, and whoever answers for an API server reads tokens."""
    if _values(gateway.nginx[HTTP], "proxy_ssl_verify") != ["on"]:
        yield f"nginx_config.{HTTP}", "`proxy_ssl_verify on;` is missing: anybody could stand in for an API server."
    for name in (SERVER, LOCATION):
        if _values(gateway.nginx[name], "proxy_ssl_verify"):
            yield f"nginx_config.{name}", "sets proxy_ssl_verify again; only the http snippet may, and to on."


@config_rule
def flood_limit_first(gateway: Gateway) -> Found:
    """nginx limits each address before anything else (`limit_req`), and answers 429: a bad token costs APISIX as much
    as a good one, some 2 ms of a core."""
    zones = re.findall(r"zone=(\w+):", " ".join(_values(gateway.nginx[HTTP], "limit_req_zone")))
    used = re.findall(r"zone=(\w+)", " ".join(_values(gateway.nginx[LOCATION], "limit_req")))
    if not used:
        yield f"nginx_config.{LOCATION}", "`limit_req zone=...;` is missing: floods of bad tokens would take all cores."
    elif not set(used) <= set(zones):
        yield (
            f"nginx_config.{HTTP}",
            "has no `limit_req_zone` for the zone that limit_req names; nginx would not start.",
        )
    if _values(gateway.nginx[HTTP], "limit_req_status") != ["429"]:
        yield f"nginx_config.{HTTP}", "`limit_req_status 429;` is missing: 503 would say that the platform is down."


@config_rule
def early_errors_worded(gateway: Gateway) -> Found:
    """What nginx refuses before there is a route (400, 405, 414, 494, 497, 501, 505) is a problem document, too: no
    plugin reaches it."""
    pages = " ".join(_values(gateway.nginx[SERVER], "error_page")).split()
    missing = [code for code in BEFORE_A_ROUTE if code not in pages]
    if missing:
        yield f"nginx_config.{SERVER}", f"error_page lacks {', '.join(missing)}: callers would get nginx's HTML page."


@config_rule
def nothing_redirected_late(gateway: Gateway) -> Found:
    """In `location /` only 429 has an error_page: a redirect after APISIX has begun would lose its log phase, and with
    it the slots of limit-conn."""
    late = [word for word in " ".join(_values(gateway.nginx[LOCATION], "error_page")).split() if word.isdecimal()]
    if any(code != "429" for code in late):
        yield f"nginx_config.{LOCATION}", "error_page may name 429 only; others lose APISIX's log phase and leak slots."


@config_rule
def stopping_waits_for_calls(gateway: Gateway) -> Found:
    """A process of nginx that is told to stop finishes its calls first: `worker_shutdown_timeout` is longer than an API
    server's own grace."""
    if int(gateway.nginx["worker_shutdown_timeout"].rstrip("s")) <= GRACE_S:
        yield "nginx_config.worker_shutdown_timeout", f"must be more than {GRACE_S}s, an API server's own grace; 340s."


@config_rule
def snippets_compile(gateway: Gateway) -> Found:
    """The Lua in nginx's snippets compiles, and braces fit: else nginx does not start."""
    for name in (HTTP, SERVER, LOCATION):
        rest = gateway.nginx[name]
        for block in lua_blocks(rest):
            rest = rest.replace(block, "", 1)
            if fault := fault_of(block):
                yield f"nginx_config.{name}", f"its Lua does not compile: {fault}."
        rest = _COMMENT.sub("", rest)
        if rest.count("{") != rest.count("}"):
            yield f"nginx_config.{name}", "has a brace too many or too few; nginx would not start."


@config_rule
def no_queries_logged(gateway: Gateway) -> Found:
    """The access log has no query strings and no tokens: it names `$uri`, not `$request`."""
    logged = gateway.nginx["http"]["access_log_format"]
    found = re.findall(r"\$\{?(request_uri|request|args|query_string|http_authorization|http_cookie|arg_\w+)\b", logged)
    if found:
        yield "nginx_config.http.access_log_format", f"must not have ${found[0]}: tokens end up in logs; take $uri."


@config_rule
def addresses_believed_from_proxies_only(gateway: Gateway) -> Found:
    """Who a caller is, by address, is believed from MAYFLY_GATEWAY_TRUSTED_PROXIES and nobody else; else each caller
    chooses the address that is counted."""
    trusted = {"unix:", *gateway.settings.gateway_trusted_proxies}
    if not set(gateway.nginx["http"]["real_ip_from"]) <= trusted:
        yield "nginx_config.http.real_ip_from", _TRUSTED
    if not set(gateway.config["apisix"].get("trusted_addresses", ())) <= trusted:
        yield "apisix.trusted_addresses", _TRUSTED


_TRUSTED = "names an address that MAYFLY_GATEWAY_TRUSTED_PROXIES does not; whoever is there chooses who is counted."


def lua_blocks(snippet: str) -> Iterator[str]:
    """Find the Lua in a snippet of nginx's configuration: what stands between braces that fit, in texts or not."""
    for start in _LUA_BLOCK.finditer(snippet):
        code = snippet[start.end() :]
        yield code[: _closing(code)]


def _closing(code: str) -> int:
    depth = 1
    for place, sign in enumerate(masked(code)):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth == 0:
            return place
    return len(code)


def _values(snippet: str, directive: str) -> list[str]:
    """Return what a directive is set to, each time it is, wherever on a line; comments do not count."""
    return re.findall(rf"(?<![\w$]){directive}\s+([^;{{}}]+);", _COMMENT.sub("", snippet))
