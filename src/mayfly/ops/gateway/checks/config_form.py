"""The strict form of config.yaml: what of APISIX 3.18's static configuration the gateway uses. Rows: D3."""

from __future__ import annotations

from mayfly.ops.gateway.checks.shape import (
    ADDRESS,
    PORT,
    SECONDS,
    SIZE,
    YES_OR_NO,
    Shape,
    fixed,
    integer,
    listed,
    mapping,
    needed,
    number,
    one_of,
    text,
)

NO_ADMIN = "with another role APISIX opens its admin API, which changes every route."
ZONES = {"type": "object", "additionalProperties": SIZE}

DEPLOYMENT = mapping(
    {
        "role": fixed("data_plane", NO_ADMIN),
        "role_data_plane": mapping({"config_provider": fixed("yaml", "the routes are in a file beside this one.")}),
    },
    refused={"admin": NO_ADMIN, "etcd": "the gateway keeps no state and needs no etcd."},
)

TLS_LISTENER = mapping(
    {
        "enable": fixed(True, "callers are served by HTTPS only."),
        "listen": listed(
            mapping({"port": PORT}, {"ip": ADDRESS, "enable_http3": fixed(False, "only TCP is published.")})
        ),
        "ssl_protocols": needed(one_of("TLSv1.2 TLSv1.3", "TLSv1.3"), "older versions are broken."),
        "ssl_trusted_certificate": needed(
            text(r"/[A-Za-z0-9._/-]+", form="an absolute path"),
            "name the internal certificate authority's file, so that API servers can be told from impostors.",
        ),
    },
    {
        "fallback_sni": ADDRESS,
        "ssl_ciphers": text(),
        "ssl_session_tickets": fixed(False, "a ticket's key would outlive forward secrecy."),
    },
)

APISIX = mapping(
    {
        "node_listen": listed(mapping({"ip": ADDRESS, "port": PORT})),
        "enable_http2": fixed(False, "our callers need none, and most of nginx's advisories are about it."),
        "enable_server_tokens": fixed(False, "callers need not know the gateway's version."),
        "dns_resolver_valid": needed(integer(1, 60), "Docker's DNS says that its answers hold for 600 s; 5 will do."),
        "ssl": needed(TLS_LISTENER, "callers are served by HTTPS only; add ssl.listen with port 9443."),
        "control": needed(
            mapping({"ip": ADDRESS, "port": PORT}), "APISIX's default may change; put it on 127.0.0.1:9090."
        ),
        "status": needed(mapping({"ip": ADDRESS, "port": PORT}), "health checks of the gateway ask it on port 7085."),
    },
    {
        "enable_admin": fixed(False, "the admin API changes every route."),
        "enable_control": YES_OR_NO,
        "enable_ipv6": YES_OR_NO,
        "enable_reuseport": YES_OR_NO,
        "show_upstream_status_in_response_header": YES_OR_NO,
        "dns_resolver": listed(ADDRESS),
        "resolver_timeout": integer(1, 30),
        "enable_resolv_search_opt": YES_OR_NO,
        "trusted_addresses": listed(text(r"[0-9a-fA-F.:/]+", form="an address or a CIDR")),
        "proxy_mode": fixed("http", "the gateway passes on HTTP only."),
        "normalize_uri_like_servlet": fixed(False, "routes and API servers must see the same path."),
        "delete_uri_tail_slash": fixed(False, "routes and API servers must see the same path."),
        "match_uri_encoded_slash": fixed(False, "routes and API servers must see the same path."),
    },
    refused={
        "admin_key": NO_ADMIN,
        "stream_proxy": "it would publish ports that are not ours.",
        "proxy_protocol": "it would publish ports that are not ours.",
    },
)

HTTP = mapping(
    {
        "underscores_in_headers": fixed("off", "X_Consumer_Username would pass beside the header that is taken away."),
        "client_max_body_size": needed(integer(1), "0, the default, is no limit."),
        "client_header_timeout": needed(SECONDS, "a caller must not hold a connection for long; 15s will do."),
        "client_body_timeout": needed(SECONDS, "a caller must not hold a connection for long; 60s will do."),
        "send_timeout": needed(SECONDS, "10s, the default, is too short for slow readers; 60s will do."),
        "keepalive_timeout": SECONDS,
        "access_log": text(),
        "access_log_format": text(longest=4096),
        "access_log_format_escape": fixed("json", "a header's quotes would break the lines of the log."),
        "real_ip_from": needed(
            listed(text(r"unix:|[0-9a-fA-F.:/]+", form="unix:, an address or a CIDR")),
            'APISIX\'s default believes X-Real-IP from 127.0.0.1; write ["unix:"], or the load balancers.',
        ),
    },
    {
        "enable_access_log": YES_OR_NO,
        "access_log_buffer": integer(),
        "real_ip_header": one_of("X-Real-IP", "X-Forwarded-For", "proxy_protocol"),
        "real_ip_recursive": one_of("on", "off"),
        "proxy_ssl_server_name": fixed(True, "without it, nobody compares the name in an API server's certificate."),
        "lua_shared_dict": ZONES,
        "custom_lua_shared_dict": ZONES,
        "charset": text(),
        "variables_hash_max_size": integer(),
    },
)

NGINX = mapping(
    {
        "error_log": text(),
        "error_log_level": needed(
            one_of("warn", "error", "crit"), "more would log requests; less would hide that APISIX dropped an object."
        ),
        "worker_processes": needed(integer(1, 64), "`auto` counts the machine's cores, not the container's."),
        "worker_shutdown_timeout": needed(SECONDS, "the default, 240s, cuts calls that take longer."),
        "http": HTTP,
        "http_configuration_snippet": needed(text(longest=16_384), "it has `proxy_next_upstream off;`."),
        "http_server_configuration_snippet": needed(
            text(longest=16_384), "it words what nginx refuses before a route."
        ),
        "http_server_location_configuration_snippet": needed(text(longest=16_384), "it has the flood limit."),
    },
    {
        "enable_cpu_affinity": YES_OR_NO,
        "worker_rlimit_nofile": integer(1024),
        "event": mapping({"worker_connections": integer(1024)}),
        "max_pending_timers": integer(),
        "max_running_timers": integer(),
        "envs": listed(text(r"[A-Z][A-Z0-9_]*", form="the name of a variable")),
        "meta": mapping({"lua_shared_dict": ZONES}),
    },
)

PROMETHEUS = mapping(
    {"export_addr": needed(mapping({"ip": ADDRESS, "port": PORT}), "metrics are read on port 9091.")},
    {
        "export_uri": text(r"/[A-Za-z0-9/_-]+", form="a path"),
        "enable_export_server": fixed(True, "else the metrics would be a public route."),
        "metric_prefix": text(),
        "metrics": {"type": "object"},
        "default_buckets": listed(number()),
        "refresh_interval": integer(1),
    },
)

DISCOVERY = mapping(
    {
        "dns": mapping(
            {},
            {
                "servers": listed(text()),
                "resolv_conf": text(),
                "order": listed(one_of("last", "SRV", "A", "AAAA", "CNAME")),
            },
        )
    }
)

CONFIG_FORM: Shape = mapping(
    {
        "deployment": DEPLOYMENT,
        "apisix": APISIX,
        "nginx_config": NGINX,
        "stream_plugins": fixed([], "without it APISIX loads five plugins for TCP that nobody uses."),
        "plugins": needed(listed(text()), "without it APISIX loads some eighty plugins that nobody uses."),
        "plugin_attr": mapping({"prometheus": PROMETHEUS}),
    },
    {"discovery": DISCOVERY},
    refused={"wasm": "it loads programs.", "ext-plugin": "it runs programs.", "etcd": "the gateway needs no etcd."},
)
