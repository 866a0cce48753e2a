"""
Poisoned messages, really published, wherever a worker or an API server reads: they stop neither, and nothing that is
right comes to harm. Rows: A3, A5.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from structlog.testing import capture_logs
from structlog.typing import EventDict

from mayfly.bus import subjects
from mayfly.bus.codec import Undecodable
from mayfly.bus.connection import Bus
from mayfly.bus.queue import WORK, in_flight
from mayfly.bus.stores import Stores
from mayfly.domain.activation import Activation, Response, Work
from mayfly.domain.function import Function
from mayfly.domain.idempotency import IdempotencyEntry
from mayfly.domain.ids import new_id, new_ulid
from mayfly.domain.image import PrepareImage
from mayfly.domain.place import Place
from mayfly.domain.user import Session, User
from mayfly.domain.worker import WorkerBeat
from mayfly.ops.nats_config import ADMIN, API, WORKER
from tests.support.bus import Installation, installation
from tests.support.poison import GENUINE, some_wrong
from tests.support.whole import Whole, whole

IN_THE_QUEUE, IN_EACH_BUCKET, ON_EACH_SUBJECT = 1200, 180, 180
PUBLISHED_AT_LEAST = 3000
T = TypeVar("T")

QUIET_S = 2.0
HEADERS = (
    b"NATS/1.0\r\n\r\n",
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0 404 No Messages\r\n\r\n",
    b"NATS/1.0 \xff\xfe\xfd\r\n\r\n",
    b"NATS/1.0 503 \xff\xfe\r\n\r\n",
    b"NATS/1.0\r\nStatus: 503\r\n\r\n",
    b"NATS/1.0\r\nStatus: \xff\r\n\r\n",
    b"NATS/1.0\r\n\xff\xfe: \xfd\r\n\r\n",
    b"NATS/1.0\r\nNats-Sequence: many\r\nNats-Msg-Size: -1\r\n\r\n",
    b"NATS/1.0\r\nno colon\r\n : \r\n::\r\n\r\n",
    b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n",
)
"""What nats-server passes on, though a client may not be able to read it. The last is a tombstone with a body."""


@asynccontextmanager
async def poisoned(directory: Path) -> AsyncIterator[tuple[Installation, Whole, Bus]]:
    """A whole installation, and the connection of one who may write everywhere."""
    async with (
        installation(max_activations=20_000, max_activations_per_user=20_000) as nats,
        whole(nats, directory) as running,
        nats.connect(ADMIN) as admin,
    ):
        yield nats, running, admin


async def test_poison_in_the_queue_stops_no_worker(tmp_path: Path) -> None:
    """
    Of more than a thousand messages that no worker can read each goes back with a delay, for whoever can read it; calls
    behind them are answered, and the worker hardly works for it.
    """
    owner = new_id()
    messages = [each for each in wrong_ones(Work, IN_THE_QUEUE) if not is_readable(each)]
    with capture_logs() as logged:
        await stay_well(owner, messages, logged, tmp_path)


async def stay_well(owner: str, messages: list[bytes], logged: list[EventDict], directory: Path) -> None:
    """Put the messages into the queue, and look after the worker."""
    async with poisoned(directory) as (nats, running, admin):
        await each_of(messages, lambda data: admin.js.publish(subjects.act(owner), data))
        for header in HEADERS:
            await publish_raw(nats, ADMIN, subjects.act(owner), header, b"\x91")
        count = len(messages) + len(HEADERS)
        print(f"{count} poisoned messages in the queue")

        async with asyncio.timeout(90):
            answers = await asyncio.gather(*(running.call(f"{number}".encode()) for number in range(8)))
        assert [answer.text for answer in answers] == [str(number) for number in range(8)]
        async with asyncio.timeout(60):
            while sum(each["event"] == "queue.undecodable" for each in logged) < count:
                await asyncio.sleep(0.05)

        cpu, began = time.process_time(), time.monotonic()
        await asyncio.sleep(QUIET_S)  # not waited for anything: this is how long it is measured
        busy = (time.process_time() - cpu) / (time.monotonic() - began)
        print(f"the worker takes {busy:.0%} of a core")
        assert busy < 0.5
        assert (await running.call(b"last")).text == "last"
        assert await in_flight(admin, owner) == count


async def test_poison_in_the_database_stops_nobody(tmp_path: Path) -> None:
    """
    Records, responses, signs of life, places and questions that cannot be read: the worker and the API server with its
    janitor go on, what runs meanwhile ends well, and of what is in order nothing is gone.
    """
    for struct in (Activation, Function, User, Session, IdempotencyEntry, Place, WorkerBeat):
        wrong_ones(struct, IN_EACH_BUCKET)
    for asked in (Response, PrepareImage):
        wrong_ones(asked, ON_EACH_SUBJECT)
    async with poisoned(tmp_path) as (nats, running, admin):
        running.runtime.gate.clear()
        held = asyncio.create_task(running.call(b"held"), name="held")
        await running.until_running(1)
        [record] = await running.records()
        user_id = (await running.client.get("/v1/users/me")).json()["id"]

        published = await poison_buckets(admin, user_id)
        published += await poison_responses(nats, admin, user_id)
        published += await poison_questions(nats, admin)
        print(f"{published} poisoned messages beside the queue")
        assert published >= PUBLISHED_AT_LEAST - IN_THE_QUEUE

        await two_sweeps(running, admin)
        running.runtime.gate.set()
        assert (await held).text == "held"
        assert (await running.call(b"again")).text == "again"
        assert [event for event in running.api.log if event["event"] == "api.lost"] == []
        assert running.api.process.returncode is None
        assert (await running.record(record["id"]))["state"] == "succeeded"


async def test_what_cannot_be_read_hides_nothing_else(tmp_path: Path) -> None:
    """A list has what can be read; whoever asks for what cannot is told so, as an error of ours, and may leave."""
    async with poisoned(tmp_path) as (_, running, admin):
        user_id = (await running.client.get("/v1/users/me")).json()["id"]
        assert (await running.call(b"one")).status_code == 200
        instance, ulid = new_id(), new_ulid()
        await admin.js.publish(subjects.kv_subject(subjects.ACTIVATIONS, f"{user_id}.{instance}.{ulid}"), b"\x91")
        await admin.js.publish(subjects.kv_subject(subjects.FUNCTIONS, f"{user_id}.broken"), b"\x91")

        assert [each["state"] for each in await running.records()] == ["succeeded"]
        functions = (await running.client.get("/v1/functions")).json()["functions"]
        assert [each["name"] for each in functions] == ["f"]
        answer = await running.client.get(f"/v1/activations/{instance}-{ulid}")
        assert (answer.status_code, answer.json()["code"]) == (500, "internal-error")
        assert (await running.client.post("/v1/functions/broken/activations")).status_code == 500
        assert (await running.client.delete("/v1/users/me")).status_code == 204


async def poison_buckets(admin: Bus, user_id: str) -> int:
    """Put what cannot be read into each bucket: under keys of the user's own, of nobody's, and of no form."""

    def keys(number: int) -> dict[str, tuple[str, type]]:
        key = f"{user_id if number % 2 else new_id()}.{new_id()}.{new_ulid()}"
        return {
            subjects.ACTIVATIONS: (key, Activation),
            subjects.FUNCTIONS: (f"{user_id}.f{number}", Function),
            subjects.USERS: (f"u-{number}", User),
            subjects.SESSIONS: (f"{user_id}.{new_id()}", Session),
            subjects.IDEMPOTENCY: (f"{user_id}.{number:064x}", IdempotencyEntry),
            subjects.PLACES: (f"{user_id}.{new_id()}.{number}", Place),
            subjects.WORKERS: (new_id(), WorkerBeat),
        }

    published = 0
    for bucket, (_, struct) in keys(0).items():
        messages = wrong_ones(struct, IN_EACH_BUCKET)
        at = [subjects.kv_subject(bucket, keys(number)[bucket][0]) for number in range(len(messages))]
        await each_of(list(zip(at, messages, strict=True)), lambda one: admin.js.publish(one[0], one[1]))
        await admin.js.publish(subjects.kv_subject(bucket, "x"), b"\x91")
        await admin.js.publish(subjects.kv_subject(bucket, "a.b.c.d.e"), b"\x91")
        published += len(messages) + 2
    return published


async def poison_responses(nats: Installation, admin: Bus, user_id: str) -> int:
    """Have responses stored that are none, for activations that exist and that do not; and wrong books about them."""
    messages = wrong_ones(Response, ON_EACH_SUBJECT)
    await each_of(
        messages, lambda data: admin.js.publish(subjects.response(f"{user_id}.{new_id()}.{new_ulid()}"), data)
    )
    await each_of(messages, lambda data: admin.js.publish(subjects.books(new_id()), data))
    for header in HEADERS:
        await publish_raw(nats, WORKER, subjects.response(f"{new_id()}.{new_id()}.{new_ulid()}"), header, b"\x91")
    return 2 * len(messages) + len(HEADERS)


async def poison_questions(nats: Installation, admin: Bus) -> int:
    """Ask workers what is no question, as the API server might, with and without a place for the answer."""
    [worker_id] = await beating(admin)
    messages = wrong_ones(PrepareImage, ON_EACH_SUBJECT)
    published = 0
    async with nats.connect(API) as api:
        to = (subjects.owns(worker_id), subjects.cancel(worker_id), subjects.PREPARE_IMAGE, subjects.PREFETCH_IMAGE)
        for subject in to:
            await each_of(messages, partial(api.client.publish, subject))
            await each_of(messages, partial(api.client.publish, subject, reply=api.client.new_inbox()))
            for header in HEADERS:
                await publish_raw(nats, API, subject, header, b"\x91")
            published += 2 * len(messages) + len(HEADERS)
    return published


async def two_sweeps(running: Whole, admin: Bus) -> None:
    """Wait until the janitor has come by twice: it says of a place that it cannot read it."""
    key = f"{new_id()}.{new_id()}.0"
    await admin.js.publish(subjects.kv_subject(subjects.PLACES, key), b"\x91")
    async with asyncio.timeout(60):
        while sum(each.get("key") == key for each in running.api.log) < 2:
            await asyncio.sleep(0.1)


async def beating(admin: Bus) -> list[str]:
    """The ids under which workers answer: those whose sign of life can be read."""
    workers = Stores.on(admin).workers
    found = []
    for key in await workers.keys():
        with suppress(Undecodable):
            entry = await workers.get(key)
            if entry and entry.value.runtime == "fake":
                found.append(key)
    return found


@cache
def wrong_ones(struct: type, count: int) -> list[bytes]:
    """
    That many messages that are nearly such a struct, or nothing like it. To make them takes seconds, in which a worker
    in this process would be taken for lost: make them first.
    """
    return some_wrong(next(each for each in GENUINE if isinstance(each, struct)), count)


def is_readable(data: bytes) -> bool:
    """Whether a worker can read it after all."""
    try:
        WORK.decode(data)
    except Undecodable:
        return False
    return True


async def each_of(items: Sequence[T], action: Callable[[T], Awaitable[object]]) -> None:
    """Do it with all, some at a time."""
    room = asyncio.Semaphore(32)

    async def one(item: T) -> None:
        async with room:
            await action(item)

    await asyncio.gather(*(one(item) for item in items))


async def publish_raw(nats: Installation, role: str, subject: str, header: bytes, data: bytes) -> None:
    """Publish with a header that no client would write, and wait until the server has it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", nats.server.port)
    try:
        await reader.readline()
        login = {"user": role, "pass": nats.password_file(role).read_text(), "headers": True, "verbose": False}
        head = f"HPUB {subject} {len(header)} {len(header) + len(data)}\r\n".encode()
        writer.write(b"CONNECT " + json.dumps(login).encode() + b"\r\n" + head + header + data + b"\r\nPING\r\n")
        async with asyncio.timeout(20):
            assert (said := await reader.readline()) == b"PONG\r\n", said
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
