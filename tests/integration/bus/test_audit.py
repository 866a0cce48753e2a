"""The stream of the audit trail: whole chains, whatever races or is lost, and room of its own for each user."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from mayfly.bus import subjects
from mayfly.bus.audit import ENTRY, AuditStream
from mayfly.bus.connection import Bus
from mayfly.bus.schema import AUDIT_ENTRY_MAX_BYTES, AUDIT_MAX_ENTRIES, audit_stream
from mayfly.domain.audit import SUBJECT_MAX_CHARACTERS, Action, Actor, AuditEntry
from mayfly.domain.errors import QueueUnavailable
from mayfly.domain.ids import SessionId, UserId, UserName, new_id, new_ulid
from mayfly.settings import BootstrapSettings
from tests.support.bus import Installation
from tests.support.lossy import Wire

pytestmark = pytest.mark.F3


def an_entry(subject: str | None = None) -> AuditEntry:
    """An entry."""
    return AuditEntry(id=new_ulid(), at=1.0, action=Action.SESSION_END, subject=subject, actor=Actor(by="user"))


async def read_back(bus: Bus, line: str) -> list[AuditEntry]:
    """All that can be reached from the newest, the newest first."""
    entries = []
    found = await AuditStream(bus).newest(line)
    while found:
        entries.append(found.entry)
        found = await AuditStream(bus).at(line, found.entry.previous)
    return entries


async def test_what_is_appended_at_once_is_read_back_whole(nats: Installation) -> None:
    """Forty entries of one user, by two API servers at once, beside forty of another, are all in his chain, once."""
    ann, bob = (subjects.audit(new_id(), subjects.DONE) for _ in range(2))
    async with nats.connect("api") as one, nats.connect("api") as other:
        servers = [AuditStream(one), AuditStream(other)]
        appended = [(trail, line, an_entry(f"{n}")) for n in range(20) for trail in servers for line in (ann, bob)]
        await asyncio.gather(*(trail.append(line, entry) for trail, line, entry in appended))

        for line in (ann, bob):
            meant = {entry.id for _, where, entry in appended if where == line}
            found = [entry.id for entry in await read_back(one, line)]
            assert len(found) == len(meant) == 40
            assert set(found) == meant


@pytest.mark.parametrize("seed", range(3))
async def test_an_answer_that_is_lost_makes_no_second_entry(nats: Installation, seed: int) -> None:
    """Whatever becomes of publications and their answers, each entry is there once, in order."""
    line = subjects.audit(new_id(), subjects.DONE)
    entries = [an_entry(f"{n}") for n in range(6)]
    async with nats.connect("api") as bus:
        wire = Wire(bus, seed)
        for entry in entries:
            await AuditStream(wire.client()).append(line, entry)
        await wire.arrive(everything=True)

        found = await read_back(bus, line)
        assert [entry.id for entry in found] == [entry.id for entry in reversed(entries)]


async def test_who_makes_many_entries_pushes_out_his_own(bus: Bus) -> None:
    """
    A user and kind has so many entries and no more: a flood of one user's leaves another's, and a flood of logins tried
    in his name leaves what he did. What is left of a chain is read to its new end.
    """
    config = audit_stream(BootstrapSettings())
    assert config.max_msgs_per_subject == AUDIT_MAX_ENTRIES
    await bus.js.update_stream(config.evolve(max_msgs_per_subject=5))
    ann, bob = new_id(), new_id()
    for line in (subjects.audit(ann, subjects.DONE), subjects.audit(bob, subjects.DONE)):
        await AuditStream(bus).append(line, an_entry("the first"))

    for n in range(12):
        await AuditStream(bus).append(subjects.audit(ann, subjects.TRIED), an_entry(f"tried {n}"))
        await AuditStream(bus).append(subjects.audit(bob, subjects.DONE), an_entry(f"flood {n}"))

    tried = await read_back(bus, subjects.audit(ann, subjects.TRIED))
    assert [entry.subject for entry in tried] == [f"tried {n}" for n in range(11, 6, -1)]
    assert [entry.subject for entry in await read_back(bus, subjects.audit(ann, subjects.DONE))] == ["the first"]
    assert len(await read_back(bus, subjects.audit(bob, subjects.DONE))) == 5


async def test_an_entry_of_another_subject_is_not_found(bus: Bus) -> None:
    """Where another user's entry lies there is nothing for this one, nor where nobody's does."""
    ann, bob = (subjects.audit(new_id(), subjects.DONE) for _ in range(2))
    await AuditStream(bus).append(ann, an_entry("hers"))
    hers = await AuditStream(bus).newest(ann)
    assert hers

    assert await AuditStream(bus).at(bob, hers.seq) is None
    assert await AuditStream(bus).at(ann, hers.seq) == hers
    for seq in (0, hers.seq + 1, 1 << 40):
        assert await AuditStream(bus).at(ann, seq) is None
    assert await AuditStream(bus).newest(bob) is None


async def test_a_chain_cannot_lead_forwards(bus: Bus) -> None:
    """An entry that names itself, or a later one, as the one before ends the chain: no reader goes round."""
    line = subjects.audit(new_id(), subjects.DONE)
    for previous in (1, 2, 99):
        await bus.js.publish(line, ENTRY.encode(replace(an_entry(), previous=previous)))
        found = await AuditStream(bus).newest(line)
        assert found
        assert found.entry.previous < found.seq


async def test_what_cannot_be_read_ends_a_chain(bus: Bus) -> None:
    """An entry of a later version is passed over with what is behind it, and nothing fails."""
    line = subjects.audit(new_id(), subjects.DONE)
    await AuditStream(bus).append(line, an_entry("older"))
    await bus.js.publish(line, ENTRY.encode(replace(an_entry(), v=9)))

    assert await AuditStream(bus).newest(line) is None


async def test_the_largest_entry_fits(bus: Bus) -> None:
    """An entry with the longest of everything is taken, with room to spare; a larger message is refused."""
    actor = Actor(
        by="operator",
        user_id=UserId("u" * 32),
        user_name=UserName("n" * 32),
        session_id=SessionId("s" * 32),
        address="ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        request_id="r" * 64,
    )
    largest = replace(an_entry("\U0001f600" * SUBJECT_MAX_CHARACTERS), actor=actor, code="c" * 40, times=1 << 40)
    line = subjects.audit("u" * 32, subjects.DONE)

    await AuditStream(bus).append(line, largest)

    assert [entry.subject for entry in await read_back(bus, line)] == [largest.subject]
    assert len(ENTRY.encode(largest)) < AUDIT_ENTRY_MAX_BYTES - 256
    with pytest.raises(QueueUnavailable):
        await AuditStream(bus).append(line, replace(largest, subject="x" * AUDIT_ENTRY_MAX_BYTES))


async def test_without_the_stream_nothing_is_said_to_be_written(nats: Installation, bus: Bus) -> None:
    """Where the trail takes nothing an append is an error, and soon."""
    await bus.js.delete_stream(subjects.AUDIT)
    async with nats.connect("api") as api_bus:
        with pytest.raises(QueueUnavailable):
            await AuditStream(api_bus).append(subjects.audit(new_id(), subjects.DONE), an_entry())
