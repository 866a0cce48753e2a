"""Three real nats-servers with the generated files: TLS everywhere, three copies of everything, one of them dead."""

from __future__ import annotations

import asyncio
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from mayfly.bus import connection
from mayfly.bus.connection import Bus
from mayfly.bus.patience import UNANSWERED, patiently
from mayfly.bus.queue import SubmitUnknown, in_flight, submit
from mayfly.bus.requests import OWNS_TIMEOUT_S, Ownership, answering_owner, ask_owner
from mayfly.bus.schema import ACK_WAIT_S
from mayfly.bus.store import Store
from mayfly.bus.subjects import ACT, ACT_CONSUMER, BUCKETS, FUNCTIONS, kv_stream
from mayfly.domain.errors import QueueUnavailable
from mayfly.domain.function import Function
from mayfly.domain.ids import FunctionName, new_id
from mayfly.ops.certificates import Authority
from mayfly.ops.secrets import Owners
from mayfly.ops.secrets_rotation import rotate
from tests.integration.bus.test_queue import Puller, _work_of
from tests.integration.bus.test_store import a_function
from tests.support.cluster import Cluster, cluster
from tests.support.rounds import in_one_round

pytestmark = [pytest.mark.A3, pytest.mark.A4, pytest.mark.D4]

FAILOVER_S = 30.0


@pytest.fixture
async def nats() -> AsyncIterator[Cluster]:
    """A fresh cluster of three."""
    async with cluster() as made:
        yield made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up connecting after 3 s instead of 10."""
    monkeypatch.setattr(connection, "CONNECT_S", 3.0)


async def a_call(api: Bus, worker: Puller, *, broken_off: set[str] | None = None) -> str:
    """
    What a call does on the bus: a record, an admission, a claim, two compare-and-sets, an ack. Of those *broken_off*
    before, to which it adds itself while it is under way, the work may come first; nobody else's may come at all.
    """
    work = _work_of(new_id())
    earlier = set(broken_off or ())
    if broken_off is not None:
        broken_off.add(work.ulid)
    store = Store(api, FUNCTIONS, Function)
    function = a_function(work.user_id)
    revision = await store.create(function.key, function)
    await submit(api, work, wait_s=1)
    while (claim := await worker.next()).work.ulid in earlier:
        await worker.finish(claim)
    assert claim.work.ulid == work.ulid
    revision = await store.update(function.key, replace(function, name=FunctionName("running")), revision=revision)
    await store.update(function.key, replace(function, name=FunctionName("done")), revision=revision)
    await worker.finish(claim)
    entry = await store.get(function.key)
    assert entry is not None
    assert entry.value.name == "done"
    return work.ulid


async def test_everything_has_three_copies(nats: Cluster) -> None:
    """Each stream, each bucket and the consumer have a leader and two followers that are up to date."""
    async with nats.connect("admin") as bus:
        for name in ("ACT", "RESPONSES", "AUDIT", *map(kv_stream, BUCKETS)):
            info = await bus.js.stream_info(name)
            assert info.config.num_replicas == 3, name
            assert info.cluster is not None
            assert len(info.cluster.replicas or ()) == 2, name
        consumer = await bus.js.consumer_info("ACT", "workers")
        assert consumer.cluster is not None
        assert len(consumer.cluster.replicas or ()) == 2


async def test_the_end_of_a_connection_warns_of_nothing(nats: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """Neither we nor a server that ends a TLS connection make asyncio warn of what nobody can change."""
    async with nats.connect("admin"):
        pass
    async with nats.connect("admin") as bus:
        assert bus.client.connected_url is not None
        port = bus.client.connected_url.port
        await next(node for node in nats.nodes if node.port == port).end(signal.SIGTERM)
        async with asyncio.timeout(FAILOVER_S):
            while not bus.reconnects:
                await asyncio.sleep(0.05)
    assert "eof_received" not in caplog.text


async def test_routes_are_tls_between_the_three_and_nobody_else(nats: Cluster) -> None:
    """Each server is linked to both others, and a route's port takes no clear text and no certificate of a stranger."""
    for node in nats.nodes:
        await node.until_linked({"nats-1", "nats-2", "nats-3"} - {node.name})
    node = nats.nodes[0]
    api = nats.secrets / "api"
    ours = ssl.create_default_context(cafile=api / "ca.crt")
    for certificate in (None, (api / "api.crt", api / "api.key")):
        if certificate:
            ours.load_cert_chain(*certificate)
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await said_over_tls(node.route_port, ours)
    ours.load_cert_chain(nats.nodes[1].directory / "nats.crt", nats.nodes[1].directory / "nats.key")
    assert b"INFO" in await said_over_tls(node.route_port, ours)


async def said_over_tls(port: int, context: ssl.SSLContext) -> bytes:
    """Connect, and return the first thing that the other side says."""
    reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
    try:
        async with asyncio.timeout(5):
            return await reader.readexactly(4)
    finally:
        writer.close()


async def test_clear_text_is_answered_with_nothing(nats: Cluster) -> None:
    """Whoever does not begin with TLS learns nothing from the clients' port, not even that it is NATS."""
    reader, writer = await asyncio.open_connection("127.0.0.1", nats.nodes[0].port)
    writer.write(b'CONNECT {"user":"admin","pass":"x"}\r\nPING\r\n')
    async with asyncio.timeout(15):
        said = await reader.read()
    writer.close()
    assert b"INFO" not in said
    assert b"PONG" not in said


@pytest.mark.usefixtures("impatient")
async def test_a_client_without_the_authority_is_refused(nats: Cluster, tmp_path: Path) -> None:
    """A client that trusts another authority, or the system's, does not connect, and sends no password."""
    authority = Authority(tmp_path)
    authority.ensure()
    for ca_file in (tmp_path / "ca.crt", None):
        with pytest.raises(QueueUnavailable, match="certificate verify failed"):
            async with nats.connect("api", nats_ca_file=ca_file):
                pytest.fail("connected")
    async with nats.connect("api") as bus:
        assert bus.is_connected


@pytest.mark.usefixtures("impatient")
async def test_a_client_without_the_password_is_refused(nats: Cluster, tmp_path: Path) -> None:
    """A wrong password and none are refused, with the server's words; a file that is not there is said at once."""
    wrong = tmp_path / "password"
    wrong.write_text("wrong")
    for given in ({"nats_password_file": wrong}, {"nats_password_file": None}, {"nats_user": ""}):
        with pytest.raises(QueueUnavailable, match="Authorization Violation"):
            async with nats.connect("api", **given):
                pytest.fail("connected")
    with pytest.raises(QueueUnavailable, match=r"MAYFLY_NATS_PASSWORD_FILE.*No such file"):
        async with nats.connect("api", nats_password_file=tmp_path / "nothing"):
            pytest.fail("connected")
    with pytest.raises(QueueUnavailable, match=r"MAYFLY_NATS_CA_FILE.*no certificates"):
        async with nats.connect("api", nats_ca_file=wrong):
            pytest.fail("connected")


@pytest.mark.usefixtures("impatient")
async def test_nobody_in_between_talks_a_client_out_of_tls(nats: Cluster) -> None:
    """A server that says it has no TLS, as an attacker would, gets no password from a client that was told `tls://`."""
    got = bytearray()

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.15.1","max_payload":4000000,"auth_required":true}\r\n')
        got.extend(await reader.read(4096))
        writer.close()

    async with await asyncio.start_server(pretend, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(QueueUnavailable):
            async with nats.connect("api", nats_url=f"tls://localhost:{port}"):
                pytest.fail("connected")

    assert got.startswith(b"\x16\x03"), "a TLS handshake"
    assert (nats.secrets / "api/nats.password").read_bytes() not in got


async def test_a_call_goes_through_three_copies(nats: Cluster) -> None:
    """Record, admission, claim, compare-and-sets and ack work on R3, and the slot comes back."""
    async with nats.connect("api") as api, nats.connect("worker") as worker_bus:
        worker = Puller(worker_bus, slots=2)
        for _ in range(3):
            await a_call(api, worker)
        async with asyncio.timeout(5):
            while await in_flight(api):
                await asyncio.sleep(0.01)
        await worker.stop()


async def test_a_worker_is_asked_from_any_server(nats: Cluster) -> None:
    """Over routes and accounts a worker answers API servers and workers that are connected elsewhere, and one that is
    not there is known to be gone at once, not after a time-out."""
    first, second, third = nats.nodes
    async with (
        nats.connect("worker", nats_url=first.url) as worker,
        nats.connect("api", nats_url=second.url) as api,
        nats.connect("worker", nats_url=third.url) as other,
    ):
        async with answering_owner(worker, "w", lambda key: key == "mine"):
            for bus in (api, other):
                await until_it_is(Ownership.OWNED, bus)
                assert await ask_owner(bus, "w", "another's") is Ownership.DENIED
        for bus in (api, other):
            await until_it_is(Ownership.GONE, bus)
            began = asyncio.get_running_loop().time()
            assert await ask_owner(bus, "nobody", "mine") is Ownership.GONE
            assert asyncio.get_running_loop().time() - began < OWNS_TIMEOUT_S


async def until_it_is(meant: Ownership, bus: Bus) -> None:
    """Ask until it is so: interest takes a moment from server to server."""
    async with asyncio.timeout(10):
        while await ask_owner(bus, "w", "mine") is not meant:
            await asyncio.sleep(0.01)


A_WORKER = """
import asyncio, pathlib, sys
from mayfly.bus.connection import connect
from mayfly.bus.queue import PullLoop
from mayfly.settings import NatsSettings

async def main(url, password, ca):
    settings = NatsSettings(nats_url=url, nats_user="worker", nats_password_file=password, nats_ca_file=ca)
    async with connect(settings, role="worker") as bus:
        await PullLoop(bus, free_slots=lambda: 4, on_claim=print).run()

asyncio.run(main(*sys.argv[1:]))
"""


async def waiting_pulls(admin: Bus) -> int:
    """How many pulls the consumer's leader knows of."""
    info = await patiently(partial(admin.js.consumer_info, ACT, ACT_CONSUMER), also=UNANSWERED)
    return info.num_waiting or 0


async def until_pulls(admin: Bus, number: int, *, within_s: float) -> None:
    """Wait until the leader knows of so many."""
    async with asyncio.timeout(within_s):
        while await waiting_pulls(admin) != number:
            await asyncio.sleep(0.02)


async def both_come_at_once(nats: Cluster, api: Bus) -> None:
    """Two calls reach a worker long before they would be delivered again."""
    async with nats.connect("worker") as bus:
        for _ in range(2):
            await submit(api, _work_of(new_id()), wait_s=0)
        worker = Puller(bus, slots=4)
        for _ in range(2):
            async with asyncio.timeout(ACK_WAIT_S / 4):
                await worker.finish(await worker.next())
        await worker.stop()


async def test_a_worker_that_stops_leaves_no_pull_behind(nats: Cluster) -> None:
    """Whichever server it was connected to, the calls that come after it go to others at once."""
    async with nats.connect("admin") as admin:
        for node in nats.nodes:
            async with nats.connect("worker", nats_url=node.url) as bus:
                worker = Puller(bus, slots=4)
                await until_pulls(admin, 1, within_s=5)
                await worker.stop()
                assert await waiting_pulls(admin) == 0
            await both_come_at_once(nats, admin)


async def killed_worker_is_forgotten_s(admin: Bus, *arguments: str) -> float:
    """How long the pull of a killed worker is still waiting."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", A_WORKER, *arguments)
    try:
        await until_pulls(admin, 1, within_s=10)
    finally:
        process.kill()
        await process.wait()
    began = time.monotonic()
    await until_pulls(admin, 0, within_s=10)
    return time.monotonic() - began


async def test_a_dead_workers_pull_is_soon_forgotten(nats: Cluster) -> None:
    """Whichever server a killed worker was connected to, calls that come 2 s later go to others at once."""
    access = nats.access("worker")
    async with nats.connect("admin") as admin:
        for node in nats.nodes:
            arguments = (node.url, access["nats_password_file"], access["nats_ca_file"])
            await in_one_round(partial(killed_worker_is_forgotten_s, admin, *map(str, arguments)), below_s=2)
            await both_come_at_once(nats, admin)


async def test_a_worker_deletes_nothing_by_its_replies(nats: Cluster) -> None:
    """Whichever server it hangs on, an answer that it has sent to a forbidden subject does nothing there."""
    async with nats.connect("admin") as admin, nats.connect("api") as api:
        before = {info.config.name for info in await admin.js.streams_info()}
        for node in nats.nodes:
            async with nats.connect("worker", nats_url=node.url) as worker:
                claims = Puller(worker, slots=1)
                await submit(api, _work_of(new_id()), wait_s=1)
                claim = await claims.next()
                for name in before:
                    reply = f"$JS.API.STREAM.DELETE.{name}"
                    await worker.client.publish(claim._message.reply, b"+WPI", reply=reply)
                    await worker.client.publish(claims.loop._next, b'{"batch":1,"no_wait":true}', reply=reply)
                await claims.finish(claim)
                await claims.stop()
        await admin.client.publish(claim._message.reply, b"+WPI", reply="$JS.API.STREAM.DELETE.KV_places")  # it can
        async with asyncio.timeout(10):
            while "KV_places" in (after := {info.config.name for info in await admin.js.streams_info()}):
                await asyncio.sleep(0.05)
        assert after == before - {"KV_places"}


async def test_with_one_server_dead_it_goes_on(nats: Cluster) -> None:
    """After kill -9 of the server that both clients hang on, they are on another one and calls pass again."""
    async with nats.connect("api") as api, nats.connect("worker") as worker_bus:
        worker = Puller(worker_bus, slots=2)
        await a_call(api, worker)
        connected = api.client.connected_url
        assert connected is not None
        victim = next(node for node in nats.nodes if node.port == connected.port)

        await victim.end(signal.SIGKILL)

        broken_off: set[str] = set()
        async with asyncio.timeout(FAILOVER_S):
            while True:
                try:
                    await a_call(api, worker, broken_off=broken_off)
                    break
                except (QueueUnavailable, SubmitUnknown, TimeoutError):
                    await asyncio.sleep(0.2)
        assert api.reconnects >= 1
        assert not api.closed.is_set()
        victim.start()
        await nats.until_ready()
        await a_call(api, worker, broken_off=broken_off)
        await worker.stop()


async def test_passwords_are_changed_under_way(nats: Cluster) -> None:
    """After `rotate nats-passwords` and a rolling restart the same connections go on with the new passwords."""
    old = (nats.secrets / "api/nats.password").read_text()
    async with nats.connect("api") as api:
        rotate(nats.secrets, "nats-passwords", Owners())
        nats.adapt()
        for node in nats.nodes:
            await node.end(signal.SIGTERM)
            node.start()
            await nats.until_ready()

        async with asyncio.timeout(FAILOVER_S):
            while not api.is_connected:
                await asyncio.sleep(0.05)
        await submit(api, _work_of(new_id()), wait_s=1)

        assert api.reconnects >= 1
        assert not api.closed.is_set()
    assert (nats.secrets / "api/nats.password").read_text() != old


async def test_certificates_are_changed_under_way(nats: Cluster) -> None:
    """After `rotate certificates` and a rolling restart the servers have found each other, and clients them."""
    before = {node.name: (node.directory / "nats.crt").read_bytes() for node in nats.nodes}
    async with nats.connect("api") as api:
        rotate(nats.secrets, "certificates", Owners())
        for node in nats.nodes:
            assert (node.directory / "nats.crt").read_bytes() != before[node.name]
            await node.end(signal.SIGTERM)
            node.start()
            await nats.until_ready()
        await submit(api, _work_of(new_id()), wait_s=1)
        assert api.is_connected
