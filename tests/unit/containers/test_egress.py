"""Egress without a network: what the rules say, whom functions ask for names, and whose an address is when."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from mayfly.containers.bundle import Joined, oci_config
from mayfly.containers.choose import choose_runtime
from mayfly.containers.egress.namespace import interface_name
from mayfly.containers.egress.pool import READY_MAX, REST_S, Addresses, Pool
from mayfly.containers.egress.resolvers import resolv_conf, resolvers
from mayfly.containers.egress.rules import FLOWS_MAX, ruleset
from mayfly.containers.runtime import ContainerSpec
from mayfly.domain.addresses import SPECIAL
from mayfly.domain.egress import RANGE_MIN_PREFIX, EgressPolicy, Target
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.function import Network
from mayfly.domain.ids import UserId
from mayfly.domain.image import ProcessConfig
from mayfly.domain.limits import Limits

pytestmark = pytest.mark.D6

ROOT = Path(__file__).resolve().parents[3]
POLICY = EgressPolicy(
    addresses=IPv4Network("10.213.0.0/16"),
    resolvers=(IPv4Address("192.168.1.1"), IPv4Address("9.9.9.9")),
    allow=(Target.parse("10.1.2.0/24:443"), Target.parse("172.20.0.5")),
    deny=(Target.parse("198.51.100.0/24"), Target.parse("203.0.113.9:80")),
)
TO_OTHERS = """\
  chain to_others {
    oifname "mf1n*" goto refuse
    jump honest
    ip daddr 192.168.1.1 meta l4proto { tcp, udp } th dport 53 accept
    ip daddr 9.9.9.9 meta l4proto { tcp, udp } th dport 53 accept
    ip daddr 10.1.2.0/24 meta l4proto { tcp, udp } th dport 443 accept
    ip daddr 172.20.0.5/32 accept
    ip daddr 198.51.100.0/24 goto refuse
    ip daddr 203.0.113.9/32 meta l4proto { tcp, udp } th dport 80 goto refuse
    ip daddr { 0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 168.63.129.16/32, 169.254.0.0/16, 172.16.0.0/12, \
192.0.0.0/24, 192.88.99.0/24, 192.168.0.0/16, 198.18.0.0/15, 224.0.0.0/4, 240.0.0.0/4 } goto refuse
    tcp dport 25 goto refuse
    meta l4proto { tcp, udp } th dport 53 goto refuse
    meta l4proto { tcp, udp, icmp } accept
    goto refuse
  }
"""


def test_the_rules_in_their_order() -> None:
    """Other functions first, then the sender, resolvers, what is allowed, what is denied, what is private, the rest."""
    text = ruleset("mayfly_1", "mf1n", POLICY)
    assert TO_OTHERS in text
    assert text.startswith("table inet mayfly_1\ndelete table inet mayfly_1\ntable inet mayfly_1 {\n")
    assert 'ip saddr 10.213.0.0/16 oifname != "mf1n*" masquerade fully-random' in text


def test_no_address_is_refused_that_is_global() -> None:
    """
    Every refused range is private, shared, reserved, multicast or a cloud's; every private address is in one of them,
    as is each by which a cloud tells its machines about themselves.
    """
    refused = SPECIAL
    others = (IPv4Network("192.88.99.0/24"), IPv4Network("168.63.129.16/32"))
    assert not [each for each in refused if each.is_global and not each.is_multicast and each not in others]
    examples = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")
    for text in ("10.1.2.3", "172.31.255.255", "192.168.0.1", "169.254.169.254", "100.127.255.255", "127.0.0.53"):
        assert any(IPv4Address(text) in each for each in refused), text
    for text in ("169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192"):  # Azure's, Alibaba's, Oracle's
        assert any(IPv4Address(text) in each for each in refused), text
    assert not [each for each in examples if any(IPv4Network(each).overlaps(other) for other in refused)]


def test_the_page_says_what_the_rules_say() -> None:
    """Every range that is refused, and each of the figures, stands on the operator's page."""
    page = (ROOT / "docs/howto/let-functions-reach-the-network.md").read_text(encoding="utf-8")
    assert not [each for each in SPECIAL if str(each) not in page]
    for figure in (f"more than {FLOWS_MAX} connections", f"at most {READY_MAX}", f"for {REST_S:g} s"):
        assert figure in page, figure


@pytest.mark.parametrize(
    ("text", "network", "port"),
    [("192.0.2.7", "192.0.2.7/32", None), ("10.0.0.0/8:443", "10.0.0.0/8", 443), ("0.0.0.0/0", "0.0.0.0/0", None)],
)
def test_a_target(text: str, network: str, port: int | None) -> None:
    """An address or network, with a port or for all of them; written as it is read."""
    target = Target.parse(text)
    assert target == Target(IPv4Network(network), port)
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize(
    "text", ["", "example.org", "10.0.0.1/8", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "::1", "10.0.0.1:80; flush"]
)
def test_what_is_no_target(text: str) -> None:
    """A name, a network with host bits, an IPv6 address or words for nft: refused, with the form that is right."""
    with pytest.raises(ValueError, match=r"port"):
        Target.parse(text)


def test_the_machines_resolvers(tmp_path: Path) -> None:
    """Those of the first file with one that functions can reach: no loopback and no IPv6 address, three at most."""
    stub, upstream = tmp_path / "stub", tmp_path / "upstream"
    stub.write_text("# systemd\nnameserver 127.0.0.53\nnameserver ::1\nnameserver fe80::1%eth0\nnameserver\n")
    upstream.write_text("".join(f"nameserver 192.0.2.{n}\n" for n in range(1, 6)) + "search corp.example\n")
    found = resolvers((), files=(stub, tmp_path / "missing", upstream))
    assert found == tuple(IPv4Address(f"192.0.2.{n}") for n in (1, 2, 3))
    assert resolv_conf(found) == "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n"
    assert resolvers((IPv4Address("9.9.9.9"),), files=(upstream,)) == (IPv4Address("9.9.9.9"),)


def test_without_a_resolver_the_setting_is_named(tmp_path: Path) -> None:
    """As in Docker, whose own is a loopback address."""
    stub = tmp_path / "resolv.conf"
    stub.write_text("nameserver 127.0.0.11\noptions ndots:0\n")
    with pytest.raises(RuntimeFailed, match="MAYFLY_EGRESS_DNS"):
        resolvers((), files=(stub,))


def test_an_address_rests() -> None:
    """Fresh ones first, then the one that was given back first, and never before it has rested."""
    addresses = Addresses(IPv4Network("192.0.2.0/29"))
    taken = [addresses.take(0.0) for _ in range(7)]
    assert [str(each) for each in taken] == [f"192.0.2.{n}" for n in range(1, 7)] + ["None"]
    assert taken[2]
    assert taken[0]
    addresses.give_back(taken[2], 100.0)
    addresses.give_back(taken[0], 101.0)
    assert addresses.take(100.0 + REST_S - 0.1) is None
    assert addresses.take(100.0 + REST_S) == taken[2]
    assert addresses.take(100.0 + REST_S) is None
    assert addresses.take(101.0 + REST_S) == taken[0]


def test_interfaces_of_the_largest_range_have_names() -> None:
    """The kernel takes 15 characters, and the worker's own prefix has nine."""
    last = IPv4Network(f"10.0.0.0/{RANGE_MIN_PREFIX}").num_addresses - 2
    prefix = Pool(POLICY, name="0123456789ab", directory=Path("/d"), mark=Path("/m"), size=1).prefix
    assert interface_name(prefix, last) == "mf012345nfffffe"
    assert len({interface_name(prefix, number) for number in (1, 10, 16, 256, last)}) == 5


def test_a_container_joins_one_network_namespace() -> None:
    """One of its kind, by path; /sys is the one that shows it; /etc/resolv.conf is ours. All else is as without."""
    spec = ContainerSpec(
        id="a" * 26,
        owner=UserId("u" * 24),
        rootfs=Path("/r"),
        config=ProcessConfig(),
        limits=Limits(),
        network=Network.EGRESS,
    )
    plain, joined = oci_config(spec), oci_config(spec, joined=Joined("/proc/7/fd/9", "../networks/1"))
    kinds = [each["type"] for each in joined["linux"]["namespaces"]]
    assert kinds == [each["type"] for each in plain["linux"]["namespaces"]]
    assert kinds.count("network") == 1
    assert {"type": "network", "path": "/proc/7/fd/9"} in joined["linux"]["namespaces"]
    more = [each for each in joined["mounts"] if each not in plain["mounts"]]
    read_only = ["bind", "ro", "nosuid", "nodev", "noexec"]
    assert more == [
        {"destination": "/sys", "type": "bind", "source": "../networks/1", "options": read_only},
        {"destination": "/etc/resolv.conf", "type": "bind", "source": "resolv.conf", "options": read_only},
    ]
    assert [each["destination"] for each in joined["mounts"]].count("/sys") == 1


def test_docker_has_no_egress(tmp_path: Path) -> None:
    """Asked for together, the worker does not start, and says what excludes what."""
    with pytest.raises(RuntimeFailed, match=r"MAYFLY_EGRESS.*docker"):
        choose_runtime("docker", state_dir=tmp_path, egress=POLICY)
