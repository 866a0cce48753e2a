"""Rules about consumers, that is, whose signature makes a token good. Rows: A1, D3, F3."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from mayfly.ops.gateway.checks.rule import Found, Gateway, is_placeholder, routes_rule

BETWEEN = "/credentials/"


@routes_rule
def credentials_belong(gateway: Gateway) -> Found:
    """A consumer has a `username`, which is its id; each of its keys is a credential, `NAME/credentials/KEY`, with
    jwt-auth for tokens that say KEY as their kid."""
    known = {one["username"] for one in gateway.routes["consumers"] if "username" in one}
    for one in gateway.routes["consumers"]:
        where, (owner, mark, key) = f"consumers[{one['id']}]", one["id"].partition(BETWEEN)
        if mark and owner not in known:
            yield where, f"belongs to no consumer; there is {', '.join(sorted(known)) or 'none'}."
        elif mark and ("username" in one or "plugins" not in one):
            yield where, "is a credential, and needs plugins with jwt-auth, and no username."
        elif not mark and one.get("username") != one["id"]:
            yield f"{where}.username", "must be there and equal the id."
        elif mark and one["plugins"]["jwt-auth"]["key"] != key:
            yield f"{where}.plugins.jwt-auth.key", "must be the last part of the id, the kid of tokens."
        elif not mark and "plugins" in one:
            yield f"{where}.plugins", f"must be in a credential, {one['id']}{BETWEEN}KEY, so that keys can change."


@routes_rule
def keys_of_tokens_unique(gateway: Gateway) -> Found:
    """Each credential has a key id (`key`) of its own: of two equal ones APISIX takes the last."""
    seen: set[str] = set()
    for where, conf in _credentials(gateway):
        if conf["key"] in seen:
            yield f"{where}.key", "is there twice: APISIX would take the last. Give each key its own id."
        seen.add(conf["key"])


@routes_rule
def keys_that_verify(gateway: Gateway) -> Found:
    """Each public key is one of P-256, in PEM: APISIX takes one that it cannot read, and then refuses each token."""
    for where, conf in _credentials(gateway):
        if is_placeholder(conf["public_key"], gateway) or PRIVATE in conf["public_key"]:
            continue
        try:
            key = load_pem_public_key(conf["public_key"].encode())
        except (ValueError, UnsupportedAlgorithm):
            yield f"{where}.public_key", "is no public key in PEM; `mayfly gateway render` writes it from the secrets."
            continue
        if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
            yield f"{where}.public_key", "is no key of the curve P-256, which ES256 needs."


@routes_rule
def private_keys_nowhere(gateway: Gateway) -> Found:
    """There is no private key in the file but the certificates' own: who has a token's key makes tokens."""
    for where, value in _texts({**gateway.routes, "ssls": []}, ""):
        if PRIVATE in value:
            yield where, "has a private key. Take it as known to others: remove it, and rotate the key."


PRIVATE = "PRIVATE KEY"


def _credentials(gateway: Gateway) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in gateway.routes["consumers"]:
        if "plugins" in one and "jwt-auth" in one["plugins"]:
            yield f"consumers[{one['id']}].plugins.jwt-auth", one["plugins"]["jwt-auth"]


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            name = inner.get("id", index) if isinstance(inner, dict) else index
            yield from _texts(inner, f"{where}[{name}]")
