"""What functions with `network: egress` may reach: the operator's word, as values. Rows: D6."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

RANGE_MIN_PREFIX, RANGE_MAX_PREFIX = 8, 20
"""The largest range of addresses for functions, whose numbers fit into names of interfaces, and the smallest: 4,096, as
each rests for a while before it is another's."""
RESOLVERS_MAX = 3  # a C library asks no more than three


@dataclass(frozen=True, slots=True)
class Target:
    """Some addresses, on one port (TCP and UDP) or on all (and every protocol)."""

    network: IPv4Network
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Target:
        """
        Read `192.0.2.7`, `192.0.2.0/24` or either with `:443` behind.

        Raises: ValueError with the rule.
        """
        network, colon, port = text.partition(":")
        try:
            found = cls(IPv4Network(network), int(port) if colon else None)
        except ValueError as error:
            raise ValueError(
                f"{text!r} is no IPv4 address or network with an optional port, such as 10.1.2.0/24:443 ({error})"
            ) from None
        if found.port is not None and not 0 < found.port < 65_536:
            raise ValueError(f"{text!r}: a port is 1 to 65535")
        return found

    def __str__(self) -> str:
        return f"{self.network}" if self.port is None else f"{self.network}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressPolicy:
    """Where functions have their addresses, whom they ask for names, and what they may reach."""

    addresses: IPv4Network
    """Functions have theirs from here. Nobody else on this machine or behind it may."""

    resolvers: tuple[IPv4Address, ...] = ()
    """Reached on port 53, wherever they are. Empty: those of this machine."""

    allow: tuple[Target, ...] = ()
    """Reached although they are in a range that is refused."""

    deny: tuple[Target, ...] = ()
    """Refused in addition, unless `allow` has them too."""
