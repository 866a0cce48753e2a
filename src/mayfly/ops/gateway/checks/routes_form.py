"""The strict form of apisix.yaml: routes, upstreams, consumers, certificates, the global rule. Rows: D3."""

from __future__ import annotations

from mayfly.ops.gateway.checks.plugin_forms import ERROR_PAGES, ON_CREDENTIALS, ON_ROUTES, ON_RULES
from mayfly.ops.gateway.checks.shape import (
    ADDRESS,
    IDENTITY,
    PORT,
    Shape,
    fixed,
    integer,
    listed,
    mapping,
    needed,
    number,
    objects,
    one_of,
    text,
)

ID = needed(IDENTITY, "without an id APISIX counts by place in the file, and counters move when it changes.")
NAME = text(longest=256)
LABELS = {"name": NAME, "desc": text(longest=256)}

TIMEOUT = mapping({"connect": number(1, 10), "send": number(10, 600), "read": number(20, 3600)})

PATH = text(r"/[A-Za-z0-9._~*/:-]*", form="a path")
METHODS = listed(one_of("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))

ROUTE = mapping(
    {
        "id": ID,
        "upstream_id": needed(IDENTITY, "name the upstream with the API servers."),
        "plugins": needed(ON_ROUTES, "a route without plugins has no limits."),
    },
    {**LABELS, "uri": PATH, "uris": listed(PATH), "methods": METHODS, "timeout": TIMEOUT, "priority": integer()},
    refused={
        "upstream": "upstreams have ids and stand under upstreams, where they are checked.",
        "script": "code of routes is in serverless-pre-function.",
        "filter_func": "code of routes is in serverless-pre-function.",
        "service_id": "what a route does stands with it.",
        "plugin_config_id": "what a route does stands with it.",
        "enable_websocket": "a connection that is upgraded has no limits.",
        "status": "a route that is not to be there is left out.",
    },
)

STATUSES = listed(integer(200, 599))
HEALTHY = mapping({"interval": integer(1, 60), "successes": integer(1, 10)}, {"http_statuses": STATUSES})
UNHEALTHY = mapping(
    {"interval": integer(1, 60), "http_failures": integer(1, 10), "tcp_failures": integer(1, 10)},
    {"timeouts": integer(1, 10), "http_statuses": STATUSES},
)
ACTIVE = mapping(
    {
        "type": fixed("https", "API servers speak nothing else."),
        "http_path": fixed("/readyz", "it turns 503 before an API server stops; /healthz does not."),
        "timeout": number(0.1, 30),
        "healthy": HEALTHY,
        "unhealthy": UNHEALTHY,
    },
    {
        "concurrency": integer(1),
        "host": ADDRESS,
        "port": PORT,
        "http_method": fixed("GET", "/readyz knows it."),
        "https_verify_certificate": fixed(True, "an impostor would look well."),
        "req_headers": listed(text()),
    },
)
CHECKS = mapping(
    {"active": needed(ACTIVE, "a stopped API server would get calls; probe /readyz.")},
    refused={"passive": "it counts answers of functions that fail, and would take API servers out for them."},
)

NODES = listed(mapping({"host": ADDRESS, "port": PORT, "weight": integer(1)}))
UPSTREAM = mapping(
    {
        "id": ID,
        "type": fixed(
            "least_conn", "calls take from 1 ms to minutes; in turn, one API server would get the long ones."
        ),
        "scheme": fixed("https", "tokens and results pass between gateway and API server."),
        "pass_host": fixed("rewrite", "the name that is passed is the one that certificates are compared with."),
        "upstream_host": needed(ADDRESS, "certificates of API servers are compared with it; `api` is in all of ours."),
        "retries": fixed(0, "a call that is sent again may run twice."),
        "timeout": needed(TIMEOUT, "the default, 60 s, cuts calls that take longer."),
        "keepalive_pool": needed(
            mapping({"size": integer(1), "idle_timeout": number(1), "requests": integer(1)}),
            "connections must end here before the API server ends them.",
        ),
        "checks": needed(CHECKS, "a stopped API server would get calls; probe /readyz."),
    },
    {
        **LABELS,
        "nodes": NODES,
        "service_name": text(r"[A-Za-z0-9.-]+:[0-9]{1,5}", form="host:port"),
        "discovery_type": fixed("dns", "the gateway knows no other."),
    },
    refused={"retry_timeout": "nothing is sent twice.", "tls": "see the snippet: APISIX 3.18 verifies nothing by it."},
)

CONSUMER = mapping(
    {
        "id": text(
            r"[A-Za-z0-9_.-]{1,64}(/credentials/[A-Za-z0-9_.-]{1,64})?",
            form="NAME, or NAME/credentials/KEY for its keys",
        )
    },
    {**LABELS, "username": text(r"[A-Za-z0-9_-]{1,100}", form="letters, digits, _ and -"), "plugins": ON_CREDENTIALS},
)

SSL = mapping(
    {
        "id": ID,
        "cert": needed(text(longest=65_536), "the gateway's certificate, with its chain."),
        "key": text(longest=65_536),
    },
    {
        "sni": text(longest=253),
        "snis": listed(text(longest=253)),
        "ssl_protocols": listed(one_of("TLSv1.2", "TLSv1.3")),
    },
)

METADATA = mapping({"id": fixed("error-page", "the gateway uses no other."), **ERROR_PAGES})

ROUTES_FORM: Shape = mapping(
    {
        "routes": objects(ROUTE),
        "upstreams": needed(objects(UPSTREAM), "it has the API servers."),
        "consumers": needed(objects(CONSUMER), "without one, no token is good."),
        "ssls": needed(objects(SSL), "without a certificate no handshake succeeds."),
        "global_rules": needed(
            objects(mapping({"id": ID, "plugins": ON_RULES})),
            "without it callers name themselves who they like, and API servers refuse what the gateway sends.",
        ),
        "plugin_metadata": needed(
            objects(METADATA), "it has the pages for errors that nginx makes, under the id error-page."
        ),
    },
    refused={
        "services": "what a route does stands with it.",
        "plugin_configs": "what a route does stands with it.",
        "consumer_groups": "consumers have nothing but keys.",
        "stream_routes": "the gateway passes on HTTP only.",
        "secrets": "secrets are in the file, which nobody but the gateway reads.",
        "protos": "the API is plain HTTP.",
    },
)
