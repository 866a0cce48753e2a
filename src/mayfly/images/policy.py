"""
Which registries may be asked.

A function's owner names the registry, and the worker connects to it: without these rules, a reference would be a way
to make the worker talk to the operator's own network. So a registry whose name leads to a private, loopback,
link-local or otherwise special address is refused unless the operator lists it.

Not covered: a name that resolves to something else between this check and the pull, and a registry that redirects.
An operator who needs more than this gives the worker an egress proxy of its own. Rows: F6.
"""

from __future__ import annotations

import asyncio
import fnmatch
import ipaddress
import socket
from dataclasses import dataclass

from mayfly.domain.errors import ImageUnavailable
from mayfly.images.reference import ImageReference

RESOLVE_TIMEOUT_S = 5.0
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryPolicy:
    """The operator's rules: patterns that are allowed, private hosts or CIDRs, and who is spoken to without TLS."""

    allow: tuple[str, ...] = ("*",)
    private: tuple[str, ...] = ()
    plain_http: tuple[str, ...] = ()

    async def check(self, reference: ImageReference) -> None:
        """
        See that the registry of *reference* may be asked.

        Raises: ImageUnavailable, with the setting that would allow it.
        """
        if reference.is_local:
            return
        registry = reference.registry.lower()
        if not any(fnmatch.fnmatchcase(name, pattern.lower()) for name in _names(reference) for pattern in self.allow):
            raise ImageUnavailable(
                f"Registry {registry} is not allowed here. The operator's MAYFLY_ALLOWED_REGISTRIES says which are."
            )
        if self._lists(reference):
            return
        for address in await _resolve(reference):
            if _is_special(address) and not self._lists_address(address):
                raise ImageUnavailable(
                    f"Registry {registry} is at a private address, which functions may not name. "
                    "The operator can list it in MAYFLY_PRIVATE_REGISTRIES."
                )

    def is_plain_http(self, reference: ImageReference) -> bool:
        """Whether the registry is spoken to without TLS."""
        return reference.registry.lower() in {name.lower() for name in self.plain_http}

    def _lists(self, reference: ImageReference) -> bool:
        return bool(set(_names(reference)) & {name.lower() for name in self.private})

    def _lists_address(self, address: Address) -> bool:
        networks = [network for network in map(_network, self.private) if network is not None]
        return any(address in network for network in networks if network.version == address.version)


def _names(reference: ImageReference) -> tuple[str, str]:
    return reference.registry.lower(), reference.host


async def _resolve(reference: ImageReference) -> list[Address]:
    """Look up every address of the registry's host. The C library also reads 127.1, 0x7f000001 and the like."""
    host = reference.host
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await loop.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError) as error:
        raise ImageUnavailable(f"The registry's host {host!r} cannot be found: {_words(error)}.") from error
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


def _is_special(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        address = _embedded(address) or address
    return not address.is_global or address.is_multicast


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for, if it does: mapped, 6to4, or through a NAT64."""
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _words(error: BaseException) -> str:
    return str(error.args[-1]) if error.args else "no answer in time"
