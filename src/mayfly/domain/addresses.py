"""
IPv4 addresses that are not anybody's on the internet, or not what they seem: neither a function nor a registry leads
there unless the operator says so. One list for both (`containers.egress.rules`, `images.policy`).
"""

from __future__ import annotations

from ipaddress import IPv4Network

SPECIAL = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this host (RFC 1122)
        "10.0.0.0/8",  # private (RFC 1918)
        "100.64.0.0/10",  # shared by carriers, and what overlay networks use (RFC 6598)
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's own service on each of its machines: public by its number, and nobody else's
        "169.254.0.0/16",  # link-local: the clouds' metadata services (RFC 3927)
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments (RFC 6890)
        "192.88.99.0/24",  # 6to4 relays: a way to IPv6 (RFC 7526)
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks (RFC 2544)
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
"""The ranges of RFC 6890 that are not global, and what a cloud has beside them, less those for examples (192.0.2.0/24,
198.51.100.0/24, 203.0.113.0/24), which lead nowhere."""
