"""Backups of an installation: what is in them, what comes back, and where it does not go."""

from __future__ import annotations

import asyncio
import contextlib
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mayfly.bus import snapshot, subjects
from mayfly.bus.connection import Bus
from mayfly.bus.queue import in_flight, submit
from mayfly.bus.responses import read_response
from mayfly.bus.stores import Stores
from mayfly.domain.activation import State
from mayfly.domain.errors import NotAllowed, PreconditionFailed, QueueUnavailable, WorkerLost
from mayfly.domain.ids import UserName, new_id
from mayfly.ops.backup import LOGINS, STREAMS, BackupUnusable, backup, restore
from mayfly.services.call import CallOptions
from mayfly.services.invitations import Invitations
from tests.integration.bus.test_queue import _work_of
from tests.support.backup import Content, a_record, fill, mayfly
from tests.support.bus import Installation, installation
from tests.support.cluster import cluster
from tests.support.world import a_world

pytestmark = [pytest.mark.A3, pytest.mark.A4, pytest.mark.D7]


@pytest.fixture
async def elsewhere() -> AsyncIterator[Bus]:
    """Another installation, with nothing in it."""
    async with installation() as made, made.connect("admin") as bus:
        yield bus


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the backup goes."""
    return tmp_path / "mayfly.tar"


async def assert_is_there(bus: Bus, content: Content) -> None:
    """All that lasts is there, and reads as it was written."""
    stores = Stores.on(bus)
    user, function, ended = [
        await store.get(key)
        for store, key in (
            (stores.users, content.user.name),
            (stores.functions, content.function.key),
            (stores.activations, content.ended.key),
        )
    ]
    assert user is not None
    assert user.value == content.user
    assert function is not None
    assert function.value == content.function
    assert ended is not None
    assert ended.value == content.ended
    assert await read_response(bus, content.ended.key, attempt="a") == content.response
    assert (await bus.js.get_last_msg(subjects.AUDIT, "audit.login")).data == b"a line of the trail"


async def all_messages(bus: Bus) -> dict[str, int]:
    """How many messages each stream holds."""
    return {str(info.config.name): info.state.messages for info in await bus.js.streams_info()}


async def test_what_lasts_comes_back_and_nothing_else(bus: Bus, elsewhere: Bus, file: Path) -> None:
    """Users, functions, records, results and the trail come back, what was in flight as lost; logins do not."""
    content = await fill(bus)
    await backup(bus, file)

    said = await restore(elsewhere, file)

    await assert_is_there(elsewhere, content)
    assert await Stores.on(elsewhere).sessions.keys() == []
    lost = await Stores.on(elsewhere).activations.get(content.queued.key)
    assert lost is not None
    assert (lost.value.state, lost.value.code, lost.value.ran) == (State.WORKER_LOST, "worker-lost", "unknown")
    assert lost.value.ended_at == pytest.approx(time.time(), abs=60)
    assert lost.value.nonce != content.queued.nonce
    assert "ended 1 activations as lost, which were in flight when the backup was made" in said
    assert any(line.startswith("nobody is logged in") for line in said)


@pytest.mark.F2
async def test_an_invitation_that_was_used_since_stays_used(bus: Bus, file: Path) -> None:
    """It is in no backup, so that a restore onto its own source gives no used code back; one that is good stays so."""
    invitations = Invitations(Stores.on(bus))
    used, good = [await invitations.issue(UserName("root"), expires_in_s=3600, note="") for _ in range(2)]
    await backup(bus, file)
    await invitations.remove(used.invitation.id)

    await restore(bus, file, replace_all=True)

    with pytest.raises(NotAllowed):
        await invitations.check(used.code)
    assert (await invitations.check(good.code)).value == good.invitation


async def test_what_comes_back_can_be_changed(bus: Bus, elsewhere: Bus, file: Path) -> None:
    """Entries keep their revisions, so that a compare-and-set of one that was restored wins once, and only once."""
    content = await fill(bus)
    await backup(bus, file)
    await restore(elsewhere, file)
    functions = Stores.on(elsewhere).functions
    entry = await functions.get(content.function.key)
    assert entry is not None

    assert await functions.update(entry.key, replace(entry.value, image="alpine"), revision=entry.revision) > 0
    await functions.create("u.new", content.function)


async def test_logins_come_back_when_asked_for(bus: Bus, elsewhere: Bus, file: Path) -> None:
    """With --logins who was logged in is so again."""
    content = await fill(bus)
    await backup(bus, file)

    await restore(elsewhere, file, logins=True)

    session = await Stores.on(elsewhere).sessions.get(f"{content.user.id}.{content.session.id}")
    assert session is not None
    assert session.value == content.session


async def test_who_was_logged_in_here_is_not_any_more(bus: Bus, file: Path) -> None:
    """A restore onto its own source ends the logins that there are, and leaves everything else as it was."""
    content = await fill(bus)
    await backup(bus, file)

    await restore(bus, file, replace_all=True)

    await assert_is_there(bus, content)
    assert (await all_messages(bus))[LOGINS] == 0


async def test_one_server_and_a_cluster_restore_each_other(bus: Bus, file: Path, tmp_path: Path) -> None:
    """A laptop's backup goes into three servers with TLS and three copies, and theirs back onto one."""
    content = await fill(bus)
    await backup(bus, file)
    async with cluster() as nats, nats.connect("admin") as three:
        await restore(three, file)
        await assert_is_there(three, content)
        infos = await three.js.streams_info()
        assert {info.config.num_replicas for info in infos} == {3}
        await backup(three, tmp_path / "back.tar")

    await restore(bus, tmp_path / "back.tar", replace_all=True)

    await assert_is_there(bus, content)
    assert {info.config.num_replicas for info in await bus.js.streams_info()} == {1}


async def test_the_queue_and_its_consumer_are_left_alone(bus: Bus, elsewhere: Bus, file: Path) -> None:
    """Neither a backup nor a restore touches the work stream, and a call that waits is not in the file."""
    content = await fill(bus)
    await submit(bus, _work_of(content.user.id), wait_s=0)
    before = (await bus.js.stream_info(subjects.ACT), await elsewhere.js.consumer_info(subjects.ACT, "workers"))
    await backup(bus, file)
    await restore(elsewhere, file)

    assert subjects.ACT not in STREAMS
    after = (await bus.js.stream_info(subjects.ACT), await elsewhere.js.consumer_info(subjects.ACT, "workers"))
    assert [(one.config, one.created) for one in after] == [(one.config, one.created) for one in before]
    assert await in_flight(bus) == 1
    assert await in_flight(elsewhere) == 0


async def test_the_file_is_for_its_owner_only(bus: Bus, file: Path) -> None:
    """It has password hashes: 0600, whatever the umask; and nothing else is left beside it."""
    await fill(bus)
    await backup(bus, file)

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("there", ["file", "link"])
async def test_nothing_is_overwritten(bus: Bus, file: Path, there: str) -> None:
    """A file of that name, or a link that leads nowhere, is refused, and stays."""
    if there == "file":
        file.write_text("precious")
    else:
        file.symlink_to("nowhere")

    with pytest.raises(BackupUnusable, match=r"is there already|was made by somebody else"):
        await backup(bus, file)

    assert list(file.parent.iterdir()) == [file]


async def test_a_directory_that_is_not_there_is_said(bus: Bus, tmp_path: Path) -> None:
    """The directory is named, rather than a hidden file in it."""
    with pytest.raises(BackupUnusable, match="no directory: make it first"):
        await backup(bus, tmp_path / "not" / "there.tar")


async def test_data_is_removed_only_when_meant(bus: Bus, elsewhere: Bus, file: Path) -> None:
    """An installation that has data is refused by default, saying what it has; with --replace it is the backup's."""
    content = await fill(bus)
    await backup(bus, file)
    other = replace(content.user, name=UserName("bob"))
    await Stores.on(elsewhere).users.create("bob", other)

    with pytest.raises(PreconditionFailed, match=r"KV_users has 1 messages.*--replace"):
        await restore(elsewhere, file)
    assert await Stores.on(elsewhere).users.keys() == ["bob"]

    await restore(elsewhere, file, replace_all=True)
    assert await Stores.on(elsewhere).users.keys() == ["ann"]


async def test_nothing_is_restored_under_calls_in_flight(bus: Bus, elsewhere: Bus, file: Path) -> None:
    """While a call waits or runs a restore is refused, --replace or not: its record would be gone."""
    await backup(bus, file)
    await submit(elsewhere, _work_of(new_id()), wait_s=0)

    with pytest.raises(PreconditionFailed, match="1 activations are in flight here"):
        await restore(elsewhere, file, replace_all=True)


async def test_a_call_that_came_during_the_restore_keeps_its_record(
    bus: Bus, elsewhere: Bus, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only records of the backup are judged by its age; one that an API server made meanwhile is its own."""
    content = await fill(bus)
    await backup(bus, file)
    late = a_record(content.user.id, State.QUEUED)

    original = snapshot.replace

    async def then_a_call(bus: Bus, stream: str, **given: Any) -> None:
        await original(bus, stream, **given)
        if stream == subjects.AUDIT:
            await Stores.on(bus).activations.create(late.key, late)

    monkeypatch.setattr("mayfly.ops.backup.replace", then_a_call)
    await restore(elsewhere, file)

    entries = [await Stores.on(elsewhere).activations.get(key) for key in (late.key, content.queued.key)]
    assert [entry and entry.value.state for entry in entries] == [State.QUEUED, State.WORKER_LOST]


async def test_those_in_flight_have_ended_before_anybody_can_call(
    bus: Bus, elsewhere: Bus, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Functions and users come back last, so nobody repeats a call while its record still says that it is queued."""
    content = await fill(bus)
    await backup(bus, file)
    states: list[State] = []
    original = snapshot.replace

    async def looking(bus: Bus, stream: str, **given: Any) -> None:
        if stream in {"KV_functions", "KV_users"}:
            entry = await Stores.on(bus).activations.get(content.queued.key)
            states.append(entry.value.state if entry else State.QUEUED)
        await original(bus, stream, **given)

    monkeypatch.setattr("mayfly.ops.backup.replace", looking)
    await restore(elsewhere, file)

    assert states == [State.WORKER_LOST] * 2


@pytest.mark.F12
@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
async def test_a_call_with_a_key_does_not_run_again_after_a_restore(
    nats: Installation, bus: Bus, file: Path, state: State
) -> None:
    """Backed up while it was under way, repeated after the restore: it is told to be lost, and nothing runs."""
    key = CallOptions(idempotency_key="invoice 4711")
    async with a_world(nats) as world:
        function = await world.function()
        world.runtime.gate.clear()
        async with world.worker() if state is State.RUNNING else contextlib.nullcontext():
            calling = asyncio.create_task(world.invoke(function, b"x", key))
            await (world.until_started(1) if state is State.RUNNING else world.until(1))
            assert (await world.record(function)).state is state
            await backup(bus, file)
            world.runtime.gate.set()
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)

    async with installation() as made, made.connect("admin") as there, a_world(made) as elsewhere:
        await restore(there, file)
        async with elsewhere.worker():
            with pytest.raises(WorkerLost, match="in flight when the backup was made") as caught:
                await elsewhere.invoke(function, b"x", key)

        assert caught.value.ran == "unknown"
        assert elsewhere.runtime.calls == []


async def test_what_an_earlier_restore_left_out_is_made_again(bus: Bus, elsewhere: Bus, file: Path) -> None:
    """A stream that is missing, because a restore was killed at the wrong moment, is made in its shape and filled."""
    content = await fill(bus)
    await backup(bus, file)
    shape = (await elsewhere.js.stream_info("KV_functions")).config
    await elsewhere.js.delete_stream("KV_functions")

    said = await restore(elsewhere, file)

    assert said[0].startswith("made KV_functions, which was missing")
    await assert_is_there(elsewhere, content)
    assert (await elsewhere.js.stream_info("KV_functions")).config == shape


async def test_a_server_without_our_streams_is_told_apart(bus: Bus, elsewhere: Bus, file: Path) -> None:
    """Where `bootstrap` has not run there is nothing to restore into, and that is said."""
    await backup(bus, file)
    await elsewhere.js.delete_stream(subjects.ACT)

    with pytest.raises(PreconditionFailed, match="run `mayfly bootstrap` first"):
        await restore(elsewhere, file)


@contextlib.asynccontextmanager
async def refused_soon(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Wait no longer than needed for the answer that a refused question does not get; real ones have their time."""
    with monkeypatch.context() as patched:
        patched.setattr(snapshot, "ANSWER_S", 0.5)
        yield


@pytest.mark.parametrize("role", ["api", "worker"])
async def test_only_an_admin_saves_or_restores(
    nats: Installation, bus: Bus, file: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    """With another role's credentials nothing is saved and nothing removed; the command says whose it takes."""
    content = await fill(bus)
    async with nats.connect(role) as other, refused_soon(monkeypatch):
        with pytest.raises(QueueUnavailable):
            await backup(other, file)
        assert not file.exists()
    await backup(bus, file)
    async with nats.connect(role) as other, refused_soon(monkeypatch):
        with pytest.raises(QueueUnavailable):
            await restore(other, file, replace_all=True)
    await assert_is_there(bus, content)

    status, _, complained = await (await mayfly(nats, "restore", file, "--replace", role=role)).ended()
    assert (status, complained) == (
        2,
        f"mayfly: MAYFLY_NATS_USER: {role} may not do this; it takes the user `admin`.\n",
    )


async def test_the_command_says_what_it_did(nats: Installation, bus: Bus, file: Path) -> None:
    """Both commands, run as an operator runs them, end with 0 and one line for each stream."""
    content = await fill(bus)

    saved = await (await mayfly(nats, "backup", file)).ended()
    refused = await (await mayfly(nats, "restore", file)).ended()
    restored = await (await mayfly(nats, "restore", file, "--replace")).ended()

    assert saved[0] == 0, saved[2]
    assert "saved KV_users: 1 messages" in saved[1]
    assert refused[0] == 6
    assert "--replace removes it" in refused[2]
    assert restored[0] == 0, restored[2]
    assert "restored KV_users: 1 messages" in restored[1]
    await assert_is_there(bus, content)


async def test_a_backup_is_made_while_everything_runs(bus: Bus, elsewhere: Bus, file: Path) -> None:
    """Writes go on while a backup is made, and what was confirmed before it began is in it."""
    content = await fill(bus)
    stop = asyncio.Event()
    functions = Stores.on(bus).functions
    written = 0

    async def write() -> None:
        nonlocal written
        while not stop.is_set():
            await functions.put(f"u.f{written % 100}", content.function)
            written += 1

    writing = asyncio.create_task(write())
    await backup(bus, file)
    stop.set()
    await writing

    await restore(elsewhere, file)
    assert written > 0
    await assert_is_there(elsewhere, content)
