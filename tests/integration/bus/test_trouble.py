"""
Trouble with NATS, through the real API server process and the real worker: whatever happens to the connection or the
server, waits are bounded, what is refused has not run, nothing runs twice, and afterwards it works again by itself.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from nats.aio.client import Client
from nats.errors import FlushTimeoutError, MaxPayloadError, NoRespondersError
from structlog.testing import capture_logs

from mayfly.bus.client import HEADERS_MAX_BYTES
from mayfly.bus.connection import Bus
from mayfly.bus.queue import in_flight
from mayfly.bus.requests import answering_owner
from mayfly.bus.stores import Stores
from mayfly.bus.subjects import ACT, ACTIVATIONS, RESPONSES, kv_stream
from mayfly.containers.fake import ending
from mayfly.domain.errors import QueueUnavailable
from mayfly.domain.function import COMMAND_MAX_BYTES, ENV_MAX_BYTES
from mayfly.domain.limits import MIB, STDERR_MAX_BYTES
from mayfly.ops.supervisor import Child, ChildSpec
from mayfly.services.tokens import write_new_key
from tests.support.api import PROGRAM, make_certificates
from tests.support.bus import Installation, installation
from tests.support.cluster import Cluster, Node, cluster
from tests.support.nats import free_port
from tests.support.need import need
from tests.support.whole import FUNCTION, Whole, assert_refused, whole
from tests.support.wire import Wire
from tests.support.world import World

pytestmark = [
    pytest.mark.A3,
    pytest.mark.F9,
    pytest.mark.F12,
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # of nats-py, which a frozen server has kept waiting
]

REFUSED_WITHIN_S = 25.0  # two waits for a leader: one for the record, one for the record's withdrawal
REFUSED_SOONER_S = 14.0  # one: for the session; no record is made any more
CALLS = 24
SLOTS = 8


@pytest.fixture
async def nats() -> AsyncIterator[Installation]:
    """A server with room for all calls of a test."""
    async with installation(max_activations=64, max_activations_per_user=64) as made:
        yield made


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collect nats-py's connections here, and not in somebody else's test."""
    yield
    gc.collect()


async def call_often(
    system: Whole, count: int = CALLS, *, every_s: float = 0.02, name: str = "call"
) -> dict[bytes, httpx.Response]:
    """Call again and again, each time with another parameter; the answers by parameter."""

    async def call(number: int) -> tuple[bytes, httpx.Response]:
        await asyncio.sleep(number * every_s)
        parameter = f"{name} {number}".encode()
        return parameter, await system.call(parameter)

    return dict(await asyncio.gather(*map(call, range(count))))


def assert_honest(system: Whole, answers: dict[bytes, httpx.Response]) -> Counter[int]:
    """Each answer says what was so: a result is complete, what `ran: no` says has not run, and nothing ran twice."""
    started = Counter(system.started)
    assert not [parameter for parameter, times in started.items() if times > 1]
    for parameter, answer in answers.items():
        if answer.status_code == 200:
            assert answer.content == parameter
            assert started[parameter] == 1
        elif answer.json()["ran"] == "no":
            assert started[parameter] == 0, answer.text
        else:
            assert answer.json()["ran"] == "unknown", answer.text
        assert answer.status_code in (200, 502, 503, 504), answer.text
    return Counter(answer.status_code for answer in answers.values())


async def test_disconnect(nats: Installation, tmp_path: Path) -> None:
    """While API server and worker are cut off from NATS a call under way goes on, and is answered once they are back;
    one that comes meanwhile waits or is refused; each runs at most once."""
    async with Wire(nats) as wire, whole(wire, tmp_path) as system:
        system.runtime.gate.clear()
        running = asyncio.create_task(system.call(b"under way"))
        await system.until_running(1)
        wire.cut()
        await system.api.event("nats.disconnected")
        system.runtime.gate.set()
        await system.until_running(0)
        meanwhile = asyncio.create_task(call_often(system, 4))
        done, _ = await asyncio.wait({running, meanwhile}, timeout=1.0)
        assert not done
        await wire.mend()

        assert (await running).content == b"under way"
        assert_honest(system, await meanwhile)
        await system.until_it_works()
        assert system.started.count(b"under way") == 1


async def test_a_long_disconnect_refuses(nats: Installation, tmp_path: Path) -> None:
    """Who calls while NATS cannot be reached for longer is told so in bounded time, with when to come again; nothing
    ran; and when it is back, calls succeed by themselves."""
    async with Wire(nats) as wire, whole(wire, tmp_path) as system:
        wire.cut()
        await system.api.event("nats.disconnected")
        began = time.monotonic()
        refused = await system.call(b"refused")
        assert_refused(refused)
        assert time.monotonic() - began < REFUSED_WITHIN_S
        await wire.mend()

        await system.until_it_works()
        assert system.started == [b"again"]


async def test_restart(nats: Installation, tmp_path: Path) -> None:
    """nats-server is killed and started again under calls that come and calls that run: every answer is honest, and
    afterwards nothing is in flight."""
    async with whole(nats, tmp_path, slots=SLOTS) as system:
        system.runtime.gate.clear()
        running = asyncio.create_task(system.call(b"under way"))
        await system.until_running(1)
        coming = asyncio.create_task(call_often(system))
        async with asyncio.timeout(20):
            await system.runtime.wait_until(lambda runtime: runtime.running >= 3)
        await nats.server.kill()
        system.runtime.gate.set()
        await system.until_running(0)
        await nats.server.start()

        answers = await coming
        assert (await running).content == b"under way"
        assert assert_honest(system, answers)[200] > 0
        await system.until_it_works()
        async with nats.connect("admin") as bus:
            await until_empty(bus)


async def test_frozen_server(nats: Installation, tmp_path: Path) -> None:
    """nats-server stops answering, though connections stay: a call under way is answered when it goes on, one that
    comes is refused in bounded time, and later ones sooner; each runs at most once."""
    async with whole(nats, tmp_path, slots=SLOTS) as system:
        system.runtime.gate.clear()
        running = asyncio.create_task(system.call(b"under way"))
        await system.until_running(1)
        nats.server.freeze()

        async def timed_call() -> tuple[httpx.Response, float]:
            began = time.monotonic()
            return await system.call(b"coming"), time.monotonic() - began

        coming = asyncio.create_task(timed_call())
        system.runtime.gate.set()
        await system.until_running(0)
        await system.api.event("room.closed")
        closed = time.monotonic()
        assert_refused(await system.call(b"later"))
        assert time.monotonic() - closed < REFUSED_SOONER_S
        came, took_s = await coming
        assert came.status_code == 503
        assert took_s < REFUSED_WITHIN_S
        nats.server.thaw()

        assert (await running).content == b"under way"
        await system.until_it_works()
        assert_honest(system, {b"under way": await running, b"coming": came})
        assert b"later" not in system.started


async def test_a_short_freeze_costs_time_and_no_errors(nats: Installation, tmp_path: Path) -> None:
    """What stands still for three seconds is waited for: every call succeeds, once."""
    async with whole(nats, tmp_path, slots=SLOTS) as system:
        coming = asyncio.create_task(call_often(system, 8))
        await asyncio.sleep(0.1)
        nats.server.freeze()
        await asyncio.sleep(3)
        nats.server.thaw()

        assert assert_honest(system, await coming) == {200: 8}


@pytest.mark.D4
async def test_leader_change(tmp_path: Path) -> None:
    """In a cluster of three the leaders of queue, responses and records step down, and then the server that leads the
    queue is killed, under calls: every answer is honest, most are results, and nothing stays in flight."""
    async with (
        cluster(max_activations=64, max_activations_per_user=64) as nats,
        whole(nats, tmp_path, slots=SLOTS) as system,
        nats.connect("admin") as bus,
    ):
        coming = asyncio.create_task(call_often(system, every_s=0.1))
        for stream in (ACT, RESPONSES, kv_stream(ACTIVATIONS)):
            await bus.client.request(f"$JS.API.STREAM.LEADER.STEPDOWN.{stream}", b"", timeout=5)
        stepped_down = await coming
        coming = asyncio.create_task(call_often(system, every_s=0.1, name="later"))
        victim = await leader_of(nats, bus, ACT)
        await victim.end(signal.SIGKILL)
        killed = await coming

        assert assert_honest(system, stepped_down)[200] == CALLS
        assert assert_honest(system, killed)[200] > CALLS // 2
        await system.until_it_works()
        await until_empty(bus)


async def leader_of(nats: Cluster, bus: Bus, stream: str) -> Node:
    """The server that leads a stream."""
    async with asyncio.timeout(10):
        while True:
            info = (await bus.js.stream_info(stream)).cluster
            if info and info.leader:
                return next(node for node in nats.nodes if node.name == info.leader)


async def until_empty(bus: Bus) -> None:
    """Wait until nothing is in flight; a call that was broken off is settled by the janitor."""
    async with asyncio.timeout(40):
        while await in_flight(bus):
            await asyncio.sleep(0.1)


async def test_max_payload(nats: Installation, tmp_path: Path) -> None:
    """The largest parameter of the largest function, with the largest result and the longest log, goes through; and
    what would be too large for nats-server is refused before it is sent, so the connection lives on."""
    async with whole(nats, tmp_path) as system:
        largest = {
            **FUNCTION,
            "name": "largest",
            "command": ["x" * (COMMAND_MAX_BYTES - 1000)],
            "env": {"A": "y" * (ENV_MAX_BYTES - 1000)},
        }
        answer = await system.client.post("/v1/functions", json=largest)
        assert answer.status_code == 201, answer.text
        system.runtime.script = lambda *_: replace(ending(b"r" * MIB), stderr=b"z" * STDERR_MAX_BYTES)
        answer = await system.client.post("/v1/functions/largest/activations", content=b"p" * MIB)
        assert (answer.status_code, len(answer.content)) == (200, MIB)
        logs = await system.client.get(f"/v1/activations/{answer.headers['Mayfly-Activation-Id']}/logs")
        assert len(logs.content) == STDERR_MAX_BYTES
        assert system.worker_bus.reconnects == 0

    async with nats.connect("worker") as bus:
        for size in (bus.client.max_payload, bus.client.max_payload - HEADERS_MAX_BYTES + 1):
            with pytest.raises(MaxPayloadError):
                await bus.js.publish("response.a.b.c", b"x" * size, headers={"Nats-Msg-Id": "x" * 500})
        await bus.client.flush()
        assert (bus.is_connected, bus.closed.is_set(), bus.reconnects) == (True, False, 0)


async def test_messages_that_nobody_hears(nats: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """When none of the messages that an API server listens for comes through, callers are answered all the same: record
    and response are read from the streams."""
    lost: Counter[bytes] = Counter()
    async with nats.connect("api") as bus:
        process = bus.client._process_msg

        async def lose(sid: int, subject: bytes, *message: Any) -> None:
            if subject.startswith((b"done.", b"response.")):
                lost[subject.partition(b".")[0]] += 1
            else:
                await process(sid, subject, *message)

        monkeypatch.setattr(bus.client, "_process_msg", lose)
        world = World(nats, bus)
        async with world.listener.listening(bus), world.worker(slots=SLOTS):
            function = await world.function()
            results = await asyncio.gather(*(world.invoke(function, str(number).encode()) for number in range(SLOTS)))

            assert results == [str(number).encode() for number in range(SLOTS)]
            assert lost[b"response"] == SLOTS
            assert lost[b"done"] >= 3 * SLOTS
            assert len(world.runtime.calls) == SLOTS


async def test_slow_consumer(nats: Installation) -> None:
    """What comes faster than it is dealt with is dropped, counted and said once; the connection goes on."""
    async with nats.connect("admin") as bus, nats.connect("admin") as other:
        may_go_on, heard = asyncio.Event(), 0

        async def hear(_: object) -> None:
            nonlocal heard
            heard += 1
            await may_go_on.wait()

        await bus.client.subscribe("much", cb=hear, pending_msgs_limit=3)
        await bus.client.flush()
        with capture_logs() as logs:
            for _ in range(10):
                await other.client.publish("much", b"x")
            await other.client.flush()
            await bus.client.flush()
            may_go_on.set()
            await bus.client.flush()

        assert bus.watch.dropped >= 6, "one is dealt with, three wait"
        assert heard + bus.watch.dropped == 10
        assert [line["event"] for line in logs] == ["nats.dropped"]
        assert (await bus.js.account_info()).storage >= 0
        assert bus.reconnects == 0


@pytest.mark.parametrize("error", [None, NoRespondersError], ids=["answer", "nobody-there"])
async def test_a_cancellation_that_comes_with_an_answer_is_heard(
    nats: Installation, monkeypatch: pytest.MonkeyPatch, error: type[Exception] | None
) -> None:
    """A task that is told to end in the very moment its answer comes in ends: nobody waits for it in vain."""
    async with nats.connect("api") as bus, nats.connect("worker") as worker, AsyncExitStack() as stack:
        if error is None:
            await stack.enter_async_context(answering_owner(worker, "w", lambda _: True))
        process = bus.client._process_msg

        async def answer_and_cancel(*message: Any) -> None:
            await process(*message)
            asking.cancel()

        with monkeypatch.context() as patched:
            patched.setattr(bus.client, "_process_msg", answer_and_cancel)
            asking = asyncio.create_task(bus.client.request("worker.w.owns", timeout=5))
            with pytest.raises(asyncio.CancelledError):
                await asking
        assert (await bus.js.account_info()).storage >= 0, "other requests go on"


@pytest.mark.parametrize("error", [None, FlushTimeoutError], ids=["answer", "time-out"])
async def test_a_cancellation_that_comes_with_a_flush_is_heard(
    nats: Installation, monkeypatch: pytest.MonkeyPatch, error: type[Exception] | None
) -> None:
    """Likewise when what was awaited is that the server has everything."""

    async def flushed(*_: object, **__: object) -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def answer_and_cancel() -> None:
            future.set_result("the answer")
            flushing.cancel()

        loop.call_soon(answer_and_cancel)
        await asyncio.wait_for(future, 5)
        if error:
            raise error

    async with nats.connect("api") as bus:
        with monkeypatch.context() as patched:
            patched.setattr(Client, "flush", flushed)
            flushing = asyncio.create_task(bus.client.flush())
            with pytest.raises(asyncio.CancelledError):
                await flushing
        assert (await bus.js.account_info()).storage >= 0, "other requests go on"


@pytest.mark.parametrize("given_up_by", ["time-out", "cancellation"])
async def test_an_answer_that_comes_too_late_ends_nothing(nats: Installation, given_up_by: str) -> None:
    """A nats-server that was frozen answers a flush that was given up long ago; the connection goes on."""
    async with nats.connect("api") as bus:
        nats.server.freeze()
        try:
            flushing = asyncio.create_task(bus.client.flush(1 if given_up_by == "time-out" else 60))
            await asyncio.wait({flushing}, timeout=2)
            flushing.cancel()
            await asyncio.wait({flushing})
            assert flushing.cancelled() is (given_up_by == "cancellation")
            assert flushing.cancelled() or isinstance(flushing.exception(), FlushTimeoutError)
        finally:
            nats.server.thaw()
        await bus.client.flush(2)
        assert (await bus.js.account_info()).storage >= 0
        assert bus.reconnects == 0


async def test_a_cancellation_while_the_socket_is_full_is_heard(nats: Installation) -> None:
    """A worker that cannot get rid of what it publishes still ends when it is told to."""
    published = 0

    async def publish_for_ever() -> None:
        nonlocal published
        while True:
            await bus.client.publish("nobody.listens", bytes(1 << 20))
            published += 1

    async with nats.connect("worker") as bus:
        nats.server.freeze()
        try:
            publishing = asyncio.create_task(publish_for_ever())
            seen = -1
            while seen != published:
                seen = published
                await asyncio.sleep(0.1)
            publishing.cancel()
            await asyncio.wait({publishing}, timeout=5)
            assert publishing.cancelled()
            assert published > 0
        finally:
            nats.server.thaw()


async def test_a_client_that_is_deaf_for_a_moment_gives_up_connecting(
    nats: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its time is over just as a server speaks, nats-py takes that for one more attempt that failed."""

    async def deaf(_: Client) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise OSError("as if the server had refused") from None

    monkeypatch.setattr(Client, "_process_connect_init", deaf)
    monkeypatch.setattr("mayfly.bus.connection.CONNECT_S", 1.0)
    with pytest.raises(QueueUnavailable, match="as if the server had refused"):
        async with asyncio.timeout(10), nats.connect("api"):
            pass


async def test_a_cancelled_user_of_a_frozen_server_leaves_no_open_client(nats: Installation) -> None:
    """Its reading, pinging and reconnecting would go on for ever, and nobody has the client any more."""
    opened: asyncio.Future[Bus] = asyncio.get_running_loop().create_future()

    async def use() -> None:
        async with nats.connect("api") as bus:
            await bus.client.subscribe("anything")
            opened.set_result(bus)
            await asyncio.Event().wait()

    using = asyncio.create_task(use())
    bus = await opened
    nats.server.freeze()
    try:
        using.cancel()
        await asyncio.wait({using}, timeout=30)
        assert using.cancelled()
        assert bus.client.is_closed
    finally:
        nats.server.thaw()


async def test_an_error_that_closes_the_client_ends_the_api_server_and_it_is_restarted(
    nats: Installation, tmp_path: Path
) -> None:
    """After an -ERR that nats-py gives the connection up for, the API server ends with a status, its supervisor starts
    another, and that one answers."""
    port = free_port()
    tls = make_certificates(tmp_path)
    keys = tmp_path / "keys"
    keys.mkdir()
    write_new_key(keys)
    async with Wire(nats) as wire:
        spec = ChildSpec(
            name="api",
            command=[sys.executable, "-c", PROGRAM],
            environment={
                **environment(wire, "api"),
                "MAYFLY_LISTEN": f"127.0.0.1:{port}",
                "MAYFLY_TLS_CERTIFICATE_FILE": str(tls.certificate_file),
                "MAYFLY_TLS_KEY_FILE": str(tls.key_file),
                "MAYFLY_TOKEN_KEYS_DIR": str(keys),
                "MAYFLY_DRAIN_S": "0",
            },
        )

        async def is_ready() -> bool:
            try:
                async with httpx.AsyncClient(verify=False, trust_env=False) as client:  # noqa: S501 - who it is does not matter
                    return (await client.get(f"https://127.0.0.1:{port}/readyz")).status_code == 200
            except httpx.TransportError:
                return False

        await assert_is_restarted(spec, wire, is_ready)


@pytest.mark.D2
async def test_an_error_that_closes_the_client_ends_the_worker_and_it_is_restarted(
    nats: Installation, tmp_path: Path
) -> None:
    """Likewise a worker: the real one, with its namespaces and its runtime."""
    need(os.geteuid() == 0 and Path("/usr/bin/crun").exists(), "root and crun")
    async with Wire(nats) as wire, nats.connect("api") as bus:
        spec = ChildSpec(
            name="worker",
            command=[sys.executable, "-m", "mayfly", "worker"],
            environment={
                **environment(wire, "worker"),
                "MAYFLY_SLOTS": "1",
                "MAYFLY_STATE_DIR": str(tmp_path / "state"),
                "MAYFLY_IMAGE_DIR": str(tmp_path / "images"),
            },
        )
        workers = Stores.on(bus).workers
        seen: set[str] = set()

        async def is_ready() -> bool:
            """Whether there is a worker that was not there before; its id is new at each start."""
            new = {key for key in await workers.keys() if await workers.get(key)} - seen
            seen.update(new)
            return bool(new)

        await assert_is_restarted(spec, wire, is_ready)


def environment(wire: Wire, role: str) -> dict[str, str]:
    """How a role reaches NATS by the wire, as its environment."""
    access = wire.access(role)
    return {f"MAYFLY_{name.upper()}": str(value) for name, value in access.items()} | {"MAYFLY_LOG_FORMAT": "json"}


async def assert_is_restarted(spec: ChildSpec, wire: Wire, is_ready: Callable[[], Any]) -> None:
    """Have the role's client closed for good, and see the process end by itself and another one come."""
    child = Child(spec)
    await child.start()
    try:
        await until(is_ready)
        first = child._process
        assert first is not None
        wire.say(b"-ERR 'Maximum Subscriptions Exceeded'\r\n")
        async with asyncio.timeout(20):
            assert await first.wait() not in (0, -signal.SIGKILL, -signal.SIGTERM)
        await until(is_ready)
        assert child._process is not None
        assert child._process.pid != first.pid
    finally:
        await child.stop()


async def until(is_so: Callable[[], Any]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(30):
        while not await is_so():
            await asyncio.sleep(0.1)
