"""
How failed attempts slow down the next ones: the arithmetic of back-off, and whose attempts are counted together.

The first few are free, since people mistype. Then each further one has to wait, twice as long as the one before it, up
to a bound, so that nobody is ever locked out for good. Rows: F3.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

import msgspec

from mayfly.domain.stored import Count, Moment, StoredId

IPV6_NETWORK_BITS = 64  # what one customer has at least, so each of its addresses is as good as another


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """Attempts of one kind that have failed, or are being looked at now; the last of them by NATS's clock."""

    v: int = 1
    failures: Count
    last_at: Moment
    nonce: StoredId  # two who count at the same moment write different bytes


class KnownAddress(msgspec.Struct, frozen=True, kw_only=True):
    """A user has logged in from there. Nothing is said but that it is so; the key names both."""

    v: int = 1
    since: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class BackOff:
    """How one kind of attempts is slowed down: the *free* ones, then the first and the longest delay;
    all are forgotten `kept_s` after the last."""

    free: int
    delay_s: float
    delay_max_s: float
    kept_s: float

    def wait_s(self, tally: Tally | None, now: float) -> float:
        """Return how long the next attempt has to wait; 0 if it may be made now."""
        failures = self.failures(tally, now)
        if tally is None or failures < self.free:
            return 0.0
        delay_s = min(self.delay_max_s, self.delay_s * 2.0 ** min(failures - self.free, 32))
        return min(delay_s, max(0.0, tally.last_at + delay_s - now))

    def one_more(self, tally: Tally | None, now: float, nonce: str) -> Tally:
        """Count an attempt before it is looked at."""
        return Tally(failures=self.failures(tally, now) + 1, last_at=now, nonce=nonce)

    def one_less(self, tally: Tally, nonce: str) -> Tally:
        """Take back an attempt that did not fail."""
        return Tally(failures=max(0, tally.failures - 1), last_at=tally.last_at, nonce=nonce)

    def failures(self, tally: Tally | None, now: float) -> int:
        """Return how many count now."""
        return 0 if tally is None or now - tally.last_at >= self.kept_s else tally.failures


def network_of(address: str) -> str | None:
    """
    Name those who count as one caller: an IPv4 address, or the /64 of an IPv6 address; None if it is no address.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is None:
            return str(ipaddress.ip_network((ip, IPV6_NETWORK_BITS), strict=False))
        ip = ip.ipv4_mapped
    return str(ip)
