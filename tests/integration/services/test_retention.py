"""Each user's results and logs have a bound of their own: on a real nats-server, with each role's permissions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from nats.js.errors import NotFoundError

from mayfly.bus import subjects
from mayfly.bus.connection import Bus, translated
from mayfly.bus.patience import patiently
from mayfly.bus.responses import publish_response, read_response
from mayfly.bus.retention import Books, Kept, read_books
from mayfly.bus.schema import bootstrap
from mayfly.bus.snapshot import StreamState, replace, snapshot
from mayfly.domain.activation import Response
from mayfly.domain.errors import QueueUnavailable
from mayfly.domain.ids import new_id, new_ulid
from mayfly.domain.limits import MIB
from mayfly.services.retention import Keeper
from tests.support.answering import answering_worker
from tests.support.api import ApiServer, bootstrapped
from tests.support.bus import Installation, installation
from tests.support.cluster import cluster
from tests.support.nats import NatsServer

pytestmark = [pytest.mark.A3, pytest.mark.F4, pytest.mark.F10]

MAX = 4 * MIB
SOON_S = 10.0


@asynccontextmanager
async def keeping(bus: Bus, instance: str, *, max_bytes: int = MAX) -> AsyncIterator[Keeper]:
    """Run a keeper, and end it as a kill would: without a last word."""
    keeper = Keeper(bus, instance, max_bytes=max_bytes, keep_s=3600)
    async with keeper.listening():
        running = asyncio.create_task(keeper.run(), name="keeper")
        try:
            yield keeper
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def respond(worker: Bus, user: str, instance: str, size: int = MIB) -> str:
    """Store a response of that size; its record's key."""
    key = f"{user}.{instance}.{new_ulid()}"
    response = Response(attempt=attempt_of(key), result=b"x" * size)
    await patiently(partial(publish_response, worker, key, response, keep_s=3600), also=(QueueUnavailable,))
    return key


def attempt_of(key: str) -> str:
    """The attempt of a response: one of its own for each, for by it the stream knows what it has already."""
    return key.rpartition(".")[2]


async def has(bus: Bus, user: str) -> list[str]:
    """The keys of the responses that a user has in the stream."""
    info = await bus.js.stream_info(subjects.RESPONSES, subjects_filter=subjects.responses_of(user))
    keys = [subject.removeprefix("response.") for subject in info.state.subjects or ()]
    return sorted((key for key in keys if f".{subjects.BOOKS}." not in key), key=attempt_of)


async def until_gone(bus: Bus, key: str) -> None:
    """Wait until a response has left the stream."""
    async with asyncio.timeout(SOON_S):
        while await read_response(bus, key, attempt=attempt_of(key)):
            await asyncio.sleep(0.01)


async def test_one_users_results_do_not_evict_anothers(nats: Installation, bus: Bus) -> None:
    """Of who has more than the bound the oldest go, and the newest are there; another's older one stays."""
    ann, bob, instance = new_id(), new_id(), new_id()
    async with nats.connect("api") as api, nats.connect("worker") as worker, keeping(api, instance):
        his = await respond(worker, bob, instance)
        hers = [await respond(worker, ann, instance) for _ in range(6)]
        await until_gone(api, hers[2])

        assert await has(bus, ann) == hers[3:]  # down to 7/8, so that one response does not cost one purge
        assert await has(bus, bob) == [his]


async def test_many_users_together_push_out_nobody_who_has_little() -> None:
    """
    Three who each keep within their own bound would fill the stream, and its oldest would go: another user's. Whoever
    of the three has the most gives up his oldest, so that all three come to the same: also those who called before
    this API server was started, of whom it has only the books.
    """
    bob, ann, cid, dan, instance = (new_id() for _ in range(5))
    async with (
        installation(responses_max_bytes=16 * MIB) as nats,
        nats.connect("api") as api,
        nats.connect("worker") as worker,
        nats.connect("admin") as bus,
    ):
        async with keeping(api, instance, max_bytes=8 * MIB) as keeper:
            his = [await respond(worker, bob, instance, MIB // 4) for _ in range(2)]
            theirs = {user: [await respond(worker, user, instance) for _ in range(5)] for user in (ann, cid)}
            async with asyncio.timeout(SOON_S):
                for user in theirs:
                    while len((await read_books(api, user)).chunks) < 5:
                        await asyncio.sleep(0.01)
        async with keeping(api, instance, max_bytes=8 * MIB) as keeper:
            theirs[dan] = []
            for _ in range(8):
                theirs[dan].append(await respond(worker, dan, instance))
                await until_idle(bus, keeper)
        assert await has(bus, bob) == his
        left = {user: await has(bus, user) for user in theirs}
        assert left == {user: keys[-len(left[user]) :] for user, keys in theirs.items()}
        assert all(3 <= len(keys) <= 5 for keys in left.values()), {user: len(keys) for user, keys in left.items()}
        assert (await bus.js.stream_info(subjects.RESPONSES)).state.bytes < 14 * MIB


async def test_results_that_have_expired_do_not_stand_for_some_that_are_there() -> None:
    """
    What the keeper has added up does not shrink as responses expire. So those who had most once give up what they no
    longer have, and it goes on until there is room: or who has little would lose it in their place.
    """
    bob, dan, instance = new_id(), new_id(), new_id()
    once = [new_id() for _ in range(6)]
    async with (
        installation(responses_max_bytes=16 * MIB) as nats,
        nats.connect("api") as api,
        nats.connect("worker") as worker,
        nats.connect("admin") as bus,
        keeping(api, instance, max_bytes=20 * MIB) as keeper,
    ):
        his = [await respond(worker, bob, instance, MIB // 4) for _ in range(2)]
        for user in once:
            for _ in range(2):
                for _ in range(8):
                    await respond(worker, user, instance)
                await until_idle(bus, keeper)
                await bus.js.purge_stream(subjects.RESPONSES, subject=subjects.responses_of(user))  # as if it expired
        for _ in range(20):
            await respond(worker, dan, instance)
            await until_idle(bus, keeper)
        assert await has(bus, bob) == his
        assert (await bus.js.stream_info(subjects.RESPONSES)).state.bytes < 14 * MIB


async def until_idle(bus: Bus, keeper: Keeper) -> None:
    """Wait until a keeper has heard, counted and put right all that the stream took."""
    async with asyncio.timeout(SOON_S):
        while (await bus.js.stream_info(subjects.RESPONSES)).state.last_seq != keeper._last_seq or keeper._heard:
            await asyncio.sleep(0.005)
        while keeper._news.is_set() or keeper._look_after <= 0:
            await asyncio.sleep(0.005)


async def test_several_keepers_do_no_harm(nats: Installation, bus: Bus) -> None:
    """Each API server counts what any of them waits for, and together they remove no more than one would."""
    ann, instances = new_id(), [new_id() for _ in range(3)]
    async with (
        nats.connect("api") as api,
        nats.connect("worker") as worker,
        keeping(api, instances[0]) as first,
        keeping(api, instances[1]),
        keeping(api, instances[2]) as last,
    ):
        hers = [await respond(worker, ann, instances[number % 3]) for number in range(6)]
        async with asyncio.timeout(SOON_S):
            while not (await has_settled(bus, first, ann) and await has_settled(bus, last, ann)):
                await asyncio.sleep(0.01)
            await until_gone(api, hers[2])

        assert await has(bus, ann) == hers[3:]


async def has_settled(bus: Bus, keeper: Keeper, user: str) -> bool:
    """Whether a keeper has heard and counted all that the stream took, and has removed what is too much."""
    last_seq = (await bus.js.stream_info(subjects.RESPONSES)).state.last_seq
    return keeper._last_seq == last_seq and not keeper._heard and keeper._tallies[user].size <= MAX


async def test_what_lay_there_before_counts(nats: Installation, bus: Bus) -> None:
    """An API server that was killed has written down what there is; the next one, which never heard of it, goes on."""
    ann = new_id()
    async with nats.connect("api") as api, nats.connect("worker") as worker:
        first, second = new_id(), new_id()
        async with keeping(api, first) as keeper:
            hers = [await respond(worker, ann, first) for _ in range(4)]
            async with asyncio.timeout(SOON_S):
                while not await has_settled(bus, keeper, ann) or keeper._tallies[ann].unwritten:
                    await asyncio.sleep(0.01)
        async with keeping(api, second):
            hers += [await respond(worker, ann, second) for _ in range(2)]
            await until_gone(api, hers[2])

            assert hers[-1] in await has(bus, ann)
            assert len(await has(bus, ann)) <= 3


async def test_what_was_not_heard_is_read(nats: Installation, bus: Bus) -> None:
    """What the stream took while an API server did not hear of it is missing from the sequences, and is counted."""
    ann, bob, instance = new_id(), new_id(), new_id()
    async with nats.connect("api") as api, nats.connect("worker") as worker:
        keeper = Keeper(api, instance, max_bytes=MAX, keep_s=3600)
        async with keeper.listening():
            await respond(worker, bob, instance, 1)
            async with asyncio.timeout(SOON_S):
                while not keeper._heard:
                    await asyncio.sleep(0.01)
        hers = [await respond(worker, ann, instance) for _ in range(6)]
        async with keeper.listening():
            await respond(worker, bob, instance, 1)
            async with asyncio.timeout(SOON_S):
                while not keeper._missed:
                    await asyncio.sleep(0.01)
            await keeper.settle()

        assert await has(bus, ann) == hers[3:]


@pytest.mark.A4
async def test_a_restore_under_a_running_keeper_takes_no_new_result(nats: Installation, bus: Bus) -> None:
    """`restore --replace` brings an older stream back: what was counted of the one that was removes nothing of it."""
    ann, bob, instance = new_id(), new_id(), new_id()
    async with nats.connect("api") as api, nats.connect("worker") as worker, keeping(api, instance) as keeper:
        his = await respond(worker, bob, instance, 1)
        stood, chunks = await saved(bus)
        for _ in range(3):
            await respond(worker, ann, instance)
        await until_settled(bus, keeper, ann)
        await replace(bus, subjects.RESPONSES, state=stood.state, chunks=chunks)

        hers = [await respond(worker, ann, instance) for _ in range(3)]
        await until_settled(bus, keeper, ann)
        assert await has(bus, bob) == [his]
        assert await has(bus, ann) == hers

        hers += [await respond(worker, ann, instance) for _ in range(3)]
        await until_gone(api, hers[2])
        assert await has(bus, ann) == hers[3:]


async def saved(bus: Bus) -> tuple[StreamState, list[bytes]]:
    """The stream as a backup has it."""
    async with snapshot(bus, subjects.RESPONSES) as made:
        return made.stood, [chunk async for chunk in made.chunks()]


async def until_settled(bus: Bus, keeper: Keeper, user: str) -> None:
    """Wait until a keeper has counted what there is of a user."""
    async with asyncio.timeout(SOON_S):
        while not await has_settled(bus, keeper, user):
            await asyncio.sleep(0.01)


async def test_what_is_being_settled_when_the_stream_begins_anew_is_let_go(
    nats: Installation, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A keeper that waits for a user's books while the sequences begin anew goes on with the new ones only."""
    ann, bob, instance = new_id(), new_id(), new_id()
    async with nats.connect("api") as api:
        keeper = Keeper(api, instance, max_bytes=MAX, keep_s=3600)
        keeper._on_kept(Kept(ann, instance, 1000, MIB))

        async def then_a_restore(bus: Bus, user_id: str) -> Books:
            keeper._on_kept(Kept(bob, instance, 2, MIB))
            return Books(chunks=[])

        with monkeypatch.context() as patch:
            patch.setattr("mayfly.services.retention.read_books", then_a_restore)
            await keeper.settle()
        assert not keeper._tallies
        await keeper.settle()

        assert (list(keeper._tallies), keeper._last_seq) == ([bob], 2)


async def test_books_go_with_what_they_describe(nats: Installation, bus: Bus) -> None:
    """Old books leave the stream with the responses that they counted, and all of them with their user."""
    ann, instance = new_id(), new_id()
    async with nats.connect("api") as api, nats.connect("worker") as worker, keeping(api, instance) as keeper:
        hers = [await respond(worker, ann, instance) for _ in range(9)]
        await until_gone(api, hers[5])
        async with asyncio.timeout(SOON_S):
            while keeper._tallies[ann].unwritten:
                await asyncio.sleep(0.01)
        books = f"response.{ann}.books.>"
        info = await bus.js.stream_info(subjects.RESPONSES, subjects_filter=books)
        assert sum((info.state.subjects or {}).values()) <= 6

        await bus.js.purge_stream(subjects.RESPONSES, subject=subjects.responses_of(ann))
        assert (await read_books(api, ann)).chunks == []


async def test_it_goes_on_after_a_restart_of_nats(nats: Installation, bus: Bus) -> None:
    """What comes after nats-server was killed is counted with what came before."""
    ann, instance = new_id(), new_id()
    async with nats.connect("api") as api, nats.connect("worker") as worker, keeping(api, instance):
        hers = [await respond(worker, ann, instance) for _ in range(3)]
        await nats.server.restart()
        async with asyncio.timeout(SOON_S):
            while not (api.is_connected and worker.is_connected and bus.is_connected and api.reconnects):
                await asyncio.sleep(0.01)
        hers += [await respond(worker, ann, instance) for _ in range(3)]
        await until_gone(api, hers[2])

        assert hers[-1] in await has(bus, ann)


@pytest.mark.D4
async def test_it_goes_on_under_another_leader() -> None:
    """In a cluster of three the bound holds across a change of the stream's leader."""
    ann, instance = new_id(), new_id()
    async with cluster() as nats:
        admin, api, worker = nats.connect("admin"), nats.connect("api"), nats.connect("worker")
        async with admin as bus, api as api_bus, worker as worker_bus, keeping(api_bus, instance):
            hers = [await respond(worker_bus, ann, instance) for _ in range(3)]
            before = await leader(bus)
            await bus.client.request(f"$JS.API.STREAM.LEADER.STEPDOWN.{subjects.RESPONSES}", b"", timeout=5)
            async with asyncio.timeout(30):
                while (now := await leader(bus)) is None or now == before:
                    await asyncio.sleep(0.05)
            hers += [await respond(worker_bus, ann, instance) for _ in range(3)]
            await until_gone(api_bus, hers[2])

            assert hers[-1] in await has(bus, ann)


async def leader(bus: Bus) -> str | None:
    """Who leads the stream; None while nobody answers."""
    try:
        with translated("ask for the leader"):
            found = (await bus.js.stream_info(subjects.RESPONSES)).cluster
    except QueueUnavailable:
        return None
    return found.leader if found else None


async def test_an_evicted_result_is_gone_and_its_record_stays(tmp_path: Path) -> None:
    """Through the API: 410 for the result and for the logs of what had to go, with the activation's id; its record is
    there; the newest result is there, and so are another user's."""
    async with NatsServer() as nats:
        await bootstrapped(nats.url)
        api_server = ApiServer(nats.url, tmp_path, responses_max_bytes_per_user=MAX)
        async with api_server as api, answering_worker(nats.url):
            ids: dict[str, list[str]] = {"bob": [], "ann": []}
            clients = {}
            for name, calls in (("bob", 1), ("ann", 6)):
                tokens = await api.registered(f"{name}-retention")
                client = clients[name] = api.client(tokens["access_token"])
                await client.post("/v1/functions", json={"name": "echo", "image": "registry.example/echo:1"})
                for _ in range(calls):
                    answer = await client.post("/v1/functions/echo/activations", content=b"x" * MIB)
                    assert answer.status_code == 200
                    ids[name].append(answer.headers["Mayfly-Activation-Id"])

            oldest, newest = f"/v1/activations/{ids['ann'][0]}", f"/v1/activations/{ids['ann'][-1]}"
            async with asyncio.timeout(SOON_S):
                while (gone := await clients["ann"].get(f"{oldest}/result")).status_code != 410:
                    await asyncio.sleep(0.02)
            assert gone.json() | {"code": "gone", "ran": "yes", "activation_id": ids["ann"][0]} == gone.json()
            logs = await clients["ann"].get(f"{oldest}/logs")
            assert (logs.status_code, logs.json()["code"], logs.json()["ran"]) == (410, "gone", "yes")
            record = await clients["ann"].get(oldest)
            assert (record.status_code, record.json()["state"]) == (200, "succeeded")
            assert (await clients["ann"].get(f"{newest}/result")).content == b"x" * MIB
            assert (await clients["bob"].get(f"/v1/activations/{ids['bob'][0]}/result")).status_code == 200
            for client in clients.values():
                await client.aclose()


async def test_an_older_stream_is_brought_up_to_date(nats: Installation, bus: Bus) -> None:
    """`bootstrap` has a stream say what it takes that was made before there were keepers."""
    config = (await bus.js.stream_info(subjects.RESPONSES)).config
    await bus.js.update_stream(config.evolve(republish=None))
    assert (await bus.js.stream_info(subjects.RESPONSES)).config.republish is None

    await bootstrap(bus, nats.bootstrap_settings)

    republish = (await bus.js.stream_info(subjects.RESPONSES)).config.republish
    assert republish is not None
    assert republish.headers_only


@pytest.mark.D7
async def test_only_the_server_says_what_is_kept(nats: Installation, bus: Bus) -> None:
    """Neither role publishes on `kept.>`, a worker does not hear it, and neither writes books that are not its own."""
    async with nats.connect("api") as api, nats.connect("worker") as worker:
        for role, subject in (
            (api, "kept.a.b.c"),
            (worker, "kept.a.b.c"),
            (api, f"response.{new_id()}.{new_id()}.{new_ulid()}"),
        ):
            role.watch.last_error = ""
            await role.client.publish(subject, b"x")
            for _ in range(2):
                await role.client.flush()
            assert "permissions violation for publish" in role.watch.last_error.lower(), subject
        worker.watch.last_error = ""
        await worker.client.subscribe("kept.*.*.*")
        for _ in range(2):
            await worker.client.flush()
        assert "permissions violation for subscription" in worker.watch.last_error.lower()
    with pytest.raises(NotFoundError):
        await bus.js.get_msg(subjects.RESPONSES, 1)
