"""A runtime whose functions may have a network, on the machine of `tests.support.outside`; what is left of theirs."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from pyroute2 import NFCTSocket  # type: ignore[import-untyped]
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple  # type: ignore[import-untyped]

from mayfly.containers.choose import choose_runtime
from mayfly.containers.egress.pool import Pool
from mayfly.containers.held import HeldContainer
from mayfly.containers.local import LocalRuntime
from mayfly.containers.runtime import ContainerSpec
from mayfly.domain.egress import EgressPolicy, Target
from mayfly.domain.function import Network
from mayfly.domain.ids import UserId
from mayfly.domain.image import ProcessConfig
from tests.support.containers import OWNER, SCALE, World, images_of
from tests.support.outside import RESOLVER

ADDRESSES = IPv4Network("10.213.0.0/16")
SOON_S = 20.0


def policy(*, allow: tuple[str, ...] = (), deny: tuple[str, ...] = (), addresses: str = str(ADDRESSES)) -> EgressPolicy:
    """A policy as the settings make it."""
    return EgressPolicy(
        addresses=IPv4Network(addresses),
        resolvers=(IPv4Address(RESOLVER),),
        allow=tuple(map(Target.parse, allow)),
        deny=tuple(map(Target.parse, deny)),
    )


class EgressWorld(World):
    """A world whose functions have `network: egress` unless a test says otherwise."""

    runtime: LocalRuntime

    def spec(self, config: ProcessConfig | None = None, *, owner: UserId = OWNER, **limits: float) -> ContainerSpec:
        """A spec with an id of its own."""
        return replace(super().spec(config, owner=owner, **limits), network=Network.EGRESS)

    @property
    def pool(self) -> Pool:
        """The runtime's namespaces."""
        assert self.runtime.networks
        return self.runtime.networks

    async def ends(self, *attempts: str, hopeless: tuple[str, ...] = ()) -> dict[str, str]:
        """
        Make attempts (`tcp 192.0.2.1 80`) from one function; return what each came to. For a datagram of a *hopeless*
        one no answer is awaited for long: silence is what is expected. A TCP connection is always given its time.
        """
        patience = [f"{each} {300 if each in hopeless and each.startswith('udp') else 20_000}" for each in attempts]
        ending = await self.run("reach", stdin="\n".join(patience).encode(), timeout_s=100)
        lines = [line.split() for line in ending.stdout.decode().splitlines()]
        assert len(lines) == len(attempts), ending
        return {" ".join(line[:3]): line[3] for line in lines}

    async def at_rest(self) -> None:
        """Wait until the used namespaces are removed, and as many are ready as should be."""
        async with asyncio.timeout(SOON_S * SCALE):
            while self.pool._retiring or len(self.pool._ready) < self.pool._size:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def egress_world(
    driver: str, rootfs: Path, state_dir: Path, what: EgressPolicy | None = None, *, slots: int = 2
) -> AsyncIterator[EgressWorld]:
    """Open a runtime; after it nothing of it may be there."""
    runtime = choose_runtime(
        driver, state_dir=state_dir, egress=what or policy(), images=images_of(rootfs), slots=slots
    )
    assert isinstance(runtime, LocalRuntime)
    try:
        await runtime.reap()
        yield EgressWorld(runtime, rootfs)
    finally:
        await runtime.close()
    assert not network_left()


def address_of(container: object) -> str:
    """The address of a container that runs."""
    assert isinstance(container, HeldContainer)
    assert container._network
    return str(container._network.address)


@dataclass(frozen=True)
class NetworkLeft:
    """What of functions' networks this machine has now."""

    interfaces: tuple[str, ...]
    tables: tuple[str, ...]
    flows: tuple[str, ...]
    routes: tuple[str, ...]
    mounts: tuple[str, ...]

    def __bool__(self) -> bool:
        return any((self.interfaces, self.tables, self.flows, self.routes, self.mounts))


def network_left() -> NetworkLeft:
    """Look for interfaces, rules, connections, routes, and mounts of /sys."""
    interfaces = [line.split(":")[1].split("@")[0].strip() for line in lines_of("ip", "-o", "link")]
    tables = [line for line in lines_of("nft", "list", "tables") if "mayfly" in line]
    with ThreadPoolExecutor(1) as thread:  # there, no event loop runs
        ours = thread.submit(_flows).result()
    routes = [line for line in lines_of("ip", "-4", "route") if line.startswith("10.213.")]
    mounted = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "/networks/" in line]
    named = tuple(name for name in interfaces if name.startswith("mf"))
    return NetworkLeft(named, tuple(tables), tuple(ours), tuple(routes), tuple(mounted))


def _flows() -> list[str]:
    with NFCTSocket() as flows:
        found = [NFCTAttrTuple.from_netlink(socket.AF_INET, each.get_attr("CTA_TUPLE_ORIG")) for each in flows.dump()]
    return [str(each) for each in found if each.saddr.startswith("10.213.")]


def lines_of(*command: str) -> list[str]:
    """What a program prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
