"""Which registries may be asked: addresses of the operator's own network are not, however they are written."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from mayfly.domain.errors import ImageUnavailable
from mayfly.images.policy import RegistryPolicy
from mayfly.images.reference import parse_reference

pytestmark = pytest.mark.F6


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:5000",
        "127.1.2.3",
        "127.1",
        "0x7f.1",
        "0177.0.0.1",
        "2130706433:80",
        "localhost",
        "LOCALHOST:5000",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "[::1]:5000",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:10.0.0.1]:443",
        "[fe80::1]",
        "[fc00::1]",
        "[ff02::1]",
        "[2002:7f00:1::]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::a9fe:a9fe]:443",
        "[64:ff9b:1::1]",
        "[::127.0.0.1]",
        "[::ffff:0:127.0.0.1]",
        "[fec0::1]",
        "[2001::1]",
        "[2001:db8::1]",
        "[100::1]",
        "[5f00::1]",
        "0x7f000001:80",
        "017700000001:5000",
        "0x0A000005:80",
        "0xa9fea9fe:80",
        "169.254.43518",
        "255.255.255.255",
        "192.0.0.8",
        "168.63.129.16",
        "0xa83f8110:80",
        "[::ffff:168.63.129.16]",
        "[64:ff9b::a83f:8110]",
        "192.88.99.1",
    ],
)
async def test_private_addresses_are_refused(host: str) -> None:
    """Loopback, private, link-local and other special addresses are refused, with the setting that would allow them."""
    with pytest.raises(ImageUnavailable, match="MAYFLY_PRIVATE_REGISTRIES"):
        await RegistryPolicy().check(parse_reference(f"{host}/x"))


async def test_who_runs_a_registry_at_home_is_told_all_it_takes() -> None:
    """One refusal names both settings, as a registry on the loopback has no TLS as a rule; and the options of `up`."""
    with pytest.raises(ImageUnavailable) as refused:
        await RegistryPolicy().check(parse_reference("127.0.0.1:5000/x"))

    assert (
        "in MAYFLY_PRIVATE_REGISTRIES. If it has no TLS, MAYFLY_PLAIN_HTTP_REGISTRIES needs it" in refused.value.detail
    )
    assert refused.value.detail.endswith(
        "With `mayfly up`: --private-registries 127.0.0.1:5000 --plain-http-registries 127.0.0.1:5000"
    )


@pytest.mark.parametrize(
    ("listed", "host"),
    [
        ("127.0.0.1:5000", "127.0.0.1:5000"),
        ("127.0.0.1", "127.0.0.1:5000"),
        ("127.0.0.0/8", "127.0.0.1:5000"),
        ("LocalHost:5000", "localhost:5000"),
        ("::1/128", "[::1]:5000"),
    ],
)
async def test_what_the_operator_lists_is_allowed(listed: str, host: str) -> None:
    """A private registry is allowed by host, by host and port, or by network."""
    await RegistryPolicy(private=(listed,)).check(parse_reference(f"{host}/x"))


@pytest.mark.parametrize("host", ["8.8.8.8", "[2606:4700::1111]:443", "[64:ff9b::808:808]", "[2002:808:808::1]"])
async def test_public_addresses_are_allowed(host: str) -> None:
    """An address that is anybody's may be named, also as an IPv6 network without IPv4 writes it."""
    await RegistryPolicy().check(parse_reference(f"{host}/x"))


@pytest.mark.parametrize(
    ("private", "host", "authority", "allowed"),
    [
        ((), "10.0.0.5", "10.0.0.5:443", False),
        (("10.0.0.5:443",), "10.0.0.5", "10.0.0.5:443", True),
        (("10.0.0.5:443",), "10.0.0.5", "10.0.0.5:80", False),
        (("10.0.0.0/30",), "10.0.0.5", "10.0.0.5:443", False),
        (("10.0.0.0/29",), "10.0.0.5", "10.0.0.5:443", True),
        (("10.0.0.0/29",), "0xa000005", "0xa000005:443", True),
        (("::/0",), "10.0.0.5", "10.0.0.5:443", False),
    ],
)
async def test_where_a_registry_leads_is_judged_alike(
    private: tuple[str, ...], host: str, authority: str, allowed: bool
) -> None:
    """A host that a pull is led to is held to the same rules as one that is named; what is given are its addresses."""
    asked = RegistryPolicy(private=private, allow=("ghcr.io",)).addresses(host, authority)

    if allowed:
        assert list(map(str, await asked)) == ["10.0.0.5"]
    else:
        with pytest.raises(ImageUnavailable, match="MAYFLY_PRIVATE_REGISTRIES"):
            await asked


async def test_listing_one_port_allows_no_other() -> None:
    """A listed host:port says nothing about the host's other ports."""
    with pytest.raises(ImageUnavailable):
        await RegistryPolicy(private=("127.0.0.1:5000",)).check(parse_reference("127.0.0.1:5001/x"))


async def test_a_name_is_judged_by_every_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A public name with one private address among its addresses is refused."""

    def resolve(*_: Any, **__: Any) -> list[Any]:
        return [(2, 1, 6, "", ("8.8.8.8", 443)), (2, 1, 6, "", ("10.0.0.1", 443))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)

    with pytest.raises(ImageUnavailable, match="private address"):
        await RegistryPolicy().check(parse_reference("registry.example/x"))


@pytest.mark.parametrize(
    ("allow", "host", "allowed"),
    [
        (("ghcr.io",), "ghcr.io", True),
        (("ghcr.io",), "quay.io", False),
        (("ghcr.io",), "ghcr.io.evil.example", False),
        (("*.example",), "a.b.example", True),
        (("docker.io", "*.example:5000"), "x.example:5000", True),
        (("*.example:5000",), "x.example:5001", False),
    ],
)
async def test_only_allowed_registries_are_asked(
    monkeypatch: pytest.MonkeyPatch, allow: tuple[str, ...], host: str, allowed: bool
) -> None:
    """The allow-list holds patterns of hosts, or of hosts and ports."""

    def resolve(*_: Any, **__: Any) -> list[Any]:
        return [(2, 1, 6, "", ("8.8.8.8", 443))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    check = RegistryPolicy(allow=allow).check(parse_reference(f"{host}/x"))

    if allowed:
        await check
    else:
        with pytest.raises(ImageUnavailable, match="MAYFLY_ALLOWED_REGISTRIES"):
            await check


async def test_a_host_that_does_not_exist_is_said_so() -> None:
    """A registry that cannot be found is told with the resolver's words."""
    with pytest.raises(ImageUnavailable, match=r"'registry\.invalid' cannot be found"):
        await RegistryPolicy().check(parse_reference("registry.invalid/x"))


def test_tls_is_left_out_only_where_listed() -> None:
    """Only a registry listed by host and port is spoken to without TLS."""
    policy = RegistryPolicy(plain_http=("127.0.0.1:5000",))

    assert policy.is_plain_http(parse_reference("127.0.0.1:5000/x"))
    assert not policy.is_plain_http(parse_reference("127.0.0.1:5001/x"))
    assert not policy.is_plain_http(parse_reference("busybox"))
