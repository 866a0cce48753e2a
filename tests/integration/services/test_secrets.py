"""Secrets and registries' passwords on a real nats-server: set by API servers, opened by workers, lost to nobody."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mayfly.bus import messages
from mayfly.bus.connection import Bus
from mayfly.bus.store import Conflict
from mayfly.bus.stores import Stores
from mayfly.bus.subjects import FUNCTIONS, SECRETS, kv_subject
from mayfly.domain.errors import (
    Gone,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
    QueueUnavailable,
    SecretUnavailable,
)
from mayfly.domain.function import Function, FunctionSpec
from mayfly.domain.ids import Digest, FunctionName, UserId, new_id, new_ulid
from mayfly.domain.registry import OpenedCredentials, registry_key
from mayfly.domain.secret import SECRETS_MAX, VALUE_MAX_BYTES, Delivery, Secret, secret_key
from mayfly.services import registries, secret_values, secrets
from mayfly.services.functions import Functions
from mayfly.services.orphans import Orphans
from mayfly.services.registries import Registries
from mayfly.services.secret_values import SecretValues
from mayfly.services.secrets import Secrets
from mayfly.worker.secrets import credentials_finder, open_secrets
from tests.support.bus import installation
from tests.support.sealing import SealingKeys

pytestmark = pytest.mark.F4

ENVIRONMENT, FILE = Delivery.ENVIRONMENT, Delivery.FILE


@dataclass
class Both:
    """An API server's services and a worker's stores, each with its own permissions and keys."""

    keys: SealingKeys
    bus: Bus
    api: Stores
    worker: Stores
    functions: Functions
    secrets: Secrets
    registries: Registries

    async def function(self, owner: UserId | None = None, name: str = "f") -> Function:
        """Register a function."""
        made = Function(
            id=new_id(),
            user_id=owner or UserId(new_id()),
            name=FunctionName(name),
            image="busybox",
            digest=Digest("sha256:" + "0" * 64),
            created_at=1,
            updated_at=1,
        )
        await self.api.functions.create(made.key, made)
        return made

    async def put(self, function: Function, key: str, value: bytes, delivery: Delivery = ENVIRONMENT) -> None:
        """Set a secret."""
        await self.secrets.put(function.user_id, function.name, key, value, delivery)

    async def now(self, function: Function) -> Function:
        """Read a function's record, as a worker does."""
        entry = await self.worker.functions.get(function.key)
        assert entry
        return entry.value

    async def opened(self, function: Function) -> dict[str, bytes]:
        """What a call that starts now is given."""
        opened = await open_secrets(self.worker, self.keys.opener, await self.now(function))
        return {one.key: one.value for one in opened}

    async def stored(self, function: Function) -> list[str]:
        """The keys of all values of a function."""
        return await self.api.secrets.keys(f"{function.user_id}.{function.id}")


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Both]:
    """A fresh installation."""
    async with installation() as made, made.connect("api") as bus, made.connect("worker") as workers:
        keys, api = SealingKeys(tmp_path / "keys"), Stores.on(bus)
        functions = Functions(bus, api)
        setting, accounts = Secrets(api, functions, keys.sealer), Registries(api, keys.sealer)
        yield Both(keys, bus, api, Stores.on(workers), functions, setting, accounts)


async def test_the_next_call_has_what_was_set(both: Both) -> None:
    """From the moment `put` returns; replaced, the old value is gone from the bucket; deleted, so is the new one."""
    function = await both.function()
    await both.put(function, "A", b"one")
    await both.put(function, "B", b"\xc3\xa9" * 10, FILE)
    assert await both.opened(function) == {"A": b"one", "B": b"\xc3\xa9" * 10}

    await both.put(function, "A", b"two", FILE)
    assert await both.opened(function) == {"A": b"two", "B": b"\xc3\xa9" * 10}
    assert len(await both.stored(function)) == 2
    listed = await both.secrets.list(function.user_id, function.name)
    assert [(ref.key, ref.delivery, ref.size_bytes) for ref in listed] == [("A", FILE, 3), ("B", FILE, 20)]

    await both.secrets.delete(function.user_id, function.name, "A")
    assert await both.opened(function) == {"B": b"\xc3\xa9" * 10}
    assert len(await both.stored(function)) == 1
    with pytest.raises(NotFound, match="has no secret 'A'"):
        await both.secrets.delete(function.user_id, function.name, "A")


async def test_replacing_a_function_keeps_its_secrets(both: Both) -> None:
    """They belong to the registration, and what PUT says of a function does not speak of them."""
    function = await both.function()
    await both.put(function, "A", b"one")
    spec = FunctionSpec(image="busybox", args=("other",))

    async def let_in() -> None:
        """The owner may still do it."""

    await both.functions.replace(function.user_id, function.name, spec, if_match=None, pull=False, ask_again=let_in)

    assert (await both.now(function)).args == ("other",)

    assert await both.opened(function) == {"A": b"one"}


async def test_they_go_with_their_function(both: Both) -> None:
    """Deregistered and registered again under the name, it has none; nothing is left in the bucket."""
    function = await both.function()
    await both.put(function, "A", b"one")

    await both.functions.deregister(function.user_id, function.name)
    again = await both.function(function.user_id)

    assert await both.stored(function) == []
    assert await both.opened(again) == {}


async def test_another_users_secrets_are_out_of_reach(both: Both) -> None:
    """Functions of one name, with secrets of one key: each owner's are its own, and nobody can name another's."""
    ann, bob = await both.function(), await both.function()
    await both.put(ann, "A", b"ann's")

    assert await both.opened(bob) == {}
    with pytest.raises(NotFound):
        await both.secrets.get(bob.user_id, bob.name, "A")
    with pytest.raises(NotFound):
        await both.secrets.put(bob.user_id, FunctionName("unknown"), "A", b"x", ENVIRONMENT)


async def test_a_value_that_was_moved_is_not_opened(both: Both) -> None:
    """Whoever can write the database can give one user's value to another's function, and it is of no use to it."""
    ann, bob = await both.function(), await both.function()
    await both.put(ann, "A", b"ann's")
    await both.put(bob, "A", b"bob's")
    [anns], [bobs] = await both.stored(ann), await both.stored(bob)
    stolen, place = await both.api.secrets.get(anns), await both.api.secrets.get(bobs)
    assert stolen
    assert place

    await both.api.secrets.update(bobs, stolen.value, revision=place.revision)

    with pytest.raises(SecretUnavailable, match="was not sealed for it"):
        await both.opened(bob)
    assert await both.opened(ann) == {"A": b"ann's"}


async def test_a_value_whose_key_is_lost_is_not_run_without(both: Both) -> None:
    """The call is refused, and setting it again with the key that is there puts it right."""
    function = await both.function()
    await both.put(function, "A", b"one")
    [old] = both.keys.kids
    both.keys.add(f"{old}-z")
    both.keys.forget(old)

    with pytest.raises(SecretUnavailable, match="Set it again"):
        await both.opened(function)
    secrets = Secrets(both.api, both.functions, both.keys.sealer)
    await secrets.put(function.user_id, function.name, "A", b"two", ENVIRONMENT)
    assert await both.opened(function) == {"A": b"two"}


@pytest.mark.parametrize(
    ("key", "value", "delivery", "words"),
    [
        ("MAYFLY_TOKEN", b"x", ENVIRONMENT, "Mayfly's own"),
        ("A", b"a\0b", ENVIRONMENT, "NUL character at byte 1"),
        ("A", b"x" * (32 * 1024), ENVIRONMENT, "32768 bytes in all"),
    ],
)
async def test_what_no_variable_can_be_is_refused(
    both: Both, key: str, value: bytes, delivery: Delivery, words: str
) -> None:
    """With the rule and the remedy, and nothing is stored; as a file it is taken."""
    function = await both.function()

    with pytest.raises(InvalidRequest, match=words) as refused:
        await both.put(function, key, value, delivery)

    assert refused.value.members["field"] in ("key", "value")
    assert await both.stored(function) == []
    await both.put(function, key, value, FILE)
    assert await both.opened(function) == {key: value}


async def test_there_is_a_limit_to_their_number_and_size(both: Both) -> None:
    """Exact, however many are set at once: 32 in all, and 256 KiB of files; what is refused leaves nothing."""
    function = await both.function()
    names = [f"S{number}" for number in range(SECRETS_MAX - 2)]
    for name in names:
        await both.put(function, name, b"x")
    more = [both.put(function, f"MORE{number}", b"x") for number in range(4)]
    outcomes = await asyncio.gather(*more, return_exceptions=True)

    assert sorted(type(each).__name__ for each in outcomes) == ["InvalidRequest"] * 2 + ["NoneType"] * 2
    assert len(await both.opened(function)) == len(await both.stored(function)) == SECRETS_MAX
    await both.put(function, "S0", b"y")  # of one that is there, another value is taken

    large = await both.function()
    for name in ("A", "B", "C"):
        await both.put(large, name, b"x" * VALUE_MAX_BYTES, FILE)
    with pytest.raises(InvalidRequest, match="262144 bytes in all"):
        await both.put(large, "D", b"x" * VALUE_MAX_BYTES, FILE)
    assert len(await both.stored(large)) == 3


async def test_of_those_who_set_one_at_once_the_last_stands(both: Both) -> None:
    """Ten at once: all are told that it is set, one value is given, one is stored, whoever deletes meanwhile."""
    function = await both.function()
    await both.put(function, "A", b"start")
    puts = [both.put(function, "A", f"{number}".encode()) for number in range(6)]
    delete = both.secrets.delete(function.user_id, function.name, "A")
    outcomes = await asyncio.gather(*puts[:3], delete, *puts[3:], return_exceptions=True)

    assert not [each for each in outcomes if isinstance(each, Exception) and not isinstance(each, NotFound)]
    given = await both.opened(function)
    assert len(await both.stored(function)) == len(given) <= 1


async def test_a_worker_that_reads_while_it_is_replaced_gets_the_new_one(both: Both) -> None:
    """What its record names is gone by the time it asks: it reads the record again. Deregistered, there is nothing."""
    function = await both.function()
    await both.put(function, "A", b"one")
    before = await both.now(function)
    await both.put(function, "A", b"two")
    await both.put(function, "B", b"three")

    opened = await open_secrets(both.worker, both.keys.opener, before)
    assert {one.key: one.value for one in opened} == {"A": b"two", "B": b"three"}
    await both.functions.deregister(function.user_id, function.name)
    with pytest.raises(Gone, match="deregistered"):
        await open_secrets(both.worker, both.keys.opener, before)


async def test_a_name_without_its_value_is_said(both: Both) -> None:
    """As after a backup in whose middle it was deleted: the call is refused, naming it, and does not run without."""
    function = await both.function()
    await both.put(function, "A", b"one")
    [key] = await both.stored(function)
    await both.api.secrets.erase(key)

    with pytest.raises(SecretUnavailable, match="The value of secret 'A' is gone"):
        await both.opened(function)


async def test_a_crash_while_deregistering_leaves_no_value_for_long(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What is left of a function that is gone goes at the second look at which it has none; what is of a function that is
    there stays, and so does all of an owner of whose functions one cannot be read.
    """
    left, kept, unclear, other = [await both.function() for _ in range(4)]
    for each in (left, kept, unclear):
        await both.put(each, "A", b"one")

    async def killed(*_: object) -> None:
        raise QueueUnavailable

    with monkeypatch.context() as crash:
        crash.setattr(SecretValues, "forget", killed)
        for each in (left, unclear):
            with pytest.raises(QueueUnavailable):
                await both.functions.deregister(each.user_id, each.name)
    await both.bus.js.publish(kv_subject(FUNCTIONS, f"{unclear.user_id}.{other.name}"), b"garbage")
    await both.bus.js.publish(kv_subject(SECRETS, "of-nobody"), b"garbage")
    orphans = Orphans(both.api)

    await orphans.sweep()
    assert len(await both.stored(left)) == 1
    await orphans.sweep()
    assert await both.stored(left) == []
    assert "of-nobody" not in await both.api.secrets.keys()
    assert [len(await both.stored(each)) for each in (kept, unclear)] == [1, 1]
    assert await both.opened(kept) == {"A": b"one"}


async def test_a_value_that_came_before_its_function_stays(both: Both) -> None:
    """A restored backup has values before functions: one that had none at one look and has one at the next is kept."""
    function = await both.function()
    await both.put(function, "A", b"one")
    entry = await both.api.functions.get(function.key)
    assert entry
    await both.api.functions.delete(function.key, revision=entry.revision)
    orphans = Orphans(both.api)
    await orphans.sweep()
    await both.api.functions.create(function.key, entry.value)
    await orphans.sweep()
    await orphans.sweep()
    assert await both.opened(function) == {"A": b"one"}


async def test_a_crash_before_the_record_changes_nothing(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between value and record, the call still has the old one; the next change sweeps what was left."""
    function = await both.function()
    await both.put(function, "A", b"one")

    async def lost(*_: object, **__: object) -> None:
        raise QueueUnavailable

    with monkeypatch.context() as crash:
        crash.setattr(Secrets, "_change", lost)
        with pytest.raises(QueueUnavailable):
            await both.put(function, "A", b"two")
    assert await both.opened(function) == {"A": b"one"}
    assert len(await both.stored(function)) == 2

    await both.put(function, "B", b"b")
    assert len(await both.stored(function)) == 3  # too young: it might be about to be named
    old = secret_key(function.user_id, function.id, "A", new_ulid(time.time() - secret_values.LEFT_S - 60))
    await both.api.secrets.create(old, Secret(sealed=both.keys.sealer.seal(b"x", ("p",))))
    await both.put(function, "B", b"c")
    assert old not in await both.stored(function)
    assert await both.opened(function) == {"A": b"one", "B": b"c"}


@pytest.mark.parametrize("attempts", [8, 1], ids=["repeated", "given up"])
async def test_an_attempt_whose_answer_was_lost_keeps_its_value(
    both: Both, monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    """The record was written, nobody heard it, and somebody else has built upon it: what it names stays readable."""
    function = await both.function()
    update = both.api.functions.update

    async def unheard(key: str, value: Function, *, revision: int, ttl_s: float | None = None) -> int:
        monkeypatch.setattr(both.api.functions, "update", update)
        await update(key, value, revision=revision)
        await both.put(function, "B", b"two")
        raise Conflict(key)

    monkeypatch.setattr(both.api.functions, "update", unheard)
    monkeypatch.setattr(secrets, "CHANGE_ATTEMPTS", attempts)
    with pytest.raises(PreconditionFailed) if attempts == 1 else contextlib.nullcontext():
        await both.put(function, "A", b"one")

    assert await both.opened(function) == {"A": b"one", "B": b"two"}


async def test_what_was_deleted_is_overwritten_in_the_store(both: Both) -> None:
    """Not even its sealed bytes stay in the bucket: the message is erased, without a tombstone."""
    function = await both.function()
    await both.put(function, "A", b"one")
    [key] = await both.stored(function)

    await both.secrets.delete(function.user_id, function.name, "A")

    assert await both.api.secrets.get(key) is None
    assert await both.api.secrets.count() == 0


async def test_a_value_that_cannot_be_read_goes_too(both: Both) -> None:
    """Damaged, or of a later version, it is no reason to keep a user who goes."""
    function = await both.function()
    await both.put(function, "A", b"one")
    [key] = await both.stored(function)
    await both.bus.js.publish(kv_subject(SECRETS, key), b"\xff")

    await SecretValues(both.api.secrets).forget(function.user_id)

    assert await both.api.secrets.count() == 0


async def test_a_value_that_is_resealed_while_it_is_erased_goes(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written anew between the look and the erasure is not left, under a name that nobody knows any more."""
    function = await both.function()
    await both.put(function, "A", b"one")
    [key] = await both.stored(function)
    delete = messages.delete

    async def overtaken(*given: Any, **how: Any) -> bool:
        monkeypatch.setattr(messages, "delete", delete)
        entry = await both.api.secrets.get(key)
        assert entry
        await both.api.secrets.update(key, entry.value, revision=entry.revision)
        return await delete(*given, **how)

    monkeypatch.setattr(messages, "delete", overtaken)
    await both.secrets.delete(function.user_id, function.name, "A")

    assert await both.api.secrets.count() == 0


async def test_credentials_are_one_users_for_one_host(both: Both) -> None:
    """The worker finds them for that user and host alone; replaced and deleted, the next pull sees it."""
    find = credentials_finder(both.worker, both.keys.opener)
    ann, bob = UserId(new_id()), UserId(new_id())
    await both.registries.put(ann, "ghcr.io", username="ann", password="s3cret")
    await both.registries.put(ann, "localhost:5000", username="a", password="b")

    assert await find(ann, "ghcr.io") == OpenedCredentials(username="ann", password="s3cret")
    assert await find(bob, "ghcr.io") is None
    assert await find(ann, "ghcr.io.evil.example") is None
    assert [entry.host for entry in await both.registries.list(ann)] == ["ghcr.io", "localhost:5000"]
    assert await both.registries.list(bob) == []

    await both.registries.put(ann, "ghcr.io", username="ann2", password="other")
    assert await find(ann, "ghcr.io") == OpenedCredentials(username="ann2", password="other")
    await both.registries.delete(ann, "ghcr.io")
    assert await find(ann, "ghcr.io") is None
    with pytest.raises(NotFound):
        await both.registries.delete(bob, "localhost:5000")


async def test_moved_credentials_are_not_opened(both: Both) -> None:
    """Under another user's key, or with another host or name beside it, a password is of no use."""
    find = credentials_finder(both.worker, both.keys.opener)
    ann, bob = UserId(new_id()), UserId(new_id())
    await both.registries.put(ann, "ghcr.io", username="ann", password="s3cret")
    entry = await both.api.registries.get(registry_key(ann, "ghcr.io"))
    assert entry
    await both.api.registries.create(registry_key(bob, "ghcr.io"), entry.value)
    evil = replace(entry.value, host="evil.example")
    await both.api.registries.create(registry_key(ann, "evil.example"), evil)

    for owner, host in ((bob, "ghcr.io"), (ann, "evil.example")):
        with pytest.raises(SecretUnavailable, match=f"Your password for registry {host}"):
            await find(owner, host)


async def test_registries_have_a_limit(both: Both) -> None:
    """32 of a user; of one that is there, other credentials are taken."""
    ann = UserId(new_id())
    for number in range(32):
        await both.registries.put(ann, f"r{number}.example", username="a", password="b")
    with pytest.raises(InvalidRequest, match="32 registries"):
        await both.registries.put(ann, "more.example", username="a", password="b")
    await both.registries.put(ann, "r1.example", username="a", password="c")


async def test_deleted_registries_do_not_pile_up(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each leaves a tombstone that every list reads: so hosts have a limit as well, and a known one can come back."""
    monkeypatch.setattr(registries, "HOSTS_MAX", 3)
    ann = UserId(new_id())
    for number in range(3):
        await both.registries.put(ann, f"r{number}.example", username="a", password="b")
        await both.registries.delete(ann, f"r{number}.example")

    with pytest.raises(InvalidRequest, match="deleted included"):
        await both.registries.put(ann, "more.example", username="a", password="b")
    await both.registries.put(ann, "r1.example", username="a", password="c")

    assert [entry.host for entry in await both.registries.list(ann)] == ["r1.example"]
