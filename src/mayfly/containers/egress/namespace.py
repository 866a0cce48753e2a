"""
One network namespace for one container: a loopback, and a routed veth pair whose other end is ours.

There is no bridge, so functions share no layer 2: our end has the route to the one address inside, and from inside all
goes to 169.254.1.1, where nothing listens. The namespace belongs to the machine's own user namespace: root in a
container cannot change address, routes or interfaces, whatever it becomes there. It has no IPv6 but on its loopback.

Nobody but an open descriptor keeps a namespace, so the kernel removes it, and both ends of the pair with it, when the
worker ends, however it ends. The /sys that shows it is mounted below the worker's own tmpfs.

All of this happens in the one thread of `pool.Pool`: it enters the namespace for a moment, and each netlink socket
belongs to the namespace (and the thread) that it was made in.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, NetlinkError, NFCTSocket  # type: ignore[import-untyped]
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple  # type: ignore[import-untyped]

from mayfly.containers import mounts
from mayfly.domain.errors import RuntimeFailed

GATEWAY = "169.254.1.1"
INSIDE = "eth0"
LOOPBACK = 1  # the index of `lo`, in every namespace
CLONE_NEWNET = 0x40000000
SYS_FLAGS = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC | mounts.MS_RDONLY
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
REMEDY = "The worker needs CAP_NET_ADMIN in its network namespace; or set MAYFLY_EGRESS=off."

_libc = ctypes.CDLL(None, use_errno=True)
_libc.unshare.argtypes = [ctypes.c_int]
_libc.setns.argtypes = [ctypes.c_int, ctypes.c_int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """What a container joins."""

    address: IPv4Address
    interface: str
    """Our end of the pair."""

    descriptor: int
    sys: Path
    """Where the namespace's /sys is mounted, read-only."""

    @property
    def path(self) -> str:
        """By which a runtime opens it."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def is_there(self) -> bool:
        """Whether the kernel has our end still."""
        try:
            socket.if_nametoindex(self.interface)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """
        Let go of it, once no process is in it; the kernel removes it some milliseconds later.

        Raises: OSError.
        """
        os.close(self.descriptor)
        mounts.unmount(self.sys, detach=True)
        self.sys.rmdir()


def interface_name(prefix: str, number: int) -> str:
    """Name our end of the pair with the address of this number; hexadecimal, so that those of a /8 fit as well."""
    return f"{prefix}{number:x}"


class Maker:
    """Makes namespaces, and removes what those of a dead worker left. To be used by one thread only."""

    def __init__(self, prefix: str, directory: Path, addresses: IPv4Network) -> None:
        """
        Work in the network namespace of this thread; interfaces begin with *prefix*, and /sys are in *directory*.

        Raises: RuntimeFailed.
        """
        self._prefix = prefix
        self._directory = directory
        self._addresses = addresses
        with _translated("netlink cannot be used"):
            self._links, self._flows = IPRoute(), NFCTSocket()

    def close(self) -> None:
        """Close the sockets."""
        self._links.close()
        self._flows.close()

    def check(self) -> None:
        """
        See that this machine forwards, and that the addresses of functions are nobody else's.

        Raises: RuntimeFailed with the remedy.
        """
        if FORWARDING.read_text(encoding="ascii").strip() != "1":
            raise RuntimeFailed(
                "This machine does not forward packets, so functions would reach nothing: sysctl -w "
                "net.ipv4.ip_forward=1 (in Docker: --sysctl net.ipv4.ip_forward=1); or set MAYFLY_EGRESS=off."
            )
        with _translated("the machine's routes cannot be read"):
            taken = [network for network in self._routed() if network.overlaps(self._addresses)]
        if taken:
            raise RuntimeFailed(
                f"{self._addresses} is for functions, but this machine has a route to {taken[0]} already, of a network "
                "or of another worker: set MAYFLY_EGRESS_ADDRESSES to a range that is free."
            )

    def _routed(self) -> Iterator[IPv4Network]:
        for route in self._links.get_routes(family=socket.AF_INET):
            destination = route.get_attr("RTA_DST")
            if destination and route["dst_len"]:
                yield IPv4Network(f"{destination}/{route['dst_len']}")

    def reap(self) -> int:
        """
        Remove the interfaces that a dead worker left, if the kernel has not yet, and all it knows of their
        connections; return how many interfaces.

        Raises: RuntimeFailed.
        """
        with _translated("what a dead worker left cannot be removed"):
            left = [
                link["index"]
                for link in self._links.get_links()
                if link.get_attr("IFLA_IFNAME").startswith(self._prefix)
            ]
            for index in left:
                self._delete(index)
        self.forget_all_flows()
        return len(left)

    def make(self, address: IPv4Address) -> Namespace:
        """
        Make a namespace with *address*.

        Raises: RuntimeFailed; nothing of it is left then.
        """
        number = int(address) - int(self._addresses.network_address)
        interface, sys = interface_name(self._prefix, number), self._directory / str(number)
        with _translated("a network for a function cannot be made"):
            home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        descriptor = -1
        try:
            with _translated("a network for a function cannot be made"):
                descriptor = _unshare(home)
                self._connect(descriptor, interface, address)
                sys.mkdir(mode=0o711)
                with _inside(descriptor, home):
                    _set_up_inside(address)
                    mounts.mount("sysfs", sys, "sysfs", flags=SYS_FLAGS)
        except BaseException:
            if descriptor >= 0:
                os.close(descriptor)
            if sys.exists():
                mounts.unmount(sys, detach=True)
                sys.rmdir()
            raise
        finally:
            os.close(home)
        return Namespace(address=address, interface=interface, descriptor=descriptor, sys=sys)

    def _connect(self, descriptor: int, interface: str, address: IPv4Address) -> None:
        """Make the pair, and our end of it."""
        links = self._links
        peer = {"ifname": INSIDE, "net_ns_fd": descriptor}
        links.link("add", ifname=interface, kind="veth", peer=peer)
        no_ipv6 = Path(f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6")
        if no_ipv6.exists():
            no_ipv6.write_text("1", encoding="ascii")
        index = socket.if_nametoindex(interface)
        links.addr("add", index=index, address=GATEWAY, prefixlen=32)
        links.link("set", index=index, state="up")
        links.route("add", dst=f"{address}/32", oif=index)

    def forget_all_flows(self) -> None:
        """
        Have the kernel forget the connections of all functions. Packets of one that goes on are judged as a new one's.

        Raises: RuntimeFailed.
        """
        with _translated("the connections of functions cannot be forgotten"):
            self._forget(self._addresses, self._flows.dump())

    def forget_flows(self, address: IPv4Address) -> None:
        """
        Have the kernel forget the connections of a function that is no more, so that nothing which still arrives for
        it reaches the next one with its address, and the table of connections does not fill up.

        Raises: RuntimeFailed.
        """
        with _translated("the connections of a function cannot be forgotten"):
            self._forget(IPv4Network(address), self._flows.dump(tuple_orig=NFCTAttrTuple(saddr=str(address))))

    def delete(self, interface: str) -> None:
        """
        Remove our end of a pair, and with it the other, though its namespace lives on. Idempotent.

        Raises: RuntimeFailed.
        """
        with _translated(f"{interface} cannot be removed"):
            try:
                self._delete(socket.if_nametoindex(interface))
            except OSError as error:
                if isinstance(error, NetlinkError):
                    raise

    def _delete(self, index: int) -> None:
        try:
            self._links.link("del", index=index)
        except NetlinkError as error:
            if error.code != 19:  # ENODEV: the kernel was faster
                raise

    def _forget(self, network: IPv4Network, flows: Iterator[object]) -> None:
        for each in list(map(_named, flows)):  # one request at a time
            if IPv4Address(each.saddr) in network:
                try:
                    self._flows.entry("del", tuple_orig=each)
                except NetlinkError as error:
                    if error.code != 2:  # ENOENT: it has ended
                        raise


def _named(flow: Any) -> NFCTAttrTuple:
    """What the kernel knows a connection by. SCTP and others have ports as well, which pyroute2 leaves out."""
    found = flow.get_attr("CTA_TUPLE_ORIG")
    named, protocol = NFCTAttrTuple.from_netlink(socket.AF_INET, found), found.get_attr("CTA_TUPLE_PROTO")
    named.sport, named.dport = protocol.get_attr("CTA_PROTO_SRC_PORT"), protocol.get_attr("CTA_PROTO_DST_PORT")
    return named


def _unshare(home: int) -> int:
    """Make an empty namespace, and be back in ours; return its descriptor."""
    _check(_libc.unshare(CLONE_NEWNET), "unshare")
    try:
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        _check(_libc.setns(home, CLONE_NEWNET), "setns")


@contextmanager
def _inside(descriptor: int, home: int) -> Iterator[None]:
    _check(_libc.setns(descriptor, CLONE_NEWNET), "setns")
    try:
        yield
    finally:
        _check(_libc.setns(home, CLONE_NEWNET), "setns")


def _set_up_inside(address: IPv4Address) -> None:
    with IPRoute() as links:
        index = socket.if_nametoindex(INSIDE)
        links.link("set", index=LOOPBACK, state="up")
        links.addr("add", index=index, address=str(address), prefixlen=32)
        no_ipv6 = Path(f"/proc/sys/net/ipv6/conf/{INSIDE}/disable_ipv6")
        if no_ipv6.exists():
            no_ipv6.write_text("1", encoding="ascii")
        links.link("set", index=index, state="up")
        links.route("add", dst=f"{GATEWAY}/32", oif=index, scope="link")
        links.route("add", dst="default", gateway=GATEWAY)


def _check(result: int, call: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), call)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, NetlinkError) as error:
        raise RuntimeFailed(f"Egress: {what} ({error}). {REMEDY}") from error
