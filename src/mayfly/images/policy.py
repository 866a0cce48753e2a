"""
Which registries may be asked, and where they may lead.

A function's owner names the registry, and the worker connects to it: without these rules, a reference would be a way
to make the worker talk to the operator's own network. So a registry whose name leads to a private, loopback,
link-local or otherwise special address is refused unless the operator lists it. The same holds for whatever a registry
leads to: a redirect, the server that gives tokens, the addresses of a layer that is kept elsewhere. `proxy.py` asks
here for each connection, and connects to the very addresses it was given, so a name cannot mean one thing when it is
judged and another when it is used.

Not covered: which public hosts a registry leads to (those that keep layers for others are many, and change), and
services of the operator's at public addresses. Rows: F6.
"""

from __future__ import annotations

import asyncio
import fnmatch
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from mayfly.domain.addresses import SPECIAL
from mayfly.domain.errors import ImageUnavailable
from mayfly.images.reference import ImageReference

RESOLVE_TIMEOUT_S = 5.0
# Threads of their own, so that a stranger's slow name server holds up nothing else: a lookup that was given up keeps
# its thread until the C library gives up, too.
_LOOKUPS = ThreadPoolExecutor(32, "registry-lookup")
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that is given to anybody
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
        await self.addresses(reference.host, registry)

    async def addresses(self, host: str, authority: str) -> list[Address]:
        """
        Look *host* up, and give the addresses that may be connected to: all that it has, or none.

        *authority* is the host with its port, as the operator would list it. Both are in lower case.

        Raises: ImageUnavailable, with the setting that would allow it.
        """
        found = await _resolve(host)
        if self._lists(host, authority):
            return found
        for address in found:
            if _is_special(address) and not self._lists_address(address):
                raise ImageUnavailable(
                    f"Registry {authority} is at a private address, which no function may name or lead to. "
                    "The operator can list it in MAYFLY_PRIVATE_REGISTRIES. If it has no TLS, "
                    "MAYFLY_PLAIN_HTTP_REGISTRIES needs it too. "
                    f"With `mayfly up`: --private-registries {authority} --plain-http-registries {authority}"
                )
        return found

    def is_plain_http(self, reference: ImageReference) -> bool:
        """Whether the registry is spoken to without TLS."""
        return self.lists_plain_http(reference.registry)

    def lists_plain_http(self, *names: str) -> bool:
        """Whether the operator lists one of these as spoken to without TLS."""
        return bool({name.lower() for name in names} & {name.lower() for name in self.plain_http})

    def _lists(self, *names: str) -> bool:
        return bool(set(names) & {name.lower() for name in self.private})

    def _lists_address(self, address: Address) -> bool:
        networks = [network for network in map(_network, self.private) if network is not None]
        return any(address in network for network in networks if network.version == address.version)


def _names(reference: ImageReference) -> tuple[str, str]:
    return reference.registry.lower(), reference.host


async def _resolve(host: str) -> list[Address]:
    """Look up every address of a host. The C library also reads 127.1, 0x7f000001 and the like."""
    look_up = partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await loop.run_in_executor(_LOOKUPS, look_up)
    except (OSError, UnicodeError, TimeoutError) as error:
        raise ImageUnavailable(
            f"The registry's host {host!r} cannot be found: {_words(error)}. Is the name right? Where the workers "
            "reach no such registry, name one that they do in the image, as in registry.example/NAME."
        ) from error
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


def _is_special(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        address = _embedded(address) or address
    if isinstance(address, ipaddress.IPv6Address) and address not in GLOBAL_UNICAST:
        return True
    if isinstance(address, ipaddress.IPv4Address) and any(address in network for network in SPECIAL):
        return True
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
