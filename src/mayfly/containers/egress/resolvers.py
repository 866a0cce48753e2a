"""
Whom functions ask for names: the resolvers that the operator names, or this machine's own that they can reach.

Functions ask them directly. So no program of ours reads what strangers send, and none has to be kept alive; but a
resolver on a loopback address (systemd's 127.0.0.53, Docker's 127.0.0.11) answers this machine only.
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

from mayfly.domain.egress import RESOLVERS_MAX
from mayfly.domain.errors import RuntimeFailed

FILES = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
"""The second has the servers behind systemd's own resolver."""


def resolvers(given: tuple[IPv4Address, ...], files: tuple[Path, ...] = FILES) -> tuple[IPv4Address, ...]:
    """
    Choose the resolvers of functions.

    Raises: RuntimeFailed when this machine has none that they could reach.
    """
    if given:
        return given
    for file in files:
        found = tuple(address for address in _nameservers(file) if not address.is_loopback and int(address))
        if found:
            return found[:RESOLVERS_MAX]
    raise RuntimeFailed(
        f"{' and '.join(map(str, files))} name no resolver with an IPv4 address that functions could reach (a loopback "
        "address answers this machine only): set MAYFLY_EGRESS_DNS."
    )


def resolv_conf(addresses: tuple[IPv4Address, ...]) -> str:
    """Write a function's /etc/resolv.conf: no domain of this machine's is in it."""
    return "".join(f"nameserver {address}\n" for address in addresses)


def _nameservers(file: Path) -> list[IPv4Address]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            try:
                found.append(IPv4Address(words[1]))
            except AddressValueError:  # an IPv6 one, which functions cannot reach
                continue
    return found
