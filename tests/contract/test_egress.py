"""
What a function with `network: egress` reaches and what it does not, tried from inside by the real runtimes.

The machine and everything around it are network namespaces of these tests (`tests.support.outside`). Whatever must not
be reached is there and answers: the machine itself reaches it, so it is our rules that keep a function out.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
import yaml
from pyroute2 import NFCTSocket  # type: ignore[import-untyped]
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple  # type: ignore[import-untyped]

from mayfly.containers.choose import choose_runtime
from mayfly.containers.egress import rules
from mayfly.containers.egress.pool import Pool
from mayfly.containers.held import HeldContainer
from mayfly.containers.runtime import Call
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.function import Network
from tests.contract.exceptions import LOCAL
from tests.support.containers import SCALE, World, copy_rootfs, open_descriptors, spoken
from tests.support.egress import EgressWorld, address_of, egress_world, lines_of, network_left, policy
from tests.support.need import need
from tests.support.outside import (
    MACHINE,
    MACHINE_SIX,
    NAME,
    OTHER_RESOLVER,
    REFUSED,
    RESOLVER,
    SIX,
    WEB,
    Outside,
    machine_and_outside,
)
from tests.support.page import commands

pytestmark = [pytest.mark.root, pytest.mark.D6, pytest.mark.F9]

ROOT = Path(__file__).parent.parent.parent
COMPOSE = ROOT / "deploy" / "compose"

REACHED = (f"tcp {WEB} 80", f"tcp {WEB} 443", f"udp {WEB} 7", f"tcp {RESOLVER} 53", f"tcp ::ffff:{WEB} 80")
NOBODY = (  # the machine by each of its addresses, others' services on it, and whatever is private
    *(f"tcp {MACHINE} {port}" for port in (22, 53, 80, 4222)),
    *(f"udp {MACHINE} {port}" for port in (53, 4222)),
    *(f"{kind} 169.254.1.1 {port}" for kind in ("tcp", "udp") for port in (53, 4222)),
    *(f"tcp {address} 80" for address in REFUSED),
    *(f"udp {address} 7" for address in REFUSED),
    "tcp 127.0.0.1 4222",
    "tcp 127.0.0.53 53",
    "tcp 0.0.0.0 4222",
    "tcp 240.0.0.1 80",
    "udp 224.0.0.1 7",
    "udp 255.255.255.255 7",
    f"tcp {WEB} 25",
    f"tcp {OTHER_RESOLVER} 53",
    f"tcp ::ffff:{MACHINE} 4222",
    "tcp ::ffff:10.9.9.9 80",
    f"tcp {SIX} 80",
    f"tcp {MACHINE_SIX} 4222",
    "tcp fe80::1%eth0 4222",
    "udp ff02::1%eth0 7",
    "tcp fd00::1 80",
    "tcp ::1 4222",
)


LISTENING = Call(argv=("sh", "-c", "httpd -p 8080 && nc 127.0.0.1 8080 </dev/null && echo up && exec sleep 600"))
"""A function that others would reach at port 8080."""


@pytest.fixture(scope="module")
def outside(prepared_host: None) -> Iterator[Outside]:
    """The world around this process."""
    with machine_and_outside() as there:
        yield there


@pytest.fixture(params=["native", "crun"])
def name(request: pytest.FixtureRequest) -> str:
    """The runtime of most of these tests."""
    runtime = str(request.param)
    need(runtime == "native" or shutil.which(runtime), runtime)
    return runtime


@pytest.mark.parametrize("driver", LOCAL)
async def test_what_is_reached_and_what_is_refused(
    driver: str, outside: Outside, rootfs: Path, state_dir: Path
) -> None:
    """
    The outside answers, as far as it has public addresses. Nothing else does: at once, by TCP. The outside sees the
    machine's address and no other.
    """
    need(driver == "native" or shutil.which(driver), driver)
    for address in REFUSED:
        socket.create_connection((address, 80), timeout=20).close()
    async with egress_world(driver, rootfs, state_dir) as world:
        began = time.monotonic()
        ends = await world.ends(*REACHED, *NOBODY, hopeless=NOBODY)
        took_s = time.monotonic() - began
        assert {attempt for attempt, end in ends.items() if end == "reached"} == set(REACHED)
        assert not [attempt for attempt, end in ends.items() if end == "silence" and attempt.startswith("tcp")]
        assert took_s < 10 * SCALE
        print(f"\n{driver}: {len(REACHED)} reached, {len(NOBODY)} refused, in {took_s:.2f} s")
    assert {sender for sender, _ in outside.heard} == {MACHINE}


@pytest.mark.parametrize("driver", LOCAL)
async def test_names_are_those_of_the_resolver(driver: str, outside: Outside, rootfs: Path, state_dir: Path) -> None:
    """A name leads where the operator's resolver says, but not to a private address; another resolver is refused."""
    need(driver == "native" or shutil.which(driver), driver)
    script = f"""
        cat /etc/resolv.conf
        wget -qO- http://{NAME}/ || echo failed
        nslookup -type=a private.{NAME} | grep -c 10.9.9.9
        wget -T 5 -qO- http://private.{NAME}/ || echo refused
        nslookup -type=a -timeout=1 -retry=1 {NAME} {OTHER_RESOLVER} >/dev/null 2>&1 || echo refused
        (echo nameserver {OTHER_RESOLVER} > /etc/resolv.conf) 2>/dev/null || echo read-only
    """
    async with egress_world(driver, rootfs, state_dir) as world:
        said = (await world.shell(script)).stdout.decode()
    assert said == (f'nameserver {RESOLVER}\n{{"id": "ch_1", "status": "done"}}1\nrefused\nrefused\nread-only\n')


async def test_a_function_cannot_change_its_network(name: str, outside: Outside, rootfs: Path, state_dir: Path) -> None:
    """Neither address, route, interface nor namespace; no raw socket; nothing is sent from a foreign address."""
    async with egress_world(name, rootfs, state_dir) as world:
        said = (await world.run("change_network")).stdout.decode().splitlines()
        shown = (await world.shell("ip -o addr; ip route; ls /sys/class/net /sys/fs/cgroup")).stdout.decode()
    assert len(said) == 14
    assert not [line for line in said if line.endswith("done")]
    assert "inet6 fe80" not in shown
    assert "eth0\nlo\n" in shown
    assert shown.rstrip().endswith("/sys/fs/cgroup:"), "the worker's own cgroups show"


async def test_a_foreign_source_goes_nowhere(name: str, outside: Outside, rootfs: Path, state_dir: Path) -> None:
    """What carries another address than its interface's is dropped, whoever got it there: here, the machine's root."""
    async with egress_world(name, rootfs, state_dir) as world, world.held() as container:
        assert isinstance(container, HeldContainer)
        assert container._network
        inside = ("nsenter", f"--net={container._network.path}")
        await world.at_rest()
        other = world.pool._ready[0].address
        for source in ("203.0.113.99", str(other)):
            lines_of(*inside, "ip", "address", "add", f"{source}/32", "dev", "eth0")
            datagram(inside, source, b"foreign")
        datagram(inside, address_of(container), b"honest")
        assert await asyncio.to_thread(outside.wait_for, b"honest") == MACHINE
    assert not [sender for sender, content in outside.heard if content == b"foreign"]


async def test_ipv6_goes_nowhere(name: str, outside: Outside, rootfs: Path, state_dir: Path) -> None:
    """Even where somebody gave the interface an address and both ends a way: here, the machine's root."""
    socket.create_connection((SIX, 80), timeout=20).close()
    outside.run("ip", "-6", "route", "replace", "2001:db8:2::/64", "via", MACHINE_SIX)
    async with egress_world(name, rootfs, state_dir) as world, world.held() as container:
        assert isinstance(container, HeldContainer)
        network = container._network
        assert network
        inside = ("nsenter", f"--net={network.path}")
        for prefix, interface, address in ((inside, "eth0", "2001:db8:2::2"), ((), network.interface, "2001:db8:2::1")):
            lines_of(*prefix, "sysctl", "-qw", f"net.ipv6.conf.{interface}.disable_ipv6=0")
            lines_of(*prefix, "ip", "address", "add", f"{address}/64", "dev", interface, "nodad")
        hardware = lines_of("ip", "-o", "link", "show", network.interface)[0].split("link/ether ")[1].split()[0]
        theirs = lines_of(*inside, "ip", "-o", "link", "show", "eth0")[0].split("link/ether ")[1].split()[0]
        lines_of(*inside, "ip", "neighbour", "add", "2001:db8:2::1", "lladdr", hardware, "dev", "eth0")
        lines_of("ip", "neighbour", "add", "2001:db8:2::2", "lladdr", theirs, "dev", network.interface)
        lines_of(*inside, "ip", "-6", "route", "add", "default", "via", "2001:db8:2::1")
        call = Call(argv=("reach",), stdin=f"tcp {SIX} 80 1000\ntcp {MACHINE_SIX} 4222 1000\n".encode())
        ending = await container.run(call, timeout_s=60 * SCALE)
    assert [line.split()[3] for line in ending.stdout.decode().splitlines()] == ["silence", "silence"]


def datagram(inside: tuple[str, ...], source: str, content: bytes) -> None:
    """Send one to the outside, from a namespace and an address in it."""
    code = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"s.bind(({source!r}, 0))\n"
        f"s.sendto({content!r}, ({WEB!r}, 7))\n"
    )
    subprocess.run([*inside, sys.executable, "-c", code], check=True)


async def test_functions_do_not_reach_each_other(name: str, outside: Outside, rootfs: Path, state_dir: Path) -> None:
    """A function that listens is reached by no other, whatever is allowed; not by its own machine; not from outside."""
    lists = policy(allow=("10.0.0.0/8",))
    async with egress_world(name, rootfs, state_dir, lists) as world, world.held() as server:
        running = asyncio.create_task(server.run(LISTENING, timeout_s=60 * SCALE))
        await spoken(server)
        address = address_of(server)
        ends = await world.ends(f"tcp {address} 8080", f"tcp {WEB} 80")
        assert ends.pop(f"tcp {WEB} 80") == "reached"
        assert "reached" not in ends.values()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(socket.create_connection, (address, 8080), timeout=20)
        dialled = "import errno, socket, sys; sys.exit(socket.socket().connect_ex((sys.argv[1], 8080)))"
        assert not await asyncio.to_thread(
            outside.run, sys.executable, "-c", dialled, address, status=errno.ECONNREFUSED
        )
        server.kill()
        await running


async def test_the_operators_lists(name: str, outside: Outside, rootfs: Path, state_dir: Path) -> None:
    """`allow` opens exactly what it names, `deny` closes exactly what it names, and `allow` is the stronger."""
    lists = policy(
        allow=("10.9.9.9:80", "192.168.0.0/16", f"{OTHER_RESOLVER}:53", f"{WEB}:8080", MACHINE),
        deny=(f"{WEB}:443", f"{WEB}:8080", "192.168.9.9"),
    )
    reached = (
        "tcp 10.9.9.9 80",
        "tcp 192.168.9.9 80",
        "udp 192.168.9.9 7",
        f"tcp {OTHER_RESOLVER} 53",
        f"tcp {WEB} 8080",
        f"tcp {WEB} 80",
    )
    refused = ("tcp 10.9.9.9 443", "udp 10.9.9.9 7", "tcp 172.16.9.9 80", f"tcp {WEB} 443", f"tcp {MACHINE} 4222")
    async with egress_world(name, rootfs, state_dir, lists) as world:
        ends = await world.ends(*reached, *refused, hopeless=refused)
    assert {attempt for attempt, end in ends.items() if end == "reached"} == set(reached)
    assert {end for attempt, end in ends.items() if attempt in refused} <= {"ECONNREFUSED", "EHOSTUNREACH"}


async def test_connections_of_one_function_are_bounded(
    name: str, outside: Outside, rootfs: Path, state_dir: Path
) -> None:
    """A function has FLOWS_MAX connections at most, and while it holds them another one has its own."""
    more = rules.FLOWS_MAX + 40
    async with egress_world(name, rootfs, state_dir) as world, world.held() as greedy:
        call = Call(argv=("reach", "hold", str(more), WEB, "80"))
        running = asyncio.create_task(greedy.run(call, timeout_s=60 * SCALE))
        await spoken(greedy)
        assert await world.ends(f"tcp {WEB} 80") == {f"tcp {WEB} 80": "reached"}
        greedy.kill()
        ending = await running
    assert int(ending.stdout) == rules.FLOWS_MAX


async def test_each_call_has_a_network_of_its_own(name: str, outside: Outside, rootfs: Path, state_dir: Path) -> None:
    """A namespace serves one call: the next has another one, another address, and no socket or port that was used."""
    script = "readlink /proc/self/ns/net; ip -o -4 addr show eth0; cat /proc/net/tcp /proc/net/udp | grep -vc local"
    async with egress_world(name, rootfs, state_dir) as world:
        said = []
        for _ in range(3 * world.pool._size):
            ending = await world.shell(f"{script}; nc {WEB} 80 </dev/null")
            said.append(ending.stdout.decode().splitlines())
        assert {line[2] for line in said} == {"0"}
        assert len({line[1] for line in said}) == len(said)
        assert not world.left()


async def test_the_images_resolv_conf_leads_nowhere(
    name: str, outside: Outside, rootfs: Path, state_dir: Path, tmp_path: Path
) -> None:
    """One that is a link, as many images have it, is followed inside the container only; nothing is made outside."""
    victim = tmp_path / "victim"
    victim.write_text("untouched\n")
    for number, link in enumerate((str(victim), f"../../../../../..{victim}", "/run/systemd/resolve/stub-resolv.conf")):
        image = copy_rootfs(rootfs, tmp_path / f"image-{number}")
        (image / "etc" / "resolv.conf").symlink_to(link)
        before = every_path(tmp_path)
        async with egress_world(name, image, state_dir) as world:
            try:
                said = (await world.shell("cat /etc/resolv.conf")).stdout.decode()
            except RuntimeFailed:
                said = "refused"
            assert not world.left()
        assert said in (f"nameserver {RESOLVER}\n", "refused")
        assert victim.read_text() == "untouched\n"
        assert every_path(tmp_path) == before


@pytest.mark.parametrize("protocol", [socket.IPPROTO_SCTP, 136])
async def test_connections_of_any_protocol_are_forgotten(
    protocol: int, name: str, outside: Outside, rootfs: Path, state_dir: Path
) -> None:
    """Where all of an address is allowed, so are SCTP and UDP-Lite: such connections go, and the address comes back."""
    async with egress_world(name, rootfs, state_dir) as world:
        async with world.held() as container:
            address = address_of(container)
            await asyncio.to_thread(make_flow, address, protocol)
            assert len(network_left().flows) == 1
        await world.at_rest()
        assert not network_left().flows
        assert address in {str(each) for each, _ in world.pool._addresses._used}


def make_flow(address: str, protocol: int) -> None:
    """Have the kernel know a connection of a function, as if it had seen one."""
    there = NFCTAttrTuple(saddr=address, daddr="10.9.9.9", proto=protocol, sport=1000, dport=7)
    with NFCTSocket() as flows:
        flows.entry("add", timeout=600, tuple_orig=there, tuple_reply=there.reverse())


def every_path(directory: Path) -> set[str]:
    """Everything below a directory, and what the machine has in /run/systemd."""
    return {str(path) for above in (directory, Path("/run/systemd")) for path in above.rglob("*")}


async def no_guard(pool: Pool) -> None:
    """Have nobody look for the rules, by a program with pipes, while descriptors are counted."""
    assert pool._guarding
    pool._guarding.cancel()
    await pool._in_thread(lambda: None)


async def test_nothing_is_left_of_fifty_calls(name: str, outside: Outside, rootfs: Path, state_dir: Path) -> None:
    """Namespaces, interfaces, routes, connections and descriptors: as before, though each call left a connection."""
    async with egress_world(name, rootfs, state_dir) as world:
        await asyncio.gather(*(world.run("true") for _ in range(5)))  # what is opened once and stays open has been
        await world.at_rest()
        await no_guard(world.pool)
        before, descriptors = network_left(), open_descriptors()
        for _ in range(10):
            await asyncio.gather(*(world.run("reach", "udp", WEB, "7") for _ in range(5)))
        await world.at_rest()
        async with asyncio.timeout(20 * SCALE):  # the kernel forgets a count once a second
            while "10.213." in "".join(lines_of("nft", "list", "set", "inet", world.pool.table, "flows")):
                await asyncio.sleep(0.05)
        after = network_left()
        assert len(after.interfaces) == len(before.interfaces) == world.pool._size
        assert len(after.routes) == len(after.mounts) == world.pool._size
        assert not after.flows
        assert open_descriptors() == descriptors
        assert not world.left()


async def test_a_killed_worker_leaves_nothing_for_the_next(
    name: str, outside: Outside, rootfs: Path, state_dir: Path
) -> None:
    """Its namespaces go with it. Its rules keep what still arrives from nobody, until the next start removes all."""
    async with killed_worker(rootfs, state_dir) as address:
        left = network_left()
        assert left.tables
        assert any(address in flow for flow in left.flows)
    async with egress_world(name, rootfs, state_dir) as world:
        assert not network_left().flows
        assert len(network_left().tables) == 1
        assert (await world.ends(f"tcp {WEB} 80")) == {f"tcp {WEB} 80": "reached"}


async def test_what_arrives_for_a_function_that_is_gone_goes_nowhere(
    name: str, outside: Outside, rootfs: Path, state_dir: Path
) -> None:
    """The machine sends it not on by its default route, to whoever has that address there; others' packets it does."""
    send = "import socket, sys; [socket.socket(2, 2).sendto(b'x', (to, 7)) for to in sys.argv[1:]]"
    async with egress_world(name, rootfs, state_dir):
        lines_of("nft", "add table ip seen; add chain ip seen leave { type filter hook postrouting priority 0; }")
        try:
            for address in ("10.213.99.99", "10.99.99.99"):
                lines_of("nft", f"add rule ip seen leave ip daddr {address} counter")
            outside.run(sys.executable, "-c", send, "10.213.99.99", "10.99.99.99")
            async with asyncio.timeout(20 * SCALE):
                while not (seen := packets_of(lines_of("nft", "list", "table", "ip", "seen")))[1]:
                    await asyncio.sleep(0.02)
        finally:
            lines_of("nft", "delete table ip seen")
    assert seen[0] == 0


def packets_of(lines: list[str]) -> list[int]:
    """What counters have counted."""
    return [int(line.split("packets ")[1].split()[0]) for line in lines if "packets" in line]


async def test_rules_of_a_killed_worker_go_where_egress_is_off_now(
    name: str, outside: Outside, rootfs: Path, state_dir: Path
) -> None:
    """A successor without egress removes them as well; and it refuses a function that wants it, saying why."""
    async with killed_worker(rootfs, state_dir):
        assert network_left().tables
    runtime = choose_runtime(name, state_dir=state_dir)
    try:
        await runtime.reap()
        assert not network_left().tables
        assert not runtime.offers_egress
        spec = replace(World(runtime, rootfs).spec(), network=Network.EGRESS)  # type: ignore[arg-type]
        with pytest.raises(RuntimeFailed, match="MAYFLY_EGRESS=on"):
            await runtime.create(spec)
    finally:
        await runtime.close()


def composed_capabilities() -> str:
    """What compose grants a worker with egress, for setpriv."""
    files = [yaml.safe_load((COMPOSE / name).read_text()) for name in ("compose.yaml", "compose.egress.yaml")]
    granted = [name for file in files for name in file["services"]["worker"]["cap_add"]]
    assert granted[-1] == "NET_ADMIN"
    return ",".join(("-all", *(f"+{name.lower()}" for name in granted)))


@asynccontextmanager
async def killed_worker(rootfs: Path, state_dir: Path) -> AsyncIterator[str]:
    """
    Kill a worker while a function of it is connected; when it is dead with all it had, give that function's address. It
    had the capabilities that compose grants, and no others.
    """
    need(shutil.which("setpriv"), "util-linux")
    program = ROOT / "tests" / "contract" / "egress_worker.py"
    paths = os.pathsep.join((str(ROOT), str(ROOT / "src")))
    with subprocess.Popen(
        ["setpriv", f"--bounding-set={composed_capabilities()}", "--", sys.executable, program, rootfs, state_dir],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    ) as process:
        assert process.stdout
        address = next(line.split()[1] for line in process.stdout if line.startswith("ready"))
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=20 * SCALE)
        async with asyncio.timeout(20 * SCALE):
            while network_left().interfaces:
                await asyncio.sleep(0.02)
        yield address


async def test_two_workers_on_one_machine(
    name: str, outside: Outside, rootfs: Path, state_dir: Path, other_state_dir: Path
) -> None:
    """They share nothing but the machine; with the same range the second one is refused, and the first goes on."""
    async with AsyncExitStack() as stack:
        runtime = choose_runtime(name, state_dir=state_dir, egress=policy(), slots=1)
        stack.push_async_callback(runtime.close)
        await runtime.reap()
        same = choose_runtime(name, state_dir=other_state_dir, egress=policy(), slots=1)
        try:
            with pytest.raises(RuntimeFailed, match="MAYFLY_EGRESS_ADDRESSES"):
                await same.reap()
        finally:
            await same.close()
        other = choose_runtime(name, state_dir=other_state_dir, egress=policy(addresses="10.214.0.0/16"), slots=1)
        stack.push_async_callback(other.close)
        await other.reap()
        for each in (runtime, other):
            world = EgressWorld(each, rootfs)  # type: ignore[arg-type]
            assert (await world.ends(f"tcp {WEB} 80", "tcp 10.9.9.9 80")) == {
                f"tcp {WEB} 80": "reached",
                "tcp 10.9.9.9 80": "ECONNREFUSED",
            }
        async with EgressWorld(other, rootfs).held() as container:  # type: ignore[arg-type]
            running = asyncio.create_task(container.run(LISTENING, timeout_s=60 * SCALE))
            await spoken(container)
            ends = await EgressWorld(runtime, rootfs).ends(f"tcp {address_of(container)} 8080")  # type: ignore[arg-type]
            assert "reached" not in ends.values()
            container.kill()
            await running
    assert not network_left()


async def test_others_rules_that_drop_are_named_and_the_remedy_helps(
    name: str, outside: Outside, rootfs: Path, state_dir: Path
) -> None:
    """With dockerd's FORWARD policy functions reach nothing; the start says so, and the page's two rules help."""
    need(shutil.which("iptables", path="/usr/sbin:/sbin:/usr/bin:/bin"), "iptables")
    attempt = f"tcp {WEB} 80"
    (remedy,) = commands("docs/howto/let-functions-reach-the-network.md", "Where another firewall forbids it")
    lines_of("sh", "-euc", "iptables -N DOCKER-USER; iptables -P FORWARD DROP; iptables -A FORWARD -j DOCKER-USER")
    try:
        with structlog.testing.capture_logs() as logs:
            async with egress_world(name, rootfs, state_dir) as world:
                assert [each["chain"] for each in logs if each["event"] == "egress.others-drop"] == [
                    "ip filter FORWARD"
                ]
                lines_of("sh", "-euc", remedy.replace("sudo ", ""))
                assert await world.ends(attempt) == {attempt: "reached"}
    finally:
        lines_of("nft", "delete table ip filter")


async def test_a_machine_that_does_not_forward_is_refused(
    name: str, outside: Outside, rootfs: Path, state_dir: Path
) -> None:
    """Before the first call, with the remedy; and nothing is left of the attempt."""
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    forwarding.write_text("0")
    runtime = choose_runtime(name, state_dir=state_dir, egress=policy(), slots=1)
    try:
        with pytest.raises(RuntimeFailed, match=r"sysctl -w net\.ipv4\.ip_forward=1"):
            await runtime.reap()
    finally:
        forwarding.write_text("1")
        await runtime.close()
    assert not network_left()


async def test_without_an_address_a_call_is_told_so(name: str, outside: Outside, rootfs: Path, state_dir: Path) -> None:
    """When no namespace can be made a call ends with the reason, at once; and the next has one when there is one."""
    async with egress_world(name, rootfs, state_dir, policy(addresses="10.213.0.0/30"), slots=1) as world:
        first, second = await world.create(), await world.create()
        with pytest.raises(RuntimeFailed, match="MAYFLY_EGRESS_ADDRESSES"):
            async with asyncio.timeout(20 * SCALE):
                await world.create()
        assert len(network_left().interfaces) == 2
        await first.remove()
        await second.remove()


async def test_a_worker_without_descriptors_gives_networks_again_when_it_has_some(
    name: str, outside: Outside, rootfs: Path, state_dir: Path
) -> None:
    """A call is told so at once meanwhile, and does not wait for what never comes; the next one has a network."""
    async with egress_world(name, rootfs, state_dir, slots=1) as world:
        await world.at_rest()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        # As many as are open for good: with fewer than it is given, poll(2) fails, on which the servers outside wait.
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            first = await world.pool.take()
            async with asyncio.timeout(20 * SCALE):
                with pytest.raises(RuntimeFailed, match="Too many open files"):
                    await world.pool.take()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        world.pool.retire(first)
        await world.at_rest()
        assert await world.ends(f"tcp {WEB} 80") == {f"tcp {WEB} 80": "reached"}


@pytest.mark.parametrize(
    "command",
    [
        "flush ruleset",
        "flush table inet {table}",
        "flush chain inet {table} to_this_machine",
        "insert rule inet {table} to_others accept",
        "add table inet {table} {{ flags dormant; }}",
    ],
    ids=lambda command: command.replace("inet {table} ", ""),
)
async def test_rules_that_somebody_flushed_come_back(
    command: str, name: str, outside: Outside, rootfs: Path, state_dir: Path
) -> None:
    """
    A restart of nftables.service removes everybody's, somebody else's program may change one of ours; soon they are as
    they were, for what is connected as well.
    """
    attempt = f"tcp {MACHINE} 4222"
    async with egress_world(name, rootfs, state_dir) as world, world.held() as container:
        loaded = lines_of("nft", "-st", "list", "table", "inet", world.pool.table)
        await asyncio.to_thread(make_flow, address_of(container), socket.IPPROTO_TCP)
        lines_of("nft", *shlex.split(command.format(table=world.pool.table)))
        async with asyncio.timeout(20 * SCALE):
            while network_left().flows or not network_left().tables:
                await asyncio.sleep(0.05)
        assert lines_of("nft", "-st", "list", "table", "inet", world.pool.table) == loaded
        assert (await world.ends(attempt)) == {attempt: "ECONNREFUSED"}


async def test_rules_that_nobody_touched_are_left_alone(
    name: str, outside: Outside, rootfs: Path, state_dir: Path
) -> None:
    """What packets change in the table is no change of it: no connection breaks while functions use the network."""
    async with egress_world(name, rootfs, state_dir) as world, world.held() as container:
        await world.ends(f"tcp {WEB} 80")
        await asyncio.to_thread(make_flow, address_of(container), socket.IPPROTO_TCP)
        assert not await world.pool._in_thread(world.pool._restore_rules)
        assert network_left().flows


@pytest.mark.long
async def test_figures(name: str, outside: Outside, rootfs: Path, state_dir: Path) -> None:
    """
    Print what a network costs: to make and to remove one, and a call with it beside one without, one after the other.
    The machine decides the figures; only the ratio is asserted, generously.
    """
    async with egress_world(name, rootfs, state_dir, slots=8) as world:
        await world.at_rest()
        made, removed = await making_and_removing(world.pool)
        plain: list[float] = []
        with_network: list[float] = []
        for _ in range(40):
            for spec, times in ((World.spec(world), plain), (world.spec(), with_network)):
                await world.at_rest()
                began = time.perf_counter()
                container = await world.create(spec)
                await container.run(Call(argv=("true",)), timeout_s=20)
                times.append(time.perf_counter() - began)
                await container.remove()
        rates = {name: await rate(world, name) for name in (Network.NONE, Network.EGRESS)}
    for what, values in (("made", made), ("removed", removed), ("call, none", plain), ("call, egress", with_network)):
        centiles = statistics.quantiles(values, n=20)
        print(f"{what:14} p50 {1e3 * statistics.median(values):5.1f} ms   p95 {1e3 * centiles[18]:5.1f} ms")
    ratio = statistics.median(with_network) / statistics.median(plain)
    print(f"a call with a network takes {ratio:.2f} times that without")
    print(f"4 at once: none {rates[Network.NONE]:.0f}/s, egress {rates[Network.EGRESS]:.0f}/s")
    assert ratio < 2


async def making_and_removing(pool: Pool, times: int = 30) -> tuple[list[float], list[float]]:
    """How long it takes to make a namespace, and until the kernel has removed it and its connections."""
    made, removed = [], []
    for _ in range(times):
        namespace = await pool.take()
        began = time.perf_counter()
        while len(pool._ready) < pool._size:
            await asyncio.sleep(0.0005)
        made.append(time.perf_counter() - began)
        began = time.perf_counter()
        await pool._retire(namespace)
        removed.append(time.perf_counter() - began)
    return made, removed


async def rate(world: EgressWorld, network: Network, calls: int = 100, at_once: int = 4) -> float:
    """Calls a second, *at_once* at a time."""
    left = iter(range(calls))

    async def caller() -> None:
        for _ in left:
            await world.run("true", spec=replace(world.spec(), network=network))

    await world.at_rest()
    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    return calls / (time.perf_counter() - began)
