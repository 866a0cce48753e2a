"""Who may do what on NATS, asked of a real server with the configuration that installations have."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import nats.errors
import pytest
from nats.aio.msg import Msg
from nats.js import api
from nats.js.errors import APIError

from mayfly.bus import subjects
from mayfly.bus.connection import Bus
from mayfly.bus.queue import delete_queued, in_flight, submit, walk
from mayfly.bus.requests import answering_operator, ask_to_drain
from mayfly.bus.responses import purge_responses
from mayfly.bus.schema import limits_in_force
from mayfly.bus.stores import Stores
from mayfly.domain.errors import QueueUnavailable
from mayfly.domain.ids import new_id
from mayfly.ops.nats_config import api_permissions, worker_permissions
from tests.integration.bus.test_queue import _work_of
from tests.support.bus import Installation, installation

pytestmark = [pytest.mark.A3, pytest.mark.A4]

BUCKETS = [subjects.kv_stream(bucket) for bucket in subjects.BUCKETS]
STREAMS = [subjects.ACT, subjects.RESPONSES, subjects.AUDIT, *BUCKETS]
CONSUMER = f"{subjects.ACT}.{subjects.ACT_CONSUMER}"

REFUSED_S = 0.5  # nobody is there to answer
ANSWERED_S = 10.0  # a refusal is no answer at all, but an error on the connection


@pytest.fixture
async def installed() -> AsyncIterator[Installation]:
    """A fresh nats-server with our users and shapes."""
    async with installation() as made:
        yield made


@pytest.fixture
async def admin(installed: Installation) -> AsyncIterator[Bus]:
    """The connection that may do everything: the positive control."""
    async with installed.connect("admin") as bus:
        yield bus


async def answer(bus: Bus, subject: str, query: object = None) -> dict[str, Any] | None:
    """Ask JetStream's API something; None if the server refuses to hear it."""
    payload = b"" if query is None else json.dumps(query).encode()
    bus.watch.last_error = ""
    asking = asyncio.create_task(bus.client.request(subject, payload, timeout=ANSWERED_S))
    while not (asking.done() or bus.watch.last_error):
        await asyncio.sleep(0.005)
    if not bus.watch.last_error:
        return dict(json.loads((await asking).data))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert "permissions violation for publish" in bus.watch.last_error.lower()
    return None


async def heard(bus: Bus) -> None:
    """Wait until the server has dealt with all that was sent: the first ping may overtake it, the second cannot."""
    await bus.client.flush()
    await bus.client.flush()


async def may_publish(bus: Bus, subject: str, payload: bytes = b"x") -> bool:
    """Whether the server lets something be published there."""
    bus.watch.last_error = ""
    await bus.client.publish(subject, payload)
    await heard(bus)
    return "permissions violation" not in bus.watch.last_error.lower()


async def may_subscribe(bus: Bus, subject: str) -> bool:
    """Whether the server lets something be heard there."""
    bus.watch.last_error = ""
    subscription = await bus.client.subscribe(subject, cb=ignore)
    await heard(bus)
    await subscription.unsubscribe()
    return "permissions violation" not in bus.watch.last_error.lower()


async def ignore(_: Msg) -> None:
    """Hear, and do nothing."""


@pytest.mark.A5
async def test_an_api_server_cannot_claim(installed: Installation) -> None:
    """With an API server's password nothing is pulled from the queue; the same request with a worker's is answered."""
    async with installed.connect("api") as api_bus, installed.connect("worker") as worker:
        await submit(api_bus, _work_of(new_id()), wait_s=0)
        pull = {"batch": 1, "no_wait": True}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{CONSUMER}"

        assert await answer(api_bus, subject, pull) is None
        claimed: asyncio.Queue[Msg] = asyncio.Queue()
        inbox = worker.client.new_inbox()
        await worker.client.subscribe(inbox, cb=claimed.put)
        await worker.client.publish(subject, json.dumps(pull).encode(), reply=inbox)
        async with asyncio.timeout(5):
            message = await claimed.get()

        assert message.subject.startswith("act.")
        for verb in (b"+ACK", b"-NAK", b"+TERM", b"+WPI"):
            assert not await may_publish(api_bus, message.reply, verb)
        assert await in_flight(api_bus) == 1
        await message.ack_sync(timeout=5)
        assert await in_flight(api_bus) == 0


@pytest.mark.parametrize("role", ["api", "worker"])
async def test_nobody_but_bootstrap_makes_a_consumer(installed: Installation, admin: Bus, role: str) -> None:
    """Neither role can make a consumer, by any of the three subjects that make one, or pause, unpin or delete one."""
    config = {"stream_name": subjects.ACT, "config": {"ack_policy": "explicit", "filter_subject": "act.x"}}
    subjects_ = [
        f"$JS.API.CONSUMER.CREATE.{subjects.ACT}",
        f"$JS.API.CONSUMER.CREATE.{CONSUMER}",
        f"$JS.API.CONSUMER.CREATE.{subjects.ACT}.other.act.x",
        f"$JS.API.CONSUMER.DURABLE.CREATE.{subjects.ACT}.other",
        f"$JS.API.CONSUMER.DELETE.{CONSUMER}",
        f"$JS.API.CONSUMER.PAUSE.{CONSUMER}",
        f"$JS.API.CONSUMER.UNPIN.{CONSUMER}",
        f"$JS.API.CONSUMER.CREATE.{subjects.RESPONSES}",
        *(f"$JS.API.CONSUMER.CREATE.{bucket}" for bucket in BUCKETS),
    ]
    async with installed.connect(role) as bus:
        for subject in subjects_:
            assert await answer(bus, subject, config) is None, subject
    assert await answer(admin, f"$JS.API.CONSUMER.INFO.{CONSUMER}") is not None


async def test_an_api_server_is_told_how_things_stand(installed: Installation) -> None:
    """An API server asks how its streams and the whole store stand; a worker asks of its consumer only."""
    meant = {"api": set(STREAMS) - {subjects.AUDIT}, "worker": set()}
    for role, streams in meant.items():
        async with installed.connect(role) as bus:
            for stream in STREAMS:
                found = await may_publish(bus, f"{bus.api}.STREAM.INFO.{stream}")
                assert found == (stream in streams), (role, stream)
            assert await may_publish(bus, f"{bus.api}.CONSUMER.INFO.{CONSUMER}"), role
            assert await may_publish(bus, f"{bus.api}.INFO") == (role == "api")
            for subject in ("STREAM.LIST", "STREAM.NAMES", f"CONSUMER.LIST.{subjects.ACT}"):
                assert not await may_publish(bus, f"{bus.api}.{subject}"), (role, subject)


@pytest.mark.parametrize("role", ["api", "worker"])
async def test_nobody_but_bootstrap_makes_changes_or_removes_a_stream(
    installed: Installation, admin: Bus, role: str
) -> None:
    """Neither role can make, change, purge, delete, save, restore or move a stream; an admin can delete one."""
    verbs = ["CREATE", "UPDATE", "DELETE", "PURGE", "SNAPSHOT", "RESTORE", "LEADER.STEPDOWN", "PEER.REMOVE"]
    meant = {"api": {(subjects.RESPONSES, "PURGE")}, "worker": set()}[role]
    async with installed.connect(role) as bus:
        for stream in (*STREAMS, "NEW"):
            for verb in verbs:
                if (stream, verb) not in meant:
                    assert await answer_or_refusal(bus, f"$JS.API.STREAM.{verb}.{stream}"), (stream, verb)
        for subject in ("$JS.API.META.LEADER.STEPDOWN", "$JS.API.SERVER.REMOVE", "$JS.API.ACCOUNT.PURGE.MAYFLY"):
            assert await answer_or_refusal(bus, subject), subject
        assert {(await admin.js.stream_info(stream)).config.name for stream in STREAMS} == set(STREAMS)
    assert (await answer(admin, f"$JS.API.STREAM.DELETE.{subjects.AUDIT}") or {})["success"]


async def answer_or_refusal(bus: Bus, subject: str) -> bool:
    """Whether publishing there is refused, without waiting for what nobody answers."""
    return not await may_publish(bus, subject)


@pytest.mark.parametrize("role", ["api", "worker"])
async def test_messages_are_deleted_by_api_servers_only(installed: Installation, role: str) -> None:
    """
    An API server gives back slots and places, and erases secrets, by deleting single messages; of no other stream, and
    a worker none.
    """
    erased = {subjects.ACT, subjects.kv_stream(subjects.PLACES), subjects.kv_stream(subjects.SECRETS)}
    meant = {"api": erased, "worker": set()}[role]
    async with installed.connect(role) as bus:
        for stream in STREAMS:
            assert await may_publish(bus, f"$JS.API.STREAM.MSG.DELETE.{stream}") == (stream in meant), stream


async def test_what_each_role_reads_of_the_database(installed: Installation, admin: Bus) -> None:
    """
    A worker reads records, functions, workers and what is sealed; users, sessions, responses, the queue and the trail
    are an API server's.
    """
    read = {
        "api": set(STREAMS),
        "worker": {"KV_activations", "KV_functions", "KV_workers", "KV_secrets", "KV_registries"},
    }
    for role, meant in read.items():
        async with installed.connect(role) as bus:
            for stream in STREAMS:
                found = await may_publish(bus, subjects.message_get(stream, bus.api))
                assert found == (stream in meant), (role, stream)
                assert role == "api" or not await may_publish(bus, subjects.message_get(stream))
                assert not await may_publish(bus, f"$JS.API.DIRECT.GET.{stream}"), (role, stream)
                assert not await may_publish(bus, f"$JS.API.DIRECT.GET.{stream}.$KV.users.x"), (role, stream)


async def test_a_worker_cannot_read_a_user_that_is_there(installed: Installation, admin: Bus) -> None:
    """The very request that an API server reads a user by is refused to a worker."""
    await admin.js.publish("$KV.users.ann", b"a password hash")
    await admin.js.publish("$KV.sessions.u.s", b"a refresh digest")
    async with installed.connect("api") as api_bus, installed.connect("worker") as worker:
        for bucket, key in (("users", "ann"), ("sessions", "u.s")):
            query = {"last_by_subj": f"$KV.{bucket}.{key}"}
            assert "message" in (await answer(api_bus, subjects.message_get(f"KV_{bucket}"), query) or {})
            for name in (subjects.STREAMS_API, subjects.WORKERS_API):
                assert await answer(worker, subjects.message_get(f"KV_{bucket}", name), query) is None


async def test_what_each_role_writes_of_the_database(installed: Installation) -> None:
    """A worker writes records, functions and its own sign of life, with keys of the right length, and nothing else."""
    keys = {"activations": "u.i.a", "functions": "u.f", "workers": "w", "sessions": "u.s"}
    written = {
        "api": {
            *("users", "sessions", "functions", "activations", "idempotency", "places"),
            *("attempts", "addresses", "invitations", "secrets", "registries"),
        },
        "worker": {"activations", "functions", "workers"},
    }
    for role, meant in written.items():
        async with installed.connect(role) as bus:
            for bucket in subjects.BUCKETS:
                found = await may_publish(bus, f"$KV.{bucket}.{keys.get(bucket, 'k')}")
                assert found == (bucket in meant), (role, bucket)
    async with installed.connect("worker") as worker:
        for subject in (
            "$KV.activations.u",
            "$KV.functions.u.f.x",
            "$KV.workers.w.x",
            "response.u",
            "response.a.b.c.d",
        ):
            assert not await may_publish(worker, subject), subject


async def test_only_the_server_announces_a_record(installed: Installation, admin: Bus) -> None:
    """Neither role publishes on `done.>`; a write of a record does, and an API server hears it."""
    async with installed.connect("api") as api_bus, installed.connect("worker") as worker:
        for bus in (api_bus, worker):
            assert not await may_publish(bus, "done.instance.ulid")
        assert not await may_subscribe(worker, "done.*.*")
        announced: asyncio.Queue[Msg] = asyncio.Queue()
        await api_bus.client.subscribe("done.instance.*", cb=announced.put)
        await heard(api_bus)

        await worker.js.publish("$KV.activations.user.instance.ulid", b"x")

        async with asyncio.timeout(5):
            assert (await announced.get()).subject == "done.instance.ulid"


async def test_only_an_api_server_submits(installed: Installation) -> None:
    """A worker can put nothing into the queue, nor tell other workers to fetch images, nor write the trail."""
    async with installed.connect("api") as api_bus, installed.connect("worker") as worker:
        for subject in (
            subjects.act(new_id()),
            subjects.audit("x", subjects.DONE),
            subjects.PREPARE_IMAGE,
            subjects.PREFETCH_IMAGE,
        ):
            assert not await may_publish(worker, subject), subject
            assert await may_publish(api_bus, subject), subject


async def test_an_api_server_adds_to_the_trail_and_takes_nothing_out(installed: Installation, admin: Bus) -> None:
    """
    An API server appends an entry and reads it back; it cannot delete, purge or roll one up, is not told how the stream
    stands, and can have no more than one user's trail dropped by filling that.
    """
    subject = subjects.audit(new_id(), subjects.DONE)
    first = (await admin.js.publish(subject, b"an entry")).seq
    async with installed.connect("api") as bus:
        await bus.js.publish(subject, b"another", headers={"Nats-Expected-Last-Subject-Sequence": str(first)})
        get = subjects.message_get(subjects.AUDIT)
        assert "message" in (await answer(bus, get, {"last_by_subj": subject}) or {})
        for verb in ("MSG.DELETE", "PURGE", "INFO", "UPDATE", "DELETE"):
            assert await answer(bus, f"$JS.API.STREAM.{verb}.{subjects.AUDIT}", {"seq": first}) is None, verb
        for rollup in ("sub", "all"):
            with pytest.raises(APIError, match="rollup"):
                await bus.js.publish(subject, b"only me", headers={"Nats-Rollup": rollup})
        for other in ("audit.x", "audit.x.y.z", "audit"):
            assert not await may_publish(bus, other), other

    state = (await admin.js.stream_info(subjects.AUDIT, subjects_filter=subject)).state
    assert state.subjects == {subject: 2}


async def test_only_an_api_server_cancels(installed: Installation) -> None:
    """A worker cannot have another worker's activations ended."""
    async with installed.connect("api") as api_bus, installed.connect("worker") as worker:
        assert await may_publish(api_bus, subjects.cancel(new_id()))
        assert not await may_publish(worker, subjects.cancel(new_id()))


async def test_only_an_api_server_drains(installed: Installation) -> None:
    """A worker cannot have another one rest; the one that is told hears it, and its answer comes back."""
    async with installed.connect("api") as api_bus, installed.connect("worker") as worker:
        told: list[bool] = []

        async def drain(drained: bool) -> None:
            told.append(drained)

        async with answering_operator(worker, "w", drain):
            assert await ask_to_drain(api_bus, "w", drained=True)
            assert await ask_to_drain(api_bus, "w", drained=False)
        assert told == [True, False]
        assert not await ask_to_drain(api_bus, "w", drained=True)
        assert not await may_publish(worker, subjects.drain(new_id()))


async def test_nobody_listens_in(installed: Installation, admin: Bus) -> None:
    """Neither role hears the other's inbox, the queue, the database, the API of JetStream or everything."""
    everything = [
        ">",
        "*",
        "*.>",
        "_INBOX.>",
        "_INBOX_admin.>",
        "$JS.>",
        "$JS.API.>",
        "$JS.EVENT.>",
        "$JS.ACK.>",
        "$JS.FC.>",
        "$KV.>",
        "$KV.users.>",
        "$SYS.>",
        "$SRV.>",
        "_R_.>",
        "_R_.*.*",
        "streams.>",
        "act.>",
        "act.*",
    ]
    others = {
        "api": ["_INBOX_worker.>", "worker.*.owns", "worker.*.cancel", "worker.*.drain", "image.prepare", "audit.*.*"],
        "worker": ["_INBOX_api.>", "response.*.*.*", "audit.>", "audit.*.*"],
    }
    for role, refused in others.items():
        async with installed.connect(role) as bus:
            for subject in (*everything, *refused):
                assert not await may_subscribe(bus, subject), (role, subject)
            assert await may_subscribe(bus, f"_INBOX_{role}.>")
    assert await may_subscribe(admin, ">")


async def test_a_worker_cannot_answer_itself_into_a_record(installed: Installation, admin: Bus) -> None:
    """A worker that asks itself a question whose reply subject is a user's record writes nothing there."""
    async with installed.connect("worker") as worker:
        asked: asyncio.Queue[Msg] = asyncio.Queue()
        await worker.client.subscribe("worker.me.owns", cb=asked.put)
        await worker.client.publish("worker.me.owns", b"", reply="$KV.users.ann")
        async with asyncio.timeout(5):
            question = await asked.get()
        worker.watch.last_error = ""

        await question.respond(b"a record with my own password hash")
        await heard(worker)

        assert "permissions violation for publish" in worker.watch.last_error.lower()
    assert (await admin.js.stream_info("KV_users")).state.messages == 0


async def test_a_worker_does_not_learn_where_an_api_server_is_answered(installed: Installation) -> None:
    """A worker that is asked sees a name that nats-server made for that question, and can publish at no inbox of an
    API server."""
    async with installed.connect("api") as api_bus, installed.connect("worker") as worker:
        inboxes = await inboxes_of(worker, api_bus, questions=3)

        assert all(inbox.startswith("_R_.") for inbox in inboxes)
        assert not await may_publish(worker, api_bus.client.new_inbox())
        assert not await may_publish(worker, f"{api_bus.client.new_inbox()}.x")


async def test_a_worker_can_tell_no_reply_that_is_not_its_own(installed: Installation) -> None:
    """Of the inbox at which a worker is asked by another, the inboxes of the database's replies cannot be told; where
    another's work is delivered, nothing can be published."""
    async with installed.connect("worker") as asking, installed.connect("worker") as worker:
        inboxes = await inboxes_of(worker, asking, questions=20)

        tokens = [inbox.split(".")[2] for inbox in inboxes]
        assert all(len(token) >= 22 for token in tokens)
        for position in range(20):
            assert len({token[position] for token in tokens}) > 5, "a token's beginning tells the next one's"
        assert not await may_publish(worker, asking.client.new_inbox()), "forged work"


async def inboxes_of(worker: Bus, asking: Bus, *, questions: int) -> list[str]:
    """Have a worker asked several times, and return where it was to answer."""
    inboxes: list[str] = []

    async def on_question(message: Msg) -> None:
        inboxes.append(message.reply)
        await message.respond(b"1")

    await worker.client.subscribe("worker.w.owns", cb=on_question)
    await worker.client.flush()
    for _ in range(questions):
        assert (await asking.client.request("worker.w.owns", b"", timeout=5)).data == b"1"
    return inboxes


WORDS = [
    b"",
    b"{}",
    b"+ACK",
    b"-NAK",
    b"+WPI",
    b"+NXT",
    b'{"batch":1,"no_wait":true}',
    b'{"batch":1,"expires":1000000}',
]


@pytest.mark.parametrize("role", ["api", "worker"])
async def test_no_answer_does_what_the_asker_may_not(installed: Installation, admin: Bus, role: str) -> None:
    """
    nats-server sends an answer wherever it is asked to, with its own rights. Whatever a role may publish, with a
    subject that deletes, purges or forges as the place for the answer, leaves streams, consumer and users as they were.
    """
    permissions = {"api": api_permissions, "worker": worker_permissions}[role]()
    await admin.js.publish("$KV.users.ann", b"a password hash")
    harm = [
        f"$JS.API.CONSUMER.DELETE.{CONSUMER}",
        *(f"$JS.API.STREAM.{verb}.{stream}" for verb in ("DELETE", "PURGE", "MSG.DELETE") for stream in STREAMS),
        *(["$KV.users.ann", "$KV.sessions.u.s", "$KV.places.p", "act.u", "audit.u.done"] if role == "worker" else []),
    ]
    before = await stands(admin)
    async with installed.connect("api") as api_bus, installed.connect("worker") as worker:
        claim = await a_claim(api_bus, worker)
        bus = {"api": api_bus, "worker": worker}[role]
        harm += [claim, NEXT] if role == "api" else []
        for allowed in permissions["publish"]:
            subject = claim if allowed.startswith("$JS.ACK.ACT") else allowed.replace("*", "x").replace(">", "x")
            for word in WORDS:
                for target in harm:
                    await bus.client.publish(subject, word, reply=target)
        await heard(bus)
        assert role == "worker" or await pending(admin) == 1

        await admin.client.publish(claim, b"+WPI", reply="$JS.API.STREAM.DELETE.KV_places")  # an admin can do it
        async with asyncio.timeout(5):
            while "KV_places" in (after := await stands(admin)):
                await asyncio.sleep(0.01)

    del before["KV_places"]
    assert list(after) == list(before)
    assert (await admin.js.consumer_info(subjects.ACT, subjects.ACT_CONSUMER)).name == subjects.ACT_CONSUMER
    for untouched in ("KV_users", "KV_sessions", subjects.AUDIT) if role == "worker" else ():
        assert after[untouched] == before[untouched]
    assert (await admin.js.get_last_msg("KV_users", "$KV.users.ann")).data == b"a password hash"


async def pending(admin: Bus) -> int:
    """How many messages were claimed and not acked."""
    return int((await admin.js.consumer_info(subjects.ACT, subjects.ACT_CONSUMER)).num_ack_pending or 0)


NEXT = f"$JS.API.CONSUMER.MSG.NEXT.{CONSUMER}"


async def stands(admin: Bus) -> dict[str, int]:
    """The last sequence of each stream that there is."""
    return {str(info.config.name): info.state.last_seq for info in await admin.js.streams_info()}


async def a_claim(api_bus: Bus, worker: Bus) -> str:
    """Submit an activation, claim it, and return where it is acked."""
    claims: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = worker.client.new_inbox()
    await worker.client.subscribe(inbox, cb=claims.put)
    await worker.client.publish(NEXT, b'{"batch":1,"expires":5000000000}', reply=inbox)
    await submit(api_bus, _work_of(new_id()), wait_s=1)
    async with asyncio.timeout(5):
        return (await claims.get()).reply


@pytest.mark.parametrize(
    "headers",
    [
        {"Nats-Rollup": "all"},
        {"Nats-Rollup": "sub"},
        {"Nats-Schedule": "@at 2030-01-01T00:00:00Z", "Nats-Schedule-Target": "$KV.users.ann"},
        {"Nats-Incr": "1"},
    ],
    ids=lambda headers: next(iter(headers)) + "-" + next(iter(headers.values()))[:3],
)
async def test_headers_do_not_widen_a_write(installed: Installation, admin: Bus, headers: dict[str, str]) -> None:
    """Who may write one function can neither remove the others with a header nor have something written later."""
    await admin.js.publish("$KV.functions.ann.f", b"hers")
    async with installed.connect("worker") as worker:
        with pytest.raises(APIError):
            await worker.js.publish("$KV.functions.bob.f", b"x", headers=headers)

    assert (await admin.js.get_last_msg("KV_functions", "$KV.functions.ann.f")).data == b"hers"
    assert (await stands(admin))["KV_functions"] == 1


async def test_a_trace_is_sent_nowhere_else(installed: Installation, admin: Bus) -> None:
    """The header that has the server report a message's way is refused where its target is."""
    async with installed.connect("worker") as worker:
        headers = {"Nats-Trace-Dest": "$KV.users.ann"}
        worker.watch.last_error = ""
        await worker.client.publish("$KV.workers.w", b"x", headers=headers)
        await heard(worker)

        assert "permissions violation for publish" in worker.watch.last_error.lower()
    assert (await stands(admin))["KV_users"] == 0


async def test_each_role_can_do_its_work(installed: Installation) -> None:
    """What the services of each role do passes with its permissions: lists, limits, walks, deletions, purges."""
    user = new_id()
    async with installed.connect("api") as api_bus:
        stores = Stores.on(api_bus)
        await submit(api_bus, _work_of(user), wait_s=0)
        assert await in_flight(api_bus, user) == 1
        assert await limits_in_force(api_bus) == (256, 32)
        [queued] = [each async for each in walk(api_bus)]
        await delete_queued(api_bus, queued.seq)
        await purge_responses(api_bus, user)
        for store in (stores.sessions, stores.functions, stores.activations, stores.workers):
            assert await store.keys() == []
        assert await stores.users.get("nobody") is None
    async with installed.connect("worker") as worker:
        stores = Stores.on(worker)
        assert await stores.functions.get("u.f") is None
        assert await stores.activations.get("u.i.a") is None
        assert await stores.workers.get("w") is None


async def test_nobody_logs_in_without_a_password(installed: Installation) -> None:
    """No user, a wrong password and the system account's name are all refused; the right password is not."""
    wrong: list[dict[str, str]] = [
        {},
        {"user": "api"},
        {"user": "api", "pass": ""},
        {"user": "api", "pass": "worker-password"},
        {"user": "admin", "pass": "api-password"},
        {"user": "SYS", "pass": ""},
        {"user": "sys", "pass": "sys"},
    ]
    for login in wrong:
        assert b"Authorization Violation" in await greeting(installed.server.port, login), login
    assert b"+OK" in await greeting(installed.server.port, {"user": "api", "pass": "api-password"})


async def greeting(port: int, login: dict[str, str]) -> bytes:
    """Log in by hand, and return what the server says to it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await reader.readline()
        writer.write(b"CONNECT " + json.dumps(login).encode() + b"\r\nPING\r\n")
        return await reader.readline()
    finally:
        writer.close()
        await writer.wait_closed()


async def test_the_system_account_is_apart(installed: Installation, admin: Bus) -> None:
    """Even an admin of MAYFLY cannot speak to the servers themselves, only to its own JetStream."""
    with pytest.raises((nats.errors.NoRespondersError, nats.errors.TimeoutError)):
        await admin.client.request("$SYS.REQ.SERVER.PING", b"", timeout=REFUSED_S)
    info = api.AccountInfo.from_response(await answer(admin, "$JS.API.INFO") or {})
    assert info.streams == len(STREAMS)


async def test_a_password_file_that_is_not_text_is_named(installed: Installation) -> None:
    """The wrong file, such as a key in DER, is a sentence that has none of its bytes."""
    installed.password_file("worker").write_bytes(b"\xff\xfe secret")

    with pytest.raises(QueueUnavailable, match=r"MAYFLY_NATS_PASSWORD_FILE: .* is not text") as raised:
        async with installed.connect("worker"):
            pytest.fail("connected")
    assert "secret" not in raised.value.detail
