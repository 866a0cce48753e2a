"""Secrets and registries over HTTP: what is taken, what is refused and how, and that nothing is ever shown again."""

from __future__ import annotations

import json

import pytest

from mayfly.bus import messages
from mayfly.bus.connection import Bus, connect
from mayfly.bus.stores import Stores
from mayfly.settings import NatsSettings
from tests.integration.api.conftest import Someone
from tests.support.answering import AnsweringWorker
from tests.support.api import ApiServer

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.F4]

VALUE = "of-nobody-else-5d0a"
SECRETS = "/v1/functions/echo/secrets"


async def test_a_secret_is_set_listed_and_deleted(ann: Someone, worker: AnsweringWorker) -> None:
    """PUT and DELETE answer 204 without a body; the list and the function have names, sizes and times, no values."""
    await ann.has()
    made = [
        await ann.client.put(f"{SECRETS}/TOKEN", content=VALUE),
        await ann.client.put(f"{SECRETS}/key_1", params={"as": "file"}, content=b"\n", headers={"Content-Type": "a/b"}),
        await ann.client.put(f"{SECRETS}/TOKEN", data={"any": "form"}),
    ]
    assert [(answer.status_code, answer.content) for answer in made] == [(204, b"")] * 3

    listed = (await ann.client.get(SECRETS)).json()["secrets"]
    assert [(each["key"], each["as"], each["size_bytes"]) for each in listed] == [
        ("TOKEN", "environment", 8),
        ("key_1", "file", 1),
    ]
    one = await ann.client.get(f"{SECRETS}/TOKEN")
    assert one.json() == listed[0]
    assert set(one.json()) == {"key", "as", "size_bytes", "updated_at"}
    assert (await ann.client.get("/v1/functions/echo")).json()["secrets"] == ["TOKEN", "key_1"]
    assert (await ann.client.delete(f"{SECRETS}/TOKEN")).status_code == 204
    assert (await ann.client.get(f"{SECRETS}/TOKEN")).status_code == 404
    assert [each["key"] for each in (await ann.client.get(SECRETS)).json()["secrets"]] == ["key_1"]


async def test_another_user_sees_nothing_of_them(ann: Someone, bob: Someone, worker: AnsweringWorker) -> None:
    """Each call of another user is the 404 of a function that is not there."""
    await ann.has()
    await ann.client.put(f"{SECRETS}/TOKEN", content=VALUE)
    theirs = [
        await bob.client.get(SECRETS),
        await bob.client.get(f"{SECRETS}/TOKEN"),
        await bob.client.put(f"{SECRETS}/TOKEN", content="x"),
        await bob.client.delete(f"{SECRETS}/TOKEN"),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in theirs] == [(404, "not-found")] * 4


@pytest.mark.parametrize(
    ("path", "content", "status", "field", "words"),
    [
        ("A-B", b"x", 400, "key", "letters, digits and _"),
        ("1A", b"x", 400, "key", "letters, digits and _"),
        ("A" * 65, b"x", 400, "key", "1 to 64 characters"),
        ("A%2E%2E", b"x", 400, "key", "letters, digits and _"),
        ("A%00", b"x", 400, "key", "letters, digits and _"),
        ("A?as=argument", b"x", 400, "as", "environment"),
        ("A", b"ok\xff" + VALUE.encode(), 400, "value", "UTF-8, and at byte 2"),
        ("A", b"x" * 65_537, 413, None, "at most 65536 bytes"),
        ("A", b"x\0", 400, "value", "as=file"),
        ("MAYFLY_A", b"x", 400, "key", "Mayfly's own"),
    ],
)
async def test_what_cannot_be_is_refused(
    ann: Someone, worker: AnsweringWorker, *, path: str, content: bytes, status: int, field: str | None, words: str
) -> None:
    """The error names the field and the rule, says none of the value, and nothing is stored."""
    await ann.has()
    answer = await ann.client.put(f"{SECRETS}/{path}", content=content)

    assert answer.status_code == status, answer.text
    assert words in answer.text
    assert VALUE not in answer.text
    assert answer.json()["ran"] == "no"
    if field:
        assert field in (answer.json().get("field"), *(each["field"] for each in answer.json().get("errors", ())))
    assert (await ann.client.get(SECRETS)).json() == {"secrets": []}


async def test_the_value_is_nowhere_but_sealed(
    ann: Someone, api: ApiServer, nats_url: str, worker: AnsweringWorker
) -> None:
    """Neither the log, nor any record of the database, nor the message of a call has a value or a password in it."""
    await ann.has()
    await ann.client.put(f"{SECRETS}/TOKEN", content=VALUE)
    await ann.client.put("/v1/registries/ghcr.io", json={"username": "ann", "password": VALUE})
    for bad in ({"username": "", "password": VALUE}, {"username": "a", "password": f"{VALUE}\n"}, {"passwort": VALUE}):
        refused = await ann.client.put("/v1/registries/ghcr.io", json=bad)
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid-request")
        assert VALUE not in refused.text
    assert (await ann.client.post("/v1/functions/echo/activations", content="x")).status_code == 200

    assert [ref.key for ref in worker.claimed[-1].function.secrets] == ["TOKEN"]
    assert VALUE not in repr(worker.claimed[-1])
    assert VALUE not in json.dumps(api.log)
    async with connect(NatsSettings(nats_url=nats_url), role="test") as bus:
        assert len(await Stores.on(bus).secrets.keys()) > 0
        for stream in await bus.js.streams_info():
            name = str(stream.config.name)
            for seq in range(max(1, stream.state.first_seq), stream.state.last_seq + 1):
                assert VALUE.encode() not in await raw(bus, name, seq), (name, seq)


async def raw(bus: Bus, stream: str, seq: int) -> bytes:
    """A message as it lies in a stream; nothing where it was removed."""
    stored = await messages.read(bus, stream, seq=seq)
    return stored.hdrs + stored.data if stored else b""


async def test_an_account_at_a_registry_is_set_listed_and_deleted(ann: Someone, bob: Someone) -> None:
    """The host is normal in form whatever it is written like; the list has no password; another user sees nothing."""
    body = {"username": "ann", "password": VALUE}
    hosts = ["GHCR.io", "index.docker.io", "localhost:5000", "[::1]:5000"]
    assert [(await ann.client.put(f"/v1/registries/{host}", json=body)).status_code for host in hosts] == [204] * 4

    answer = await ann.client.get("/v1/registries")
    shown = answer.json()["registries"]
    assert [entry["host"] for entry in shown] == ["[::1]:5000", "docker.io", "ghcr.io", "localhost:5000"]
    assert {tuple(entry) for entry in shown} == {("host", "username", "updated_at")}
    assert VALUE not in answer.text
    assert (await bob.client.get("/v1/registries")).json() == {"registries": []}
    assert (await bob.client.delete("/v1/registries/ghcr.io")).status_code == 404
    assert (await ann.client.delete("/v1/registries/ghcr.io")).status_code == 204
    assert (await ann.client.delete("/v1/registries/ghcr.io")).status_code == 404


@pytest.mark.parametrize(
    "host",
    [
        "ghcr",
        "local",
        "--authfile=x.y",
        "-.example",
        "a.b:99999",
        "a.b%2Fc",
        "a..b",
        "a.b%0A",
        "a.b%00",
        "*.io",
        "é.io",
    ],
)
async def test_what_is_no_registry_is_refused(ann: Someone, host: str) -> None:
    """What could be an option, a path or another line is not taken as a host."""
    answer = await ann.client.put(f"/v1/registries/{host}", json={"username": "ann", "password": VALUE})
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["code"] in ("invalid-request", "not-found")
    assert (await ann.client.get("/v1/registries")).json() == {"registries": []}


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_none_of_it_answers_without_a_token(api: ApiServer, method: str) -> None:
    """401, before the body is read."""
    async with api.client() as client:
        for path in (f"{SECRETS}/A", "/v1/registries/ghcr.io" if method != "GET" else "/v1/registries"):
            assert (await client.request(method, path)).status_code == 401


async def test_each_change_is_in_the_trail_without_a_value(ann: Someone, worker: AnsweringWorker) -> None:
    """Set and deleted, a secret and an account at a registry are each an entry that names them; reading is none."""
    await ann.has()
    await ann.client.put(f"{SECRETS}/TOKEN", content=VALUE)
    await ann.client.get(SECRETS)
    await ann.client.delete(f"{SECRETS}/TOKEN")
    await ann.client.put("/v1/registries/ghcr.io", json={"username": "ann", "password": VALUE})
    await ann.client.delete("/v1/registries/ghcr.io")

    answer = await ann.client.get("/v1/audit")
    entries = [(entry["action"], entry["subject"]) for entry in answer.json()["entries"]]
    assert entries[:4] == [
        ("registry.delete", "ghcr.io"),
        ("registry.set", "ghcr.io"),
        ("secret.delete", "echo/TOKEN"),
        ("secret.set", "echo/TOKEN"),
    ]
    assert VALUE not in answer.text


async def test_a_deleted_account_leaves_none(ann: Someone, nats_url: str, worker: AnsweringWorker) -> None:
    """Values and passwords go with it."""
    await ann.has()
    await ann.client.put(f"{SECRETS}/TOKEN", content=VALUE)
    await ann.client.put("/v1/registries/ghcr.io", json={"username": "ann", "password": VALUE})
    user_id = (await ann.client.get("/v1/users/me")).json()["id"]
    async with connect(NatsSettings(nats_url=nats_url), role="test") as bus:
        stores = Stores.on(bus)
        assert len(await stores.secrets.keys(user_id)) == 1

        assert (await ann.client.delete("/v1/users/me")).status_code == 204

        assert await stores.secrets.keys(user_id) == []
        assert [await stores.registries.get(key) for key in await stores.registries.keys(user_id)] == [None]
