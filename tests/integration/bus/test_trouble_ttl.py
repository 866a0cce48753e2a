"""What is written to the bus goes by itself: each entry has a time to live, but for users and their functions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from mayfly.bus import subjects
from mayfly.bus.codec import Codec
from mayfly.bus.connection import Bus
from mayfly.bus.queue import in_flight
from mayfly.bus.schema import AUDIT_KEEP_S
from mayfly.containers.fake import ending
from mayfly.domain.activation import RECORD_MARGIN_S, Activation, State
from mayfly.domain.worker import BEAT_LIVES_S
from mayfly.services.settle import REFUSED_KEEP_S
from mayfly.settings import ApiSettings
from tests.support.bus import installation
from tests.support.whole import FUNCTION, Whole, whole

pytestmark = [pytest.mark.A3, pytest.mark.A4, pytest.mark.F12]

FOR_EVER = ("$KV.users.", "$KV.functions.", "$KV.secrets.", "$KV.registries.")
TRAIL = "audit."  # whose stream keeps nothing longer than `AUDIT_KEEP_S`
KEEP_S = 3600  # of the worker in `whole`
TIMEOUT_S = 60
RECORD = Codec(Activation)


class Stored(msgspec.Struct):
    """A message of a stream, as JetStream's API has it."""

    subject: str
    seq: int
    data: bytes = b""
    hdrs: bytes = b""

    @property
    def headers(self) -> dict[str, str]:
        """Its headers."""
        lines = self.hdrs.decode().split("\r\n")[1:]
        return dict(line.split(": ", 1) for line in lines if ": " in line)

    @property
    def ttl_s(self) -> int | None:
        """How long it lives; None for ever."""
        ttl = self.headers.get("Nats-TTL")
        return None if ttl is None else int(ttl)

    @property
    def is_tombstone(self) -> bool:
        """Whether it marks that an entry was removed."""
        return "KV-Operation" in self.headers


class Answer(msgspec.Struct):
    """What JetStream's API says."""

    message: Stored | None = None


async def everything(bus: Bus) -> AsyncIterator[Stored]:
    """Every message of every stream."""
    for info in await bus.js.streams_info():
        seq = 1
        while True:
            query = msgspec.json.encode({"seq": seq, "next_by_subj": ">"})
            answer = await bus.client.request(f"$JS.API.STREAM.MSG.GET.{info.config.name}", query, timeout=5)
            stored = msgspec.json.decode(answer.data, type=Answer).message
            if stored is None:
                break
            seq = stored.seq + 1
            yield stored


async def use(system: Whole, admin: Bus) -> asyncio.Task[object]:
    """Use an installation in many ways; one call is still running at the end, and another waits behind it."""
    client = system.client
    assert (await system.call(b"works")).status_code == 200
    system.runtime.script = lambda *_: ending(exit_code=3)
    assert (await system.call(b"fails")).status_code == 502
    assert (await client.post("/v1/functions", json={**FUNCTION, "name": "removed"})).status_code == 201
    assert (await client.delete("/v1/functions/removed")).status_code == 204
    other = await system.api.registered("somebody-else")
    async with system.api.client(other["access_token"]) as others:
        assert (await others.delete("/v1/tokens/current")).status_code == 204
    system.runtime.gate.clear()
    running = asyncio.create_task(system.call(b"runs"))
    await system.until_running(1)
    late = await client.post("/v1/functions/f/activations", content=b"late", headers={"Mayfly-Timeout": "2"})
    assert (late.status_code, late.json()["clock"]) == (504, "queue")
    await until_in_flight(admin, 1)
    waiting = asyncio.create_task(system.call(b"waits"))
    await until_in_flight(admin, 2)
    assert (await system.call(b"one too many")).status_code == 429
    return asyncio.create_task(asyncio.wait((running, waiting)), name="calls")


async def until_in_flight(bus: Bus, count: int) -> None:
    """Wait until so many are."""
    async with asyncio.timeout(10):
        while await in_flight(bus) != count:
            await asyncio.sleep(0.02)


async def test_every_entry_has_a_time_to_live(tmp_path: Path) -> None:
    """
    In a used installation, with calls of every ending and one under way, only users and what they have registered stay
    for ever, or what says that one was deleted. The trail's stream drops what is too old.
    """
    installed = installation(max_activations=2, max_activations_per_user=2)
    async with installed as nats, whole(nats, tmp_path, slots=1) as system:
        async with nats.connect("admin") as admin:
            calls = await use(system, admin)
            found = [stored async for stored in everything(admin)]
            trail = (await admin.js.stream_info(subjects.AUDIT)).config
        system.runtime.gate.set()
        await calls

    assert trail.max_age == AUDIT_KEEP_S
    for_ever = [stored for stored in found if stored.ttl_s is None and not stored.subject.startswith(TRAIL)]
    assert for_ever
    assert all(stored.subject.startswith(FOR_EVER) for stored in for_ever)
    kinds = {stored.subject.removeprefix("$KV.").partition(".")[0] for stored in found}
    assert {"users", "sessions", "functions", "activations", "workers", "act", "response"} <= kinds
    for stored in found:
        check_ttl(stored)
    states = {RECORD.decode(stored.data).state for stored in found if is_record(stored)}
    assert states >= {State.SUCCEEDED, State.FAILED, State.TIMED_OUT, State.REFUSED, State.RUNNING, State.QUEUED}


def is_record(stored: Stored) -> bool:
    """Whether it is an activation's."""
    return stored.subject.startswith(f"$KV.{subjects.ACTIVATIONS}.")


def check_ttl(stored: Stored) -> None:
    """It lives as long as design and settings say."""
    bucket = stored.subject.split(".")[1] if stored.subject.startswith("$KV.") else ""
    if stored.is_tombstone:
        assert (stored.ttl_s is None) == (bucket in (subjects.USERS, subjects.FUNCTIONS)), stored.subject
    elif is_record(stored):
        check_record(RECORD.decode(stored.data), stored.ttl_s or 0)
    elif bucket == subjects.SESSIONS:
        assert stored.ttl_s == ApiSettings.model_fields["refresh_token_s"].default
    elif bucket == subjects.WORKERS:
        assert stored.ttl_s == int(BEAT_LIVES_S)
    elif stored.subject.startswith("act."):
        assert RECORD_MARGIN_S <= (stored.ttl_s or 0) <= RECORD_MARGIN_S + TIMEOUT_S


def check_record(record: Activation, ttl_s: int) -> None:
    """A record lives an hour beyond its deadline, a finished one as long as is set, a refused one a minute."""
    if record.state is State.REFUSED:
        assert ttl_s == REFUSED_KEEP_S
    elif record.state.is_final:
        assert ttl_s in (KEEP_S, ApiSettings.model_fields["record_keep_s"].default), record.state
    else:
        left_s = record.deadline_at - record.created_at
        assert RECORD_MARGIN_S <= ttl_s <= RECORD_MARGIN_S + left_s, record.state
