"""
The strict forms of the plugins that the gateway uses. APISIX accepts keys of a plugin that it does not know: with
`claims_to_verfy: [exp]` a token that never ends was let in. Rows: D3.
"""

from __future__ import annotations

from collections.abc import Mapping

from mayfly.ops.gateway.checks.shape import (
    CHUNKS,
    IDENTITY,
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
from mayfly.services.tokens import CLOCK_SKEW_S

REFUSED_PLUGINS = {
    "proxy-mirror": "it sends each call a second time.",
    "traffic-split": "it can send calls past the API servers.",
    "api-breaker": "it counts functions that fail, and then refuses everybody.",
    "cors": "the API is not for other sites' pages.",
    "proxy-rewrite": "it runs after jwt-auth and re-encodes paths; headers are removed in the global rule.",
    "proxy-cache": "an answer belongs to one caller.",
    "forward-auth": "the API server is asked anyway.",
    "grpc-transcode": "the API is plain HTTP.",
    "batch-requests": "it calls the gateway from inside, past its own limits.",
    "public-api": "it publishes what APISIX keeps to itself.",
    "limit-count": "a rate is limited by limit-req, which has no end of a window to wait for.",
    "inspect": "it runs Lua from a file.",
}

TOO_MANY = fixed(429, "503, the default, would tell callers that the platform is down.")
COUNTED_BY = {
    "key": needed(text(), "APISIX's default counts all callers as one or by address; name what is counted by."),
    "rejected_code": TOO_MANY,
}
LOCAL = {
    "key_type": fixed("var", "the key is the name of one variable."),
    "policy": fixed("local", "there is no Redis."),
    "rejected_msg": text(),
    "allow_degradation": fixed(False, "a limit that cannot count must refuse."),
}

UNUSED_NAME = text(r"_[a-z_]{3,}", form="a name that nobody uses, such as _nojwt")
LOOKED_AT_ANYWAY = (
    "APISIX always looks there, too; a token in a URL ends in logs. Name one that nobody uses, such as _nojwt."
)

JWT_AUTH = mapping(
    {
        "key_claim_name": fixed("kid", "the key is found by the payload's claim `kid`, which our tokens have."),
        "claims_to_verify": fixed(
            ["exp"], "APISIX checks what is named here and nothing else; our tokens have no nbf."
        ),
        "store_in_ctx": fixed(True, "limits by user read the token's sub from there."),
        "query": needed(UNUSED_NAME, LOOKED_AT_ANYWAY),
        "cookie": needed(UNUSED_NAME, LOOKED_AT_ANYWAY),
    },
    {
        "header": fixed("authorization", "API servers look for the token there."),
        "hide_credentials": fixed(False, "the API server checks the token again."),
        "realm": text(r"[a-z-]{1,64}", form="a short name"),
    },
    refused={"anonymous_consumer": "whoever has no token would be let in."},
)

JWT_CONSUMER = mapping(
    {
        "key": IDENTITY,
        "algorithm": fixed("ES256", "our tokens are signed so; and APISIX's default, HS256, makes the key a secret."),
        "lifetime_grace_period": fixed(CLOCK_SKEW_S, "API servers forgive clocks as much."),
        "public_key": needed(text(longest=8192), "with it APISIX checks tokens; `mayfly secrets create` writes it."),
    },
    {},
    refused={
        "secret": "ES256 has no secret in common.",
        "private_key": "who has it makes tokens. Take it as known to others: remove it, and rotate the key.",
        "base64_secret": "ES256 has no secret in common.",
        "exp": "the gateway issues no tokens.",
    },
)

LIMIT_REQ = mapping(
    {
        "rate": number(0.001),
        "burst": number(0),
        "nodelay": fixed(True, "requests within the burst would be held back; by default they are."),
        **COUNTED_BY,
    },
    LOCAL,
)

LIMIT_CONN = mapping(
    {
        "conn": integer(1),
        "burst": fixed(0, "calls beyond `conn` would be held back for as long as calls take."),
        "default_conn_delay": number(0.001),
        **COUNTED_BY,
    },
    {"only_use_default_delay": YES_OR_NO, **LOCAL},
)

REQUEST_ID = mapping(
    {},
    {
        "header_name": fixed("X-Request-Id", "API servers read and answer this one."),
        "include_in_response": YES_OR_NO,
        "algorithm": one_of("uuid", "uuidv7"),
        "_meta": mapping({"priority": integer()}),
    },
)

HEADER_VALUES: Shape = {"type": "object", "additionalProperties": text()}
RESPONSE_REWRITE = mapping(
    {
        "headers": mapping(
            {"set": needed(HEADER_VALUES, "it has Strict-Transport-Security and X-Request-Id.")},
            {"remove": listed(text()), "add": listed(text())},
        )
    },
    refused={
        "body": "the answer is the function's.",
        "body_base64": "the answer is the function's.",
        "status_code": "the status is the API server's.",
        "filters": "they hold back the whole answer, and change it.",
    },
)

A_RULES = "it is in the global rule; on a route as well, it would run twice or stand in for that."
A_ROUTES = "it is a route's; in the global rule it would be for public routes, too."


def _chunks(phase: str, reason: str) -> Shape:
    return mapping({"phase": fixed(phase, reason), "functions": CHUNKS})


ROUTE_PLUGINS: Mapping[str, Shape] = {
    "consumer-restriction": mapping(
        {"whitelist": needed(listed(IDENTITY), "name the consumer whose tokens are good here.")},
        {
            "type": fixed("consumer_name", "the gateway has no other names."),
            "rejected_code": fixed(403, "its token is genuine, and of another kind."),
        },
    ),
    "jwt-auth": JWT_AUTH,
    "limit-conn": LIMIT_CONN,
    "limit-req": LIMIT_REQ,
    "serverless-pre-function": _chunks("access", "earlier, the token has not been checked."),
}
ROUTE_NEEDS: Mapping[str, Shape] = {
    "client-control": needed(mapping({"max_body_size": integer(1)}), "add max_body_size, else bodies have no limit.")
}

RULE_NEEDS: Mapping[str, Shape] = {
    "error-page": needed(mapping({}), "502 and 504 would be nginx's HTML."),
    "exit-transformer": needed(mapping({"functions": CHUNKS}), "what plugins refuse would be no problem document."),
    "prometheus": needed(
        mapping({}, {"prefer_name": fixed(True, "a route's name stays when its place in the file changes.")}),
        "there would be no metrics.",
    ),
    "request-id": needed(REQUEST_ID, "errors could not be found in logs."),
    "response-rewrite": needed(RESPONSE_REWRITE, "answers would lack Strict-Transport-Security."),
    "serverless-post-function": needed(
        _chunks("body_filter", "earlier, there is no body."), "errors of nginx would have no request id."
    ),
    "serverless-pre-function": needed(
        _chunks("rewrite", "later, a route's plugins have seen what the caller forged."),
        "callers could name themselves who they like, and API servers would refuse what the gateway sends.",
    ),
}

PLUGINS = frozenset({*ROUTE_PLUGINS, *ROUTE_NEEDS, *RULE_NEEDS})
"""All that the gateway uses."""


def _elsewhere(here: Mapping[str, Shape], reason: str) -> dict[str, str]:
    return REFUSED_PLUGINS | dict.fromkeys(sorted(PLUGINS - set(here)), reason)


ON_ROUTES = mapping(
    ROUTE_NEEDS, ROUTE_PLUGINS, kind="plugin", refused=_elsewhere({**ROUTE_NEEDS, **ROUTE_PLUGINS}, A_RULES)
)
ON_RULES = mapping(RULE_NEEDS, kind="plugin", refused=_elsewhere(RULE_NEEDS, A_ROUTES))
ON_CREDENTIALS = mapping({"jwt-auth": JWT_CONSUMER}, kind="plugin")

_PAGE = mapping(
    {
        "body": text(),
        "content_type": fixed("application/problem+json", "every error is a problem document."),
    }
)
PAGE_CODES = (413, 500, 502, 503, 504)
ERROR_PAGES: Mapping[str, Shape] = {
    "enable": fixed(True, "it is off by default."),
    **{f"error_{code}": needed(_PAGE, f"else callers get nginx's own page for {code}.") for code in PAGE_CODES},
}
