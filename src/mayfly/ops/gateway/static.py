"""
`config.yaml`: what APISIX reads at its start only. Listeners, time-outs, nginx's own settings, the list of plugins.

The snippets are nginx's language: they do what no plugin of APISIX 3.18 can. Why each is there stands in it.
Rows: A1, D3.
"""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from typing import Any

from mayfly.ops.gateway.bounds import (
    CLEAR_PORT,
    CONTROL_PORT,
    HEAD_LINE_BYTES,
    HTTPS_PORT,
    METRICS_PATH,
    METRICS_PORT,
    STATUS_PORT,
    Bounds,
    bounds_of,
)
from mayfly.ops.gateway.chunks import chunk
from mayfly.ops.gateway.refusals import CLOSE, EARLY, Refusal, pages
from mayfly.settings import GatewaySettings

PLUGINS = (
    "client-control",
    "request-id",
    "serverless-pre-function",
    "serverless-post-function",
    "jwt-auth",
    "consumer-restriction",
    "limit-conn",
    "limit-req",
    "response-rewrite",
    "exit-transformer",
    "error-page",
    "prometheus",
)
"""All that is loaded; each other plugin would be more to attack."""

ACCESS_LOG = (
    '{"ts":"$time_iso8601","request_id":"$sent_http_x_request_id","client":"$remote_addr","method":"$request_method",'
    '"path":"$uri","status":"$status","bytes_in":"$request_length","bytes_out":"$body_bytes_sent",'
    '"seconds":"$request_time","api":"$upstream_addr","api_status":"$upstream_status",'
    '"api_seconds":"$upstream_response_time"}'
)
"""Never the query or a header of the caller's: a token may be in them."""

BUCKETS_MS = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 120_000, 300_000)
ZONE = {"prometheus-metrics": "20m"}  # of series that have no user's or function's name


def static_config(settings: GatewaySettings) -> dict[str, Any]:
    """Return config.yaml as a tree."""
    bounds = bounds_of(settings)
    config: dict[str, Any] = {
        "deployment": {"role": "data_plane", "role_data_plane": {"config_provider": "yaml"}},
        "apisix": _apisix(settings),
        "nginx_config": _nginx(settings, bounds),
        "plugins": list(PLUGINS),
        "stream_plugins": [],
        "plugin_attr": {
            "prometheus": {
                "export_addr": {"ip": settings.gateway_private_address, "port": METRICS_PORT},
                "export_uri": METRICS_PATH,
                "default_buckets": list(BUCKETS_MS),
            }
        },
    }
    if settings.gateway_api_discovery == "dns":
        config["discovery"] = {"dns": {"resolv_conf": "/etc/resolv.conf", "order": ["last", "A"]}}
    return config


def _apisix(settings: GatewaySettings) -> dict[str, Any]:
    everywhere = "0.0.0.0"  # noqa: S104 - of a container
    return {
        "node_listen": [{"ip": everywhere if settings.gateway_clear_text else "127.0.0.1", "port": CLEAR_PORT}],
        "enable_http2": False,
        "enable_server_tokens": False,
        "enable_ipv6": False,
        "dns_resolver_valid": 5,
        "ssl": {
            "enable": True,
            "listen": [{"ip": everywhere, "port": HTTPS_PORT}],
            "ssl_protocols": "TLSv1.2 TLSv1.3",
            "ssl_trusted_certificate": str(settings.gateway_ca_file),
            "fallback_sni": server_names(settings)[0] if server_names(settings) else "localhost",
        },
        "control": {"ip": "127.0.0.1", "port": CONTROL_PORT},
        "status": {"ip": settings.gateway_private_address, "port": STATUS_PORT},
    }


def server_names(settings: GatewaySettings) -> list[str]:
    """Return the names a client can say in its handshake: no address ever is."""
    return [name for name in settings.gateway_hosts if not _is_address(name)]


def _is_address(name: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return False


def _nginx(settings: GatewaySettings, bounds: Bounds) -> dict[str, Any]:
    http: dict[str, Any] = {
        "underscores_in_headers": "off",
        "client_max_body_size": bounds.backstop_bytes,
        "client_header_timeout": f"{bounds.head_timeout_s}s",
        "client_body_timeout": f"{bounds.send_s}s",
        "send_timeout": f"{bounds.send_s}s",
        "keepalive_timeout": f"{bounds.client_keep_alive_s}s",
        "access_log": "/dev/stdout",
        "access_log_format_escape": "json",
        "access_log_format": ACCESS_LOG,
        **_callers_address(settings),
        "lua_shared_dict": dict(ZONE),
    }
    return {
        "error_log": "/dev/stderr",
        "error_log_level": "warn",
        "worker_processes": settings.gateway_workers,
        "worker_shutdown_timeout": f"{bounds.shutdown_s}s",
        "http": http,
        "meta": {"lua_shared_dict": dict(ZONE)},
        "http_configuration_snippet": _http_snippet(bounds),
        "http_server_configuration_snippet": _server_snippet(),
        "http_server_location_configuration_snippet": _location_snippet(bounds),
    }


def _callers_address(settings: GatewaySettings) -> dict[str, Any]:
    """Whom nginx believes about the caller's address. By default it would believe everybody on loopback."""
    if not settings.gateway_trusted_proxies:
        return {"real_ip_from": ["unix:"]}
    return {
        "real_ip_from": list(settings.gateway_trusted_proxies),
        "real_ip_header": "X-Forwarded-For",
        "real_ip_recursive": "on",
    }


def _http_snippet(bounds: Bounds) -> str:
    return f"""\
# At most once: nothing is sent a second time. The other half is `retries: 0`.
proxy_next_upstream off;
# API servers show a certificate of the internal authority, for the name in `upstream_host`. APISIX 3.18 itself
# would take any.
proxy_ssl_verify on;
proxy_ssl_verify_depth 2;
proxy_ssl_protocols TLSv1.2 TLSv1.3;
# No body that is let through needs a file.
client_body_buffer_size {bounds.body_bytes};
large_client_header_buffers {bounds.head_buffers} {HEAD_LINE_BYTES};
# A flood is stopped before anything is done for it: refusing a bad token costs as much as accepting a good one.
limit_req_zone $binary_remote_addr zone=mayfly_client:10m rate={bounds.client_rate}r/s;
limit_req_status 429;
limit_req_log_level warn;
"""


def _server_snippet() -> str:
    code = chunk("early", pages=pages(EARLY), close=CLOSE, retry_after=retry_after(EARLY))
    indented = "".join(f"    {line}" for line in code.splitlines(keepends=True))
    return f"""\
# What nginx refuses by itself before a route is chosen.
error_page 400 497 501 505 =400 /__mayfly_early;
error_page 414 494 =431 /__mayfly_early;
error_page 405 /__mayfly_early;
location = /__mayfly_early {{
  internal;
  content_by_lua_block {{
{indented}  }}
}}
"""


def retry_after(refusals: tuple[Refusal, ...]) -> dict[int, str]:
    """Return the header Retry-After by status."""
    return {refusal.status: str(refusal.retry_after_s) for refusal in refusals if refusal.retry_after_s is not None}


def _location_snippet(bounds: Bounds) -> str:
    return f"""\
# Only this 429 may be redirected: it is made before APISIX runs. A later redirect would lose the phase in which
# limit-conn gives its places back. So nothing else is inherited from the server.
limit_req zone=mayfly_client burst={bounds.client_burst} nodelay;
error_page 429 /__mayfly_early;
"""
