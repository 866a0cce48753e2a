"""Whom a worker says to be gone when it takes another one's place: on a real nats-server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mayfly.bus.store import Store
from mayfly.bus.stores import Stores
from mayfly.containers.fake import FakeRuntime
from mayfly.domain.ids import WorkerId, new_id
from mayfly.domain.worker import WorkerBeat
from mayfly.worker.incarnation import FILE, Incarnation, forget, read, succeed
from tests.support.bus import Installation

pytestmark = [pytest.mark.A5, pytest.mark.F11]


@pytest.fixture
async def workers(nats: Installation) -> AsyncIterator[Store[WorkerBeat]]:
    """The signs of life, as a worker may write them."""
    async with nats.connect("worker") as bus:
        yield Stores.on(bus).workers


def an_incarnation(home: str = "here") -> Incarnation:
    """With an id of its own."""
    return Incarnation(id=WorkerId(new_id()), home=home)


async def is_gone(workers: Store[WorkerBeat], incarnation: Incarnation) -> bool:
    """Whether there is a proof."""
    entry = await workers.get(incarnation.id)
    return entry is not None and entry.value.gone


async def test_a_successor_proves_its_predecessor_gone(tmp_path: Path, workers: Store[WorkerBeat]) -> None:
    """The first one in a place proves nothing; the next one the first one's end, and nobody else's."""
    first, second = an_incarnation(), an_incarnation()
    await succeed(tmp_path / "new", first, FakeRuntime(), workers)
    assert not await is_gone(workers, first)

    await succeed(tmp_path / "new", second, FakeRuntime(), workers)

    assert await is_gone(workers, first)
    assert not await is_gone(workers, second)
    assert read(tmp_path / "new") == second


async def test_one_that_has_reaped_elsewhere_proves_nothing(tmp_path: Path, workers: Store[WorkerBeat]) -> None:
    """A copied state directory, another boot, another daemon: the predecessor's containers may live there."""
    first, second = an_incarnation("there"), an_incarnation("here")
    await succeed(tmp_path, first, FakeRuntime(), workers)

    await succeed(tmp_path, second, FakeRuntime(), workers)

    assert not await is_gone(workers, first)
    assert read(tmp_path) == second


async def test_after_a_goodbye_there_is_nothing_to_prove(tmp_path: Path, workers: Store[WorkerBeat]) -> None:
    """What has been said is forgotten."""
    first = an_incarnation()
    await succeed(tmp_path, first, FakeRuntime(), workers)
    forget(tmp_path)

    await succeed(tmp_path, an_incarnation(), FakeRuntime(), workers)

    assert not await is_gone(workers, first)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"id": "a.b", "home": "here"}', b'{"id": ">", "home": "here"}', b"\xff"]
)
async def test_a_file_that_cannot_be_read_proves_nothing(
    tmp_path: Path, workers: Store[WorkerBeat], content: bytes
) -> None:
    """Neither a broken one, nor one with what is no id, and so could be another key; the worker starts all the same."""
    (tmp_path / FILE).write_bytes(content)
    assert read(tmp_path) is None

    new = an_incarnation()
    await succeed(tmp_path, new, FakeRuntime(), workers)

    assert read(tmp_path) == new
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
