"""
Mistakes in the gateway's files, each one small edit of good ones, with the place and the words it must be found by.

Paths are those that problems have. `config.yaml` and `apisix.yaml` share no name at their top, so a path says which.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mayfly.ops.certificates import new_token_key, private_pem, public_pem
from mayfly.settings import GatewaySettings

Edit = Callable[["Files"], None]

DELETED = object()


class Files:
    """Both files, as trees that can be edited."""

    def __init__(self, config: str, routes: str) -> None:
        """Read good ones."""
        self._texts = (config, routes.removesuffix("#END\n"))
        self.trees = _tree(self._texts[0]), _tree(self._texts[1])

    @property
    def texts(self) -> tuple[str, str]:
        """Both files, written again."""
        config, routes = (
            text if tree == _tree(text) else yaml.safe_dump(tree, sort_keys=False, width=100_000)
            for text, tree in zip(self._texts, self.trees, strict=True)
        )
        return config, routes + "#END\n"

    def get(self, path: str) -> Any:
        """Return what is at a path."""
        owner, key = self._owner(path)
        return owner[key]

    def put(self, path: str, value: object) -> None:
        """Write *value* at a path, or delete what is there."""
        owner, key = self._owner(path)
        if value is DELETED:
            del owner[key]
        else:
            owner[key] = value

    def _owner(self, path: str) -> tuple[Any, Any]:
        steps = re.findall(r"\[([^\]]+)\]|([^.\[\]]+)", path)
        keys = [(in_list or name, bool(in_list)) for in_list, name in steps]
        top = keys[0][0]
        owner: Any = self.trees[0 if top in CONFIG_TOP else 1]
        for name, in_list in keys[:-1]:
            owner = owner[_index(owner, name) if in_list else name]
        last, in_list = keys[-1]
        return owner, _index(owner, last) if in_list else last


@cache
def _read(text: str) -> Any:
    return yaml.safe_load(text)


def _tree(text: str) -> Any:
    return copy.deepcopy(_read(text))


CONFIG_TOP = {"deployment", "apisix", "nginx_config", "plugins", "stream_plugins", "plugin_attr", "discovery"}


def _index(items: list[Any], name: str) -> int:
    return int(name) if name.isdecimal() else next(i for i, item in enumerate(items) if item["id"] == name)


def put(path: str, value: object) -> Edit:
    """Write a value."""
    return lambda files: files.put(path, value)


def drop(path: str) -> Edit:
    """Delete a key, or an element."""
    return put(path, DELETED)


def add(path: str, item: object) -> Edit:
    """Append to a list."""
    return lambda files: files.get(path).append(item)


def sub(path: str, old: str, new: str) -> Edit:
    """Replace all of a text within another."""

    def edit(files: Files) -> None:
        text = files.get(path)
        assert old in text, f"{path} has no {old!r} to replace"
        files.put(path, text.replace(old, new))

    return edit


def copied(path: str, **changes: object) -> Edit:
    """Append a copy of a list's element to the list, with changes."""

    def edit(files: Files) -> None:
        owner = files.get(path.rpartition("[")[0])
        owner.append({**copy.deepcopy(files.get(path)), **changes})

    return edit


def again(path: str, to: str) -> Edit:
    """Write a value to another path as well."""
    return lambda files: files.put(to, copy.deepcopy(files.get(path)))


def moved(path: str, to: str, *, in_list: bool = False) -> Edit:
    """Move a value to another path, within a list if so."""

    def edit(files: Files) -> None:
        files.put(to, [files.get(path)] if in_list else files.get(path))
        files.put(path, DELETED)

    return edit


@dataclass(frozen=True)
class Mistake:
    """One edit, and what is found by it: where, and with which words."""

    name: str
    edit: Edit
    where: str
    words: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def made_for(self) -> GatewaySettings:
        """The settings that the edited files are checked with."""
        return GatewaySettings(**self.settings)


def wrong(name: str, path: str, value: object, *words: str, settings: dict[str, Any] | None = None) -> Mistake:
    """Plant another value, which is found where it is."""
    return Mistake(name, put(path, value), path, words, settings or {})


def lost(name: str, path: str, *words: str) -> Mistake:
    """Plant a gap, which is found where something should be."""
    return Mistake(name, drop(path), path, words)


def other(name: str, path: str, old: str, new: str, *words: str) -> Mistake:
    """Plant another piece of text, which is found where the text is."""
    return Mistake(name, sub(path, old, new), path, words)


API = "routes[api].plugins"
WRITE, READ = "routes[public-write]", "routes[public-read]"
RULE = "global_rules[base].plugins"
GUARD = f"{RULE}.serverless-pre-function.functions[0]"
REFUSE = f"{RULE}.exit-transformer.functions[0]"
PAGE = f"{RULE}.serverless-post-function.functions[0]"
SUBJECT = f"{API}.serverless-pre-function.functions[0]"
PROBE = "upstreams[api].checks.active"
CONSUMER = "consumers[mayfly-user/credentials/k1]"
KEY = f"{CONSUMER}.plugins.jwt-auth"
HTTP = "nginx_config.http_configuration_snippet"
SERVER = "nginx_config.http_server_configuration_snippet"
LOCATION = "nginx_config.http_server_location_configuration_snippet"
PAGE_502 = "plugin_metadata[error-page].error_502.body"


def certificate_of_days(first: int, last: int) -> Edit:
    """Put a self-signed certificate in place that holds from one day to another, counted from today."""

    def edit(files: Files) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name, now = x509.Name([]), datetime.now(UTC)
        builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now + timedelta(first)).not_valid_after(now + timedelta(last))
        certificate = builder.sign(key, hashes.SHA256())
        files.put("ssls[main].cert", certificate.public_bytes(serialization.Encoding.PEM).decode())
        files.put("ssls[main].key", private_pem(key).decode())

    return edit


def key_of_another_curve(files: Files) -> None:
    """Take a public key that ES256 cannot use."""
    files.put(f"{KEY}.public_key", public_pem(private_pem(ec.generate_private_key(ec.SECP384R1()))).decode())


def looked_up_by_nobody(files: Files) -> None:
    """Have the API servers looked up, and say not how."""
    files.put("upstreams[api].nodes", DELETED)
    files.put("upstreams[api].discovery_type", "dns")
    files.put("upstreams[api].service_name", "api:8443")


def without_last_braces(files: Files) -> None:
    """Leave a block of Lua open."""
    files.put(SERVER, files.get(SERVER).rstrip().removesuffix("}").rstrip().removesuffix("}"))


def no_limits(files: Files) -> None:
    """Let users do as much as they like."""
    files.put(f"{API}.limit-req", DELETED)
    files.put(f"{API}.limit-conn", DELETED)


def key_of_two_consumers(files: Files) -> None:
    """Let two consumers have keys of the same name."""
    files.get("consumers").append({"id": "guests", "username": "guests"})
    copied(CONSUMER, id="guests/credentials/k1")(files)


def moved_key(files: Files) -> None:
    """Give a consumer itself the key of a credential."""
    again(f"{CONSUMER}.plugins", "consumers[mayfly-user].plugins")(files)
    files.put("consumers[mayfly-user].plugins.jwt-auth.key", "k3")


FORM = [
    Mistake(
        "plugin-misspelt", moved(f"{API}.jwt-auth", f"{API}.jwt-aut"), f"{API}.jwt-aut", ("did you mean jwt-auth",)
    ),
    wrong("plugin-that-repeats", f"{API}.proxy-mirror", {}, "a second time"),
    Mistake(
        "plugin-key-misspelt",
        moved(f"{API}.jwt-auth.realm", f"{API}.jwt-auth.relm"),
        f"{API}.jwt-auth.relm",
        ("is no key", "did you mean realm?"),
    ),
    wrong("route-key-unknown", "routes[api].hots", ["a"], "is no key", "known here"),
    wrong("route-with-code", "routes[api].filter_func", "x", "serverless-pre"),
    wrong("retries", "upstreams[api].retries", 1, "must be 0", "may run twice"),
    wrong("upstream-in-clear-text", "upstreams[api].scheme", "http", "be https"),
    wrong("balanced-in-turn", "upstreams[api].type", "roundrobin", "least_conn"),
    wrong("host-passed-on", "upstreams[api].pass_host", "pass", "be rewrite"),
    lost("no-health-checks", "upstreams[api].checks", "is missing", "/readyz"),
    wrong("probe-that-stays-well", "upstreams[api].checks.active.http_path", "/healthz", "must be /readyz"),
    wrong("passive-checks", "upstreams[api].checks.passive", {}, "must not be there", "functions that fail"),
    wrong("hs256", f"{KEY}.algorithm", "HS256", "must be ES256"),
    wrong("es384", f"{KEY}.algorithm", "ES384", "must be ES256"),
    lost("algorithm-by-default", f"{KEY}.algorithm", "is missing", "HS256"),
    wrong("secret-of-hs256", f"{KEY}.secret", "s3cr3t", "must not be there"),
    wrong("private-key-field", f"{KEY}.private_key", "s3cr3t", "rotate the key"),
    wrong("key-by-another-claim", f"{API}.jwt-auth.key_claim_name", "iss", "kid"),
    wrong("expiry-not-checked", f"{API}.jwt-auth.claims_to_verify", [], "be [exp]"),
    lost("token-in-the-url", f"{API}.jwt-auth.query", "is missing", "_nojwt", "logs"),
    wrong("token-in-a-cookie", f"{API}.jwt-auth.cookie", "jwt", "must be a name", "_nojwt"),
    wrong("anonymous-callers", f"{API}.jwt-auth.anonymous_consumer", "x", "let in"),
    lost("limit-says-503", f"{API}.limit-conn.rejected_code", "is missing", "503"),
    wrong("calls-held-back", f"{API}.limit-conn.burst", 10, "must be 0", "held back"),
    wrong("wrong-type", f"{API}.limit-conn.conn", "many", "must be a whole number."),
    wrong("too-small", f"{API}.client-control.max_body_size", 0, "at least 1"),
    wrong("too-large", "upstreams[api].nodes[0].port", 84430, "at most 65,535"),
    wrong("empty-list", "upstreams[api].nodes", [], "at least 1 element"),
    Mistake(
        "method-unknown",
        put(f"{WRITE}.methods", ["PSOT"]),
        f"{WRITE}.methods[0]",
        (
            "must be one of",
            "POST",
        ),
    ),
    Mistake("node-twice", copied("upstreams[api].nodes[0]"), "upstreams[api].nodes", ("same element twice",)),
    wrong("empty-text", "upstreams[api].upstream_host", "", "must be an address"),
    lost("global-rules-gone", "global_rules", "is missing", "name themselves"),
    wrong("a-service", "services", [], "must not be there"),
    Mistake(
        "no-id",
        drop("routes[api].id"),
        "routes[2].id",
        (
            "is missing",
            "counters",
        ),
    ),
    lost("error-page-gone", "plugin_metadata[error-page].error_502", "is missing"),
    wrong("error-pages-off", "plugin_metadata[error-page].enable", False, "be true"),
    wrong("admin-api", "deployment.role", "traditional", "must be data_plane", "admin API"),
    wrong("admin-key", "deployment.admin", {"admin_key": "s3cr3t"}, "admin API"),
    Mistake(
        "config-key-misspelt", moved("apisix.enable_ipv6", "apisix.enable_ip6"), "apisix.enable_ip6", ("enable_ipv6?",)
    ),
    wrong("http2", "apisix.enable_http2", True, "must be false"),
    wrong("http3", "apisix.ssl.listen[0].enable_http3", True, "be false"),
    wrong("tls-off", "apisix.ssl.enable", False, "must be true", "HTTPS only"),
    wrong("tls-1.1", "apisix.ssl.ssl_protocols", "TLSv1.1 TLSv1.2", "TLSv1.3"),
    lost("no-authority", "apisix.ssl.ssl_trusted_certificate", "impostors"),
    lost("underscores", "nginx_config.http.underscores_in_headers", "is missing", "X_Consumer_Username"),
    wrong("bodies-without-limit", "nginx_config.http.client_max_body_size", 0, "at least 1", "no limit"),
    lost("tcp-plugins", "stream_plugins", "is missing"),
    lost("all-plugins", "plugins", "is missing", "eighty"),
    wrong("tcp-proxy", "apisix.stream_proxy", {"tcp": [9100]}, "ports that are not ours"),
    wrong("log-level", "nginx_config.error_log_level", "debug", "one of warn"),
    lost("exit-transformer-gone", f"{RULE}.exit-transformer", "is missing", "problem"),
    lost("pre-function-gone", f"{RULE}.serverless-pre-function", "is missing"),
    lost("headers-gone", f"{RULE}.response-rewrite", "is missing"),
    wrong("stripped-too-late", f"{RULE}.serverless-pre-function.phase", "access", "must be rewrite"),
    wrong("sub-too-early", f"{API}.serverless-pre-function.phase", "rewrite", "must be access"),
    lost("no-body-limit", f"{READ}.plugins.client-control", "is missing"),
    wrong("route-with-the-rules", f"{API}.request-id", {}, "must not be there", "in the global rule"),
    wrong("rule-with-the-routes", f"{RULE}.client-control", {"max_body_size": 1}, "must not be there", "a route's"),
    lost("dns-held-for-long", "apisix.dns_resolver_valid", "is missing", "600 s"),
    lost("held-back", f"{API}.limit-req.nodelay", "is missing", "held back"),
    wrong("clocks-not-forgiven", f"{KEY}.lifetime_grace_period", 0, "must be 60"),
    wrong("connects-for-ever", "upstreams[api].timeout.connect", 60, "at most 10"),
    wrong("plugin-switched-off", f"{API}.jwt-auth._meta", {"disable": True}, "is no key"),
]
"""Found by the form."""

BETWEEN_VALUES = [
    wrong("logins-refused", f"{WRITE}.plugins.client-control.max_body_size", 16384, "at least 524288"),
    wrong("buckets-too-small", "plugin_attr.prometheus.default_buckets", [5, 60_000], "ascend to 300000 ms"),
    wrong("key-of-another-name", f"{KEY}.key", "k9", "last part of the id"),
    other("guard-syntax", GUARD, "local core =", "local core = =", "does not compile"),
    wrong("braces", LOCATION, "limit_req zone=mayfly_client; if ($a) {", "has a brace too many"),
    Mistake("lua-without-end", without_last_braces, SERVER, ("has a brace too many or too few",)),
    other("verified-not-on-a-line", LOCATION, "nodelay;", "nodelay; proxy_ssl_verify off;", "proxy_ssl_verify again"),
    Mistake("no-limit-by-user", no_limits, API, ("has no limit",)),
    Mistake("certificate-ended", certificate_of_days(-30, -1), "ssls[main].cert", ("has ended on", "secrets create")),
    Mistake("certificate-of-tomorrow", certificate_of_days(1, 30), "ssls[main].cert", ("begins on", "clock")),
    Mistake("key-of-another-curve", key_of_another_curve, f"{KEY}.public_key", ("P-256", "ES256")),
    Mistake("no-discovery", looked_up_by_nobody, "discovery", ("is missing", "discovery.dns")),
    wrong("chunk-too-large", SUBJECT, "return function() end" + " " * 33_000, "does not compile: has more than 32,768"),
    wrong("chunk-of-bytes", SUBJECT, "\x1bLJ\x02", "does not compile: is not Lua source"),
    wrong("chunk-that-jumps", SUBJECT, "goto s3cr3t; local a; ::s3cr3t:: return a", "line 1: is not Lua."),
    wrong("draining-unseen", f"{PROBE}.unhealthy.http_statuses", [500], "lacks 503", "about to stop"),
    Mistake("no-token-asked", drop(f"{API}.jwt-auth"), "routes[api]", ("has no jwt-auth", "pattern")),
    Mistake("public-pattern", put(f"{READ}.uris[0]", "/docs*"), READ, ("pattern opens all below",)),
    Mistake("public-method", add(f"{WRITE}.methods", "GET"), WRITE, ("GET /v1/tokens needs a token",)),
    Mistake("public-path", add(f"{READ}.uris", "/v1/status"), READ, ("/v1/status needs a token",)),
    Mistake("uri-and-uris", put("routes[api].uris", ["/v1/*"]), "routes[api]", ("either uri or uris",)),
    Mistake("path-without-route", drop(f"{READ}.uris[0]"), "routes", ("none is for GET /docs",)),
    Mistake("api-without-route", put("routes[api].uri", "/v2/*"), "routes", ("none is for /v1/*",)),
    lost("any-consumer", f"{API}.consumer-restriction", "is missing"),
    wrong("consumer-unknown", f"{API}.consumer-restriction.whitelist", ["users"], "there is mayfly-user"),
    wrong("counted-by-nothing", f"{API}.limit-conn.key", "mayfly_user", "no variable"),
    wrong("upstream-unknown", "routes[api].upstream_id", "apis", "there is api"),
    wrong("answer-too-late", "upstreams[api].timeout.read", 60, "more than 320 s"),
    Mistake(
        "route-impatient",
        put("routes[api].timeout", {"connect": 3, "send": 60, "read": 300}),
        "routes[api].timeout.read",
        ("more than 320 s",),
    ),
    wrong("pool-too-long", "upstreams[api].keepalive_pool.idle_timeout", 75, "at most 65 s", "75 s"),
    Mistake("no-api-servers", drop("upstreams[api].nodes"), "upstreams[api]", ("either nodes",)),
    wrong("discovery-unused", "discovery", {"dns": {}}, "no upstream has"),
    Mistake("id-twice", copied("routes[api]"), "routes[api].id", ("is there twice", "lose the first")),
    Mistake(
        "key-id-twice",
        key_of_two_consumers,
        "consumers[guests/credentials/k1].plugins.jwt-auth.key",
        ("is there twice", "the last"),
    ),
    Mistake(
        "credential-of-nobody",
        put(f"{CONSUMER}.id", "user/credentials/k1"),
        "consumers[user/credentials/k1]",
        (
            "belongs to no consumer",
            "mayfly-user",
        ),
    ),
    Mistake("credential-without-key", drop(f"{CONSUMER}.plugins"), CONSUMER, ("needs plugins with jwt-auth",)),
    Mistake(
        "consumer-with-another-name",
        put("consumers[mayfly-user].id", "user"),
        "consumers[user].username",
        ("equal the id",),
    ),
    Mistake(
        "key-on-the-consumer",
        moved_key,
        "consumers[mayfly-user].plugins",
        ("in a credential",),
    ),
    Mistake(
        "private-key-as-public",
        lambda files: files.put(f"{KEY}.public_key", new_token_key().decode()),
        f"{KEY}.public_key",
        (
            "has a private key",
            "rotate",
        ),
    ),
    wrong("public-key-is-none", f"{KEY}.public_key", "-----BEGIN s3cr3t", "no public key in PEM"),
    Mistake(
        "two-global-rules",
        copied("global_rules[base]", id="more"),
        "global_rules",
        (
            "more than one rule",
            "into one",
        ),
    ),
    other("identity-not-stripped", GUARD, '"X-Consumer-Username", ', "", "does not take away X-Consumer-Username"),
    other(
        "stripping-commented-out",
        GUARD,
        "core.request.set_header(ctx, name, nil)",
        "-- core.request.set_header(ctx, name, nil)",
        "X-Userinfo",
        "X-Access-Token",
        "X-Credential-Identifier",
    ),
    other("forwarded-for-kept", GUARD, ', "X-Forwarded-For"', "", "X-Forwarded-For"),
    other(
        "door-not-shown",
        GUARD,
        'core.request.set_header(ctx, "X-Mayfly-Gateway", SECRET)',
        "",
        "does not set X-Mayfly-Gateway",
    ),
    other(
        "door-of-the-caller",
        GUARD,
        '"X-Mayfly-Gateway", SECRET)',
        '"X-Mayfly-Gateway", core.request.header(ctx, "X-Key"))',
        "a caller could choose it",
    ),
    other("door-too-short", GUARD, "S" * 43, "S" * 8, "less than 32 characters"),
    other("paths-not-looked-at", GUARD, "|%2e|%2f", "", "%2e, %2f", "public route"),
    other("request-id-kept", GUARD, 'core.request.set_header(ctx, "X-Request-Id", id)', "", "overwrite X-Request-Id"),
    Mistake(
        "request-id-first", drop(f"{RULE}.request-id._meta"), f"{RULE}.request-id._meta.priority", ("less than 10000",)
    ),
    lost("request-id-of-the-api", f"{RULE}.response-rewrite.headers.set.X-Request-Id", "$apisix_request_id"),
    lost("no-hsts", f"{RULE}.response-rewrite.headers.set.Strict-Transport-Security", "max-age=31536000"),
    wrong(
        "hsts-for-a-minute", f"{RULE}.response-rewrite.headers.set.Strict-Transport-Security", "max-age=60", "or more"
    ),
    lost("sniffing", f"{RULE}.response-rewrite.headers.set.X-Content-Type-Options", "nosniff"),
    other(
        "lua-syntax",
        SUBJECT,
        "ctx.var.mayfly_sub = subject",
        "ctx.var.mayfly_sub = subject s3cr3t",
        "does not compile",
        "line 11: ",
        "'=' expected",
    ),
    other(
        "lua-of-a-rule",
        REFUSE,
        "local code, body, headers = ...",
        "local code, body, headers = ... 's3cr3t'",
        "does not compile",
    ),
    other(
        "chunk-that-runs",
        SUBJECT,
        "return function(conf, ctx)",
        "os.exit()\nreturn function(conf, ctx)",
        "nothing but",
    ),
    wrong(
        "function-for-a-body",
        REFUSE,
        'local A = "\\"type\\": 1, \\"code\\": 1, \\"fault\\": 1, \\"ran\\": \\"no\\""\nreturn function(...) end',
        "must be the function's body",
    ),
    other(
        "refusals-without-ran",
        REFUSE,
        'bad-gateway\\", \\"fault\\": \\"platform\\", \\"ran\\": \\"unknown\\"',
        'bad-gateway\\", \\"fault\\": \\"platform\\"',
        "page for 502 lacks ran",
    ),
    other(
        "flood-as-concurrency-limit",
        REFUSE,
        "gateway-rate-limit",
        "concurrency-limit",
        "page for 429",
        "name the flood limit",
    ),
    other(
        "refusal-may-have-run",
        REFUSE,
        'not-found\\", \\"fault\\": \\"caller\\", \\"ran\\": \\"no\\"',
        'not-found\\", \\"fault\\": \\"caller\\", \\"ran\\": \\"yes\\"',
        "page for 404 must say ran: no",
    ),
    wrong(
        "no-refusals", REFUSE, "local code, body, headers = ...\nreturn code, body, headers", "has no problem document"
    ),
    wrong("page-is-html", PAGE_502, "<html>s3cr3t</html>", "is no JSON object"),
    other("page-of-another-status", PAGE_502, "502", "500", "must say status 502"),
    other("page-without-code", PAGE_502, '"code"', '"kode"', "lacks code"),
    other("page-says-not-run", PAGE_502, '"ran": "unknown"', '"ran": "no"', "ran: unknown"),
    Mistake(
        "sni-in-a-list",
        moved("ssls[main].sni", "ssls[main].snis", in_list=True),
        "ssls[main].snis",
        ('write sni: "*"',),
    ),
    Mistake("no-sni", drop("ssls[main].sni"), "ssls[main]", ("neither sni nor snis",)),
    Mistake("sni-and-snis", put("ssls[main].snis", ["localhost"]), "ssls[main]", ("both sni and snis",)),
    lost("no-name-no-tls", "apisix.ssl.fallback_sni", "is missing", "https://ADDRESS"),
    Mistake(
        "no-certificate-for-no-name", put("ssls[main].sni", "*.example"), "apisix.ssl.fallback_sni", ("no certificate",)
    ),
    wrong("certificate-is-none", "ssls[main].cert", "s3cr3t", "no certificate in PEM"),
    wrong("key-is-none", "ssls[main].key", "s3cr3t", "no private key in PEM"),
    Mistake(
        "key-of-another",
        lambda files: files.put("ssls[main].key", new_token_key().decode()),
        "ssls[main].key",
        ("does not belong",),
    ),
    wrong("parameters-refused", f"{API}.client-control.max_body_size", 1000000, "at least 1048576"),
    wrong("nginx-refuses-bodies", "nginx_config.http.client_max_body_size", 1048576, "at least 1114112"),
    Mistake("public-without-limit", drop(f"{READ}.plugins.limit-req"), f"{READ}.plugins", ("has no limit",)),
    wrong("public-by-user", f"{READ}.plugins.limit-req.key", "mayfly_sub", "must be remote_addr"),
    wrong("narrower-than-u", f"{API}.limit-conn.conn", 32, "more than 32", "refuses exactly"),
    wrong("u-was-raised", f"{API}.limit-conn.conn", 64, "more than 100", settings={"max_activations_per_user": 100}),
    Mistake(
        "another-tls-port", add("apisix.ssl.listen", {"port": 9444}), "apisix.ssl.listen[1].port", ("must be 9443",)
    ),
    wrong("clear-text", "apisix.node_listen[0].ip", "0.0.0.0", "clear text", "127.0.0.1", "MAYFLY_GATEWAY_CLEAR_TEXT"),
    wrong("another-clear-port", "apisix.node_listen[0].port", 80, "must be 9080"),
    wrong("control-for-everybody", "apisix.control.ip", "0.0.0.0", "must be 127.0.0.1"),
    wrong("control-by-name", "apisix.control.ip", "gateway", "must be 127.0.0.1"),
    wrong("control-elsewhere", "apisix.control.port", 9092, "must be 9090"),
    wrong("status-elsewhere", "apisix.status.port", 7086, "must be 7085"),
    wrong("metrics-elsewhere", "plugin_attr.prometheus.export_addr.port", 9443, "must be 9091"),
    other("sent-again", HTTP, "proxy_next_upstream off;", "", "proxy_next_upstream off", "twice"),
    other("sent-again-by-comment", HTTP, "proxy_next_upstream off;", "# proxy_next_upstream off;", "is missing"),
    other("sent-again-below", LOCATION, "limit_req zone", "proxy_next_upstream error;\nlimit_req zone", "again"),
    other("api-not-verified", HTTP, "proxy_ssl_verify on;", "proxy_ssl_verify off;", "proxy_ssl_verify on", "stand in"),
    other("api-not-verified-below", LOCATION, "limit_req zone", "proxy_ssl_verify off;\nlimit_req zone", "again"),
    other("no-flood-limit", LOCATION, "limit_req zone=mayfly_client burst=600 nodelay;", "", "limit_req"),
    Mistake("flood-zone-unknown", sub(LOCATION, "zone=mayfly_client", "zone=mayfly"), HTTP, ("limit_req_zone",)),
    other("flood-says-503", HTTP, "limit_req_status 429;", "", "limit_req_status 429"),
    other("html-for-bad-heads", SERVER, "error_page 414 494", "error_page 414", "lacks 494"),
    other("html-for-another-http", SERVER, "501 505", "501", "lacks 505"),
    other("redirected-late", LOCATION, "error_page 429", "error_page 429 502", "429 only", "leak"),
    other("early-lua", SERVER, "local status = ngx.status", "local status ngx.status", "does not compile"),
    other("early-as-concurrency-limit", SERVER, "gateway-rate-limit", "concurrency-limit", "name the flood limit"),
    wrong("stops-too-early", "nginx_config.worker_shutdown_timeout", "240s", "more than 320s"),
    other("queries-logged", "nginx_config.http.access_log_format", "$uri", "$request_uri", "$request_uri", "take $uri"),
    Mistake(
        "believes-loopback",
        add("nginx_config.http.real_ip_from", "127.0.0.1"),
        "nginx_config.http.real_ip_from",
        ("MAYFLY_GATEWAY_TRUSTED_PROXIES",),
    ),
    wrong("believes-anybody", "apisix.trusted_addresses", ["10.0.0.0/8"], "chooses who"),
    Mistake(
        "plugin-not-enabled",
        drop("plugins[4]"),
        "plugins",
        (
            "lacks jwt-auth",
            "Add it",
        ),
    ),
    Mistake("plugin-nobody-uses", add("plugins", "batch-requests"), "plugins[12]", ("past its own limits",)),
    Mistake("enabled-misspelt", add("plugins", "limit-con"), "plugins[12]", ("did you mean limit-conn?",)),
]
"""Found by a rule."""

MISTAKES = FORM + BETWEEN_VALUES


def public_key() -> str:
    """Make a good one."""
    return public_pem(new_token_key()).decode()
