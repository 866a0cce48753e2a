"""What a call is given of its function's secrets, by the real worker, over a runtime that starts nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from mayfly.bus.stores import Stores
from mayfly.domain.activation import State
from mayfly.domain.errors import ImageUnavailable, SecretUnavailable
from mayfly.domain.function import Function
from mayfly.domain.secret import Delivery
from mayfly.services.functions import Functions
from mayfly.services.sealing import Opener
from mayfly.services.secrets import Secrets
from mayfly.worker.secrets import open_secrets
from tests.support.sealing import SealingKeys
from tests.support.world import World

pytestmark = pytest.mark.F4


@pytest.fixture
def keys(tmp_path: Path, world: World) -> SealingKeys:
    """The keys; the world's worker has the private one."""
    made = SealingKeys(tmp_path)
    world.opener = made.opener
    return made


async def put(world: World, keys: SealingKeys, function: Function, **values: Any) -> None:
    """Set secrets: text as variables, bytes as files."""
    secrets = Secrets(world.stores, Functions(world.bus, world.stores), keys.sealer)
    for key, value in values.items():
        delivery = Delivery.ENVIRONMENT if isinstance(value, str) else Delivery.FILE
        content = value.encode() if isinstance(value, str) else value
        await secrets.put(function.user_id, function.name, key, content, delivery)


async def test_a_call_is_given_them(world: World, keys: SealingKeys) -> None:
    """
    Variables go after the registration's and before ours, files beside; only a container with files has room. As these
    were admitted before they had any, the one that was made without room is not used.
    """
    function = await world.function(env=(("TOKEN", "of the registration"),))
    other = await world.function()
    await put(world, keys, function, TOKEN="☃ first", KEY=b"a\n")
    await put(world, keys, other, TOKEN="other's")
    async with world.worker():
        assert await world.invoke(function) == b"x"
        assert await world.invoke(other) == b"x"

    (of_first, first), (of_second, second) = world.runtime.calls
    assert dict(first.env)["TOKEN"] == "☃ first"
    assert first.files == (("KEY", b"a\n"),)
    assert dict(first.env)["MAYFLY_FUNCTION"] == function.name
    assert (dict(second.env)["TOKEN"], second.files) == ("other's", ())
    has_room = {spec.id: spec.has_secret_files for spec in world.runtime.created}
    assert (has_room[of_first], has_room[of_second]) == (True, False)
    assert world.runtime.removed == list(has_room)
    assert "first" not in repr(first)


async def test_a_call_that_waited_has_what_there_is_when_it_starts(world: World, keys: SealingKeys) -> None:
    """Set while the call was in the queue, it is given; deleted meanwhile, it is not."""
    function = await world.function()
    await put(world, keys, function, OLD="deleted")
    await world.queued(function)
    secrets = Secrets(world.stores, Functions(world.bus, world.stores), keys.sealer)
    await secrets.delete(function.user_id, function.name, "OLD")
    await put(world, keys, function, NEW="set later")
    async with world.worker():
        await world.until_started(1)

    [(_, call)] = world.runtime.calls
    assert dict(call.env)["NEW"] == "set later"
    assert "OLD" not in dict(call.env)


async def replaced(world: World, function: Function, **changes: Any) -> Function:
    """Replace what is said of a function, and return it as it is now."""
    entry = await world.stores.functions.get(function.key)
    assert entry
    now = replace(entry.value, **changes)
    await world.stores.functions.update(entry.key, now, revision=entry.revision)
    return now


async def test_a_replaced_program_gets_no_secret_that_was_set_after_it(world: World, keys: SealingKeys) -> None:
    """
    A call that waited while its function was replaced runs the old image, which may have been replaced because nobody
    trusts it any more. It has what it was admitted with; a call that came after has the new one.
    """
    function = await world.function()
    await put(world, keys, function, OLD="its own")
    before = await replaced(world, function)
    await world.queued(before)
    now = await replaced(world, function, image="another")
    await put(world, keys, function, NEW="not for the old one")
    async with world.worker():
        await world.until_started(1)
        assert await world.invoke(now) == b"x"

    first, second = (dict(call.env) for _, call in world.runtime.calls)
    assert (first.get("OLD"), first.get("NEW")) == ("its own", None)
    assert (second.get("OLD"), second.get("NEW")) == ("its own", "not for the old one")


@pytest.mark.parametrize("change", ["set anew", "deleted"])
async def test_a_replaced_program_whose_secret_was_changed_is_not_run(
    change: str, world: World, keys: SealingKeys
) -> None:
    """The new value is not given to it, and without any it is not run: the call is refused, and says why."""
    function = await world.function()
    await put(world, keys, function, TOKEN="before")
    await world.queued(await replaced(world, function))
    await replaced(world, function, args=("other",))
    if change == "set anew":
        await put(world, keys, function, TOKEN="after")
    else:
        secrets = Secrets(world.stores, Functions(world.bus, world.stores), keys.sealer)
        await secrets.delete(function.user_id, function.name, "TOKEN")
    async with world.worker(), asyncio.timeout(20):
        while not (record := await world.record(function)).state.is_final:
            await asyncio.sleep(0.02)

    assert (record.state, record.ran, record.code) == (State.REFUSED, "no", "secret-unavailable")
    assert "was replaced while this call waited, and its secret 'TOKEN'" in (record.detail or "")
    assert world.runtime.calls == []


async def test_an_image_without_room_for_secrets_is_refused(world: World, keys: SealingKeys, tmp_path: Path) -> None:
    """422, the image's fault and not ours, before a container is made; as variables it is given them."""
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "run").symlink_to("/etc")
    world.images.rootfs = tmp_path / "image"
    function = await world.function()
    await put(world, keys, function, KEY=b"a")
    function = await replaced(world, function)
    async with world.worker():
        with pytest.raises(ImageUnavailable, match="no directory at /run but something else") as refused:
            await world.invoke(function)
        assert refused.value.ran == "no"
        assert world.runtime.created == []
        await put(world, keys, function, KEY="a")
        assert await world.invoke(function) == b"x"


async def test_a_secret_that_cannot_be_opened_stops_the_call(world: World, keys: SealingKeys) -> None:
    """Without the key, no container is made; the caller is told that it did not run, and the slot is free again."""
    function = await world.function()
    await put(world, keys, function, TOKEN="value")
    function = await replaced(world, function)
    world.opener = Opener({})
    async with world.worker(slots=1):
        with pytest.raises(SecretUnavailable, match="Secret 'TOKEN' cannot be read") as refused:
            await world.invoke(function)
        await world.until(0)

    record = await world.record(function)
    assert (record.state, record.ran, record.code) == (State.REFUSED, "no", "secret-unavailable")
    assert refused.value.ran == "no"
    assert (world.runtime.created, world.runtime.calls) == ([], [])


async def test_a_function_without_secrets_asks_for_none() -> None:
    """Such a call pays nothing: the worker asks the database nothing for it."""
    function = Function(id="i", user_id=cast("Any", "u"), name=cast("Any", "f"), image="x", created_at=0, updated_at=0)

    assert await open_secrets(cast("Stores", None), Opener({}), function) == ()
