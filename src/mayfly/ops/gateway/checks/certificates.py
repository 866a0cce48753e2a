"""Rules about the gateway's own certificates and the names that they are for. Rows: D3, F1."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from mayfly.ops.gateway.checks.rule import Found, Gateway, config_rule, is_placeholder, routes_rule


@routes_rule
def names_by_sni(gateway: Gateway) -> Found:
    """A certificate has `sni` or `snis`, for any name `sni: "*"`: `snis: ["*"]` matches names without a dot only."""
    for one in gateway.routes["ssls"]:
        where = f"ssls[{one['id']}]"
        if "sni" not in one and "snis" not in one:
            yield where, 'has neither sni nor snis: no handshake would find it. Add sni: "*", or the names.'
        elif "sni" in one and "snis" in one:
            yield where, "has both sni and snis; keep one of them."
        elif "*" in one.get("snis", ()):
            yield f"{where}.snis", 'has "*", which matches names without a dot only; write sni: "*".'


@config_rule
def callers_without_a_name_served(gateway: Gateway) -> Found:
    """A caller that names no host, as with an address in the URL, counts as one for `fallback_sni`, and there is a
    certificate for that."""
    name = gateway.config["apisix"]["ssl"].get("fallback_sni")
    if name is None:
        yield "apisix.ssl.fallback_sni", "is missing: https://ADDRESS would fail in the handshake. Name a host."
        return
    patterns = [pattern for one in gateway.routes["ssls"] for pattern in _names(one)]
    if patterns and not any(_covers(pattern, name) for pattern in patterns):
        yield "apisix.ssl.fallback_sni", "is a name that no certificate in apisix.yaml is for."


@routes_rule
def certificates_usable(gateway: Gateway) -> Found:
    """Certificate and key can be read, belong together, and the certificate holds today: an unusable one ends TLS for
    everybody, and APISIX logs the private key."""
    for one in gateway.routes["ssls"]:
        where = f"ssls[{one['id']}]"
        if is_placeholder(one["cert"], gateway) and is_placeholder(one["key"], gateway):
            continue
        try:
            certificate = x509.load_pem_x509_certificates(one["cert"].encode())[0]
        except ValueError:
            yield f"{where}.cert", f"is no certificate in PEM; {_RENDER}"
            continue
        yield from _holds_today(certificate, f"{where}.cert")
        yield from _key_fits(certificate, one["key"], f"{where}.key")


_RENDER = "`mayfly gateway render` writes it from the secrets."
_RENEW = "renew it (`mayfly secrets create`) and render the file again."


def _holds_today(certificate: x509.Certificate, where: str) -> Found:
    now = datetime.now(UTC)
    if certificate.not_valid_after_utc <= now:
        yield where, f"has ended on {certificate.not_valid_after_utc:%Y-%m-%d}; {_RENEW}"
    elif certificate.not_valid_before_utc > now:
        yield where, f"begins on {certificate.not_valid_before_utc:%Y-%m-%d} only; look at this machine's clock."


def _key_fits(certificate: x509.Certificate, pem: str, where: str) -> Found:
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        yield where, f"is no private key in PEM without a password; {_RENDER}"
        return
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        yield where, f"does not belong to the certificate; {_RENEW}"


def _names(ssl: dict[str, Any]) -> Iterator[str]:
    yield from ssl.get("snis", ())
    if "sni" in ssl:
        yield ssl["sni"]


def _covers(pattern: str, name: str) -> bool:
    return pattern in {"*", name} or (pattern.startswith("*.") and name.partition(".")[2] == pattern[2:])
