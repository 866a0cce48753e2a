"""
One image store of several workers on a machine: each image is pulled once, none is removed under another's feet, and
nothing that a killed one had stands in anybody's way.

Where it is not said otherwise the workers are stores of one process: locks tell apart who has opened a file, not whose.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest

from mayfly.domain.errors import ImageUnavailable
from mayfly.domain.ids import UserId, new_id
from mayfly.images.reference import ImageReference, parse_reference
from mayfly.images.store import ImageStore
from tests.integration.images.test_store import MIB, a_store
from tests.support.images import build_and_push
from tests.support.registry import Registry

pytestmark = [pytest.mark.F4, pytest.mark.F6]

ALICE, BOB = UserId(new_id()), UserId(new_id())
ANOTHER = """
import sys
from pathlib import Path
from mayfly.domain.ids import Digest
from mayfly.images.trees import Trees
trees = Trees(Path(sys.argv[1]) / "trees", leaving=Path(sys.argv[1]) / "pulls")
with trees.lease(Digest(sys.argv[2])):
    print("leased", flush=True)
    sys.stdin.read()  # until it is killed, or the test is gone
"""


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    """A fresh registry."""
    async with Registry() as registry:
        yield registry


async def an_image(registry: Registry, name: str = "app") -> ImageReference:
    """Push one that takes some room."""
    return parse_reference(await build_and_push(registry.url, name, files={"/f": os.urandom(4 * MIB)}))


async def test_workers_that_want_the_same_pull_once(registry: Registry, tmp_path: Path) -> None:
    """Three workers are asked for an image ten times each, for one user: one pull, and all have the same tree."""
    reference = await an_image(registry)
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(a_store(registry.url, tmp_path)) for _ in range(3)]
        digest = (await stores[0].resolve(reference, owner=BOB)).digest
        before = sum(store.pulls["pulled"] for store in stores)

        images = await asyncio.gather(
            *(store.prepare(reference, digest, owner=ALICE) for store in stores for _ in range(10))
        )

        assert sum(store.pulls["pulled"] for store in stores) - before == 1
    assert len({image.rootfs for image in images}) == 1
    assert list((tmp_path / "locks").iterdir()) == []


async def test_what_one_has_pulled_another_runs(registry: Registry, tmp_path: Path) -> None:
    """For the user who has pulled it, without asking the registry; for anybody else only after a pull of his own."""
    reference = await an_image(registry)
    async with a_store(registry.url, tmp_path) as one, a_store(registry.url, tmp_path) as other:
        image = await one.resolve(reference, owner=ALICE)
        await registry.stop()

        assert await other.prepare(reference, image.digest, owner=ALICE) == image
        with pytest.raises(ImageUnavailable):
            await other.prepare(reference, image.digest, owner=BOB)

        await registry.start()
        await one.resolve(reference, owner=BOB)
        await registry.stop()
        assert await other.prepare(reference, image.digest, owner=BOB) == image


async def test_nobody_removes_what_another_uses(registry: Registry, tmp_path: Path) -> None:
    """Full of images that others use, a worker refuses; as soon as none is used it makes room, and that is noticed."""
    first, second = await an_image(registry, "app1"), await an_image(registry, "app2")
    async with (
        a_store(registry.url, tmp_path, cache_bytes=8 * MIB) as one,
        a_store(registry.url, tmp_path, cache_bytes=8 * MIB) as other,
    ):
        image = await one.resolve(first, owner=ALICE)
        with ExitStack() as leases:
            for _ in range(2):
                leases.enter_context(one.lease(image.digest))
            with pytest.raises(ImageUnavailable, match="full of images in use"):
                await other.resolve(second, owner=ALICE)
        assert image.rootfs.exists()

        await other.resolve(second, owner=ALICE)

        assert not image.rootfs.exists()
        with pytest.raises(ImageUnavailable, match="try again"), one.lease(image.digest):
            pass
        assert (await one.prepare(first, image.digest, owner=ALICE)).rootfs.exists()


async def test_a_killed_worker_leaves_no_lease(registry: Registry, tmp_path: Path) -> None:
    """What another process uses stays while it lives, and can go when it was killed."""
    first, second = await an_image(registry, "app1"), await an_image(registry, "app2")
    async with a_store(registry.url, tmp_path, cache_bytes=8 * MIB) as store:
        image = await store.resolve(first, owner=ALICE)
        command = [sys.executable, "-c", ANOTHER, str(tmp_path), image.digest]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as another:
            assert another.stdout
            assert await asyncio.to_thread(another.stdout.readline) == "leased\n"
            with pytest.raises(ImageUnavailable, match="full of images in use"):
                await store.resolve(second, owner=ALICE)
            another.kill()

        assert (await store.resolve(second, owner=ALICE)).rootfs.exists()
    assert not image.rootfs.exists()


async def test_a_killed_puller_holds_nobody_up(registry: Registry, tmp_path: Path) -> None:
    """What it had locked is free, and what it left half-done is removed by the next store that opens."""
    reference = await an_image(registry)
    async with a_store(registry.url, tmp_path) as store:
        digest = (await store.resolve(reference, owner=BOB)).digest
    half_done = tmp_path / "pulls" / new_id()
    lock = tmp_path / "locks" / f"{digest.removeprefix('sha256:')}-{ALICE}"
    script = f"""
import asyncio, sys
from pathlib import Path
from mayfly.images.locks import alone
async def main():
    async with alone(Path({str(lock)!r})):
        Path({str(half_done)!r}).mkdir()
        print("pulling", flush=True)
        await asyncio.to_thread(sys.stdin.read)  # until it is killed, or the test is gone
asyncio.run(main())
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as puller:
        assert puller.stdout
        assert await asyncio.to_thread(puller.stdout.readline) == "pulling\n"
        async with a_store(registry.url, tmp_path) as store:
            waiting = asyncio.create_task(store.prepare(reference, digest, owner=ALICE))
            await asyncio.wait({waiting}, timeout=1)
            assert not waiting.done()
            puller.kill()
            assert (await waiting).digest == digest

    assert not half_done.exists()
    assert not lock.exists()


async def test_the_longest_unused_by_anybody_goes_first(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another worker has used not long ago stays, however long ago this one has."""
    monkeypatch.setattr("mayfly.images.trees.USE_NOTED_EVERY_S", 0.0)
    names = ("app1", "app2", "app3")
    references = [await an_image(registry, name) for name in names]

    async def opened(stack: AsyncExitStack) -> ImageStore:
        return await stack.enter_async_context(a_store(registry.url, tmp_path, cache_bytes=14 * MIB))

    async with AsyncExitStack() as stack:
        one, other = await opened(stack), await opened(stack)
        first, second = [await one.resolve(each, owner=ALICE) for each in references[:2]]
        for _ in range(2):  # used, and used again
            assert await other.prepare(references[0], first.digest, owner=ALICE)
        await one.resolve(references[2], owner=ALICE)

    assert first.rootfs.exists()
    assert not second.rootfs.exists()
