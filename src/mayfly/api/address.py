"""
Where a request comes from: the caller's address, as far as somebody trustworthy says it.

Behind a gateway that is the address in X-Forwarded-For, which the gateway begins anew with what it found out itself. It
is believed of a request only that the door has let in by the gateway's secret; of any other, and in a setup without a
gateway, the address is that of the connection. Rows: F3.
"""

from __future__ import annotations

import ipaddress

import structlog
from starlette.requests import Request

from mayfly.api.envelope import exchange_of
from mayfly.domain.attempts import network_of

log = structlog.get_logger()

HEADER = "x-forwarded-for"
UNKNOWN = "unknown"


def client_address(request: Request) -> str:
    """
    Say from which address a request comes: IPv4 or IPv6 as text in its one canonical form, so that it can be compared;
    `unknown` where neither the gateway nor the connection tells.
    """
    told = _told_by_the_gateway(request) if exchange_of(request.scope).through_gateway else None
    return told or _canonical(request.client.host if request.client else "") or UNKNOWN


def caller_network(request: Request) -> str | None:
    """
    Say whose attempts count together with the caller's: its IPv4 address, or the /64 of its IPv6 address; None, and a
    warning, where the gateway does not tell: then its own address would be everybody's.
    """
    if exchange_of(request.scope).through_gateway and _told_by_the_gateway(request) is None:
        log.warning("address.unknown", reason="the gateway sends no address in X-Forwarded-For")
        return None
    return network_of(client_address(request))


def _told_by_the_gateway(request: Request) -> str | None:
    """Take the last address of the last header: each proxy appends, and the last one is the gateway."""
    lines = request.headers.getlist(HEADER)
    return _canonical(lines[-1].rpartition(",")[2]) if lines else None


def _canonical(text: str) -> str | None:
    """Write an address in one way only; None if it is none. An IPv6 address loses its zone, which is any text."""
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.IPv6Address(int(address)))
    return str(address)
