"""Who a container's processes are on the machine: users that no other container has at the same time."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from unittest.mock import AsyncMock

import pytest
from structlog.testing import capture_logs

from mayfly.containers import mounts
from mayfly.containers.held import HeldContainer
from mayfly.containers.ids import OwnIds, SharedIds
from mayfly.containers.local import LocalRuntime
from mayfly.containers.programs import BUILT, USERNS
from mayfly.containers.runtime import Call
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.image import ProcessConfig
from mayfly.domain.sandbox import FIRST_HOST_ID, ID_COUNT, SIGNALS_PENDING
from tests.contract.exceptions import local_only
from tests.support.containers import (
    SCALE,
    OurContainer,
    World,
    images_of,
    open_descriptors,
    open_runtime,
    processes_of,
    spoken,
    written,
)

pytestmark = [pytest.mark.root, pytest.mark.F9, local_only]

APP = ProcessConfig(uid=1234, gid=1234, cwd="/home/app")


def owners(container: OurContainer) -> set[int]:
    """The users on this machine that a container's processes are, those of the runtime left out."""
    found = {Path(f"/proc/{pid}").stat().st_uid for pid in processes_of(container.id)}
    return {first_of(owner) for owner in found if owner}


def first_of(owner: int) -> int:
    """Root of the range that a user is in."""
    if owner in range(FIRST_HOST_ID, FIRST_HOST_ID + ID_COUNT):
        return FIRST_HOST_ID
    return owner - owner % ID_COUNT


async def test_containers_that_are_there_at_once_have_different_users(world: World) -> None:
    """Neither do they have those whose the unpacked images are."""
    async with world.held() as one, world.held() as two, world.held() as three:
        each = [owners(container) for container in (one, two, three)]
    assert [len(ids) for ids in each] == [1, 1, 1]
    assert len(set.union(*each, {FIRST_HOST_ID})) == 4


async def test_users_are_given_away_again_when_nothing_of_a_container_is_left(world: World) -> None:
    """The longest unused first: the kernel may still be taking back what it had counted for the others."""
    async with world.held() as one:
        first = owners(one)
        async with world.held() as two:
            second = owners(two)
    async with world.held() as three, world.held() as four, world.held() as five:
        assert owners(three) == second  # removed before the first
        assert owners(four) == first
        assert owners(five) not in (first, second)


async def test_users_of_a_container_that_cannot_be_removed_are_nobody_elses(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is: something of it may still be counted for them."""
    container = await world.create()
    stuck = owners(container)
    with monkeypatch.context() as patch:
        patch.setattr(container, "_clear", AsyncMock(side_effect=RuntimeFailed("stuck")))
        with pytest.raises(RuntimeFailed):
            await container.remove()
    async with world.held() as one, world.held() as two:
        assert not stuck & (owners(one) | owners(two))
    await container.remove()
    async with world.held() as one, world.held() as two, world.held() as three:
        assert stuck <= owners(one) | owners(two) | owners(three)


async def test_nothing_that_is_started_inherits_a_namespace(world: World) -> None:
    """Its descriptors are the worker's alone."""
    async with world.held() as container:
        assert isinstance(container, HeldContainer)
        ids = container._ids_now()
        kept = [descriptor for descriptor in (ids.shift, ids.user_namespace) if descriptor is not None]
        assert [os.get_inheritable(descriptor) for descriptor in kept] == [False] * (1 + (world.runtime.name != "runc"))


async def test_a_function_leaves_nothing_in_its_users_namespace_for_the_next(world: World) -> None:
    """The map of project ids can be written once, and without a capability: 4 KiB of what a function has to say."""
    script = "echo '12 34 56' > /proc/self/projid_map; cat /proc/self/uid_map; cat /proc/self/projid_map"
    writer = (await world.shell(script)).stdout.decode().splitlines()
    reader = (await world.shell("cat /proc/self/uid_map /proc/self/projid_map")).stdout.decode().splitlines()
    assert reader[0] == writer[0]  # the same users, one after the other
    assert ["12", "34", "56"] not in [line.split() for line in reader]


async def test_files_are_whose_they_are_in_the_image(world: World) -> None:
    """Root's, the image's user's and the set-user-id file's owners are as unpacked; what root hides is hidden."""
    script = "stat -c '%u:%g %a %n' / /etc/secret /home/app /bin/setuid-show_user; cat /etc/secret 2>&1"
    as_root = (await world.shell(script)).stdout.decode().splitlines()
    as_app = (await world.shell(script, spec=world.spec(APP))).stdout.decode().splitlines()
    listed = ["0:0 755 /", "0:0 600 /etc/secret", "1234:1234 755 /home/app", "0:0 4755 /bin/setuid-show_user"]
    assert as_root == [*listed, "of the image's root"]
    assert as_app[:4] == listed
    assert "Permission denied" in as_app[4]


async def test_files_of_the_image_are_changed_replaced_and_deleted_by_their_owners_only(world: World) -> None:
    """Copied up with their owners; a deleted one is gone; the image has them still."""
    script = """
        chmod 640 /etc/passwd && echo more >> /etc/passwd && stat -c '%u:%g %a' /etc/passwd
        rm /etc/secret && ls /etc/secret; mkdir /etc/new && stat -c '%u:%g' /etc/new
        rm -r /opt && mkdir /opt && ls /opt
        head -c 1 /etc/zero | wc -c
    """
    assert (await world.shell(script)).stdout.decode().splitlines() == ["0:0 640", "0:0", "0"]
    script = "touch f && stat -c '%u:%g' f; rm -f /etc/passwd || echo kept; echo x >> /etc/passwd || echo kept"
    ending = await world.shell(script, spec=world.spec(APP))
    assert ending.stdout.decode().splitlines() == ["1234:1234", "kept", "kept"]
    secret = (world.rootfs / "etc" / "secret").stat()
    assert (secret.st_uid, secret.st_gid) == (FIRST_HOST_ID, FIRST_HOST_ID)


async def test_files_that_a_function_makes_are_its_own_users(world: World) -> None:
    """Seen from outside: no other container could have them, if it came to them."""
    script = "touch made; echo made; sleep 60"
    async with world.held(world.spec(APP)) as container:
        assert isinstance(container, HeldContainer)
        own = owners(container)
        touch = asyncio.create_task(container.run(Call(argv=("sh", "-c", script)), timeout_s=60 * SCALE))
        await spoken(container)
        made = Path(f"/proc/{min(world.living(container))}/root/home/app/made").stat()
        container.kill()
        await touch
    assert (made.st_uid, made.st_gid) == (own.pop() + 1234, made.st_uid)


async def test_a_runtime_leaves_neither_mounts_nor_namespaces(driver: str, rootfs: Path, state_dir: Path) -> None:
    """Also not of ranges that were made when more containers were there than slots."""
    before = mounts.mounts(), open_descriptors()
    async with a_world(driver, rootfs, state_dir, images_of(rootfs)) as world:
        between = mounts.mounts()
        async with world.held(), world.held(), world.held():
            each = 0 if driver == "native" else 2  # scratch and root, none of the image alone; or all out of sight
            assert len(mounts.mounts()) == len(between) + 3 * each
        assert mounts.mounts() == between
        assert open_descriptors() > before[1]
    assert (mounts.mounts(), open_descriptors()) == before


# --- where it cannot be done ----------------------------------------------------------------------------------------


@asynccontextmanager
async def a_world(driver: str, rootfs: Path, state_dir: Path, images: Path | None) -> AsyncIterator[World]:
    """A runtime that was told of this directory for images, or of none, so that its containers share their users."""
    runtime = open_runtime(driver, state_dir=state_dir, images=images)
    try:
        yield World(runtime, rootfs)
    finally:
        await runtime.close()


@contextmanager
def overlaid(rootfs: Path, directory: Path) -> Iterator[Path]:
    """Images on a file system that cannot be shifted: an overlay, such as the root of a container is."""
    for name in ("upper", "work", "images"):
        (directory / name).mkdir()
    images = directory / "images"
    layers = {"lower": images_of(rootfs), "upper": directory / "upper", "work": directory / "work"}
    mounts.mount("tmpfs", directory / "upper", "tmpfs")
    try:
        for name in ("upper", "work"):
            layers[name] = directory / "upper" / name
            layers[name].mkdir()
        mounts.mount_overlay(images, flags=0, **layers)
        yield images
    finally:
        mounts.unmount(images)
        mounts.unmount(directory / "upper")


async def test_images_that_cannot_be_shifted_are_run_by_shared_users_and_the_worker_says_so(
    driver: str, rootfs: Path, state_dir: Path, tmp_path: Path
) -> None:
    """With the kernel's reason and the remedy; nothing is left of the attempt."""
    with overlaid(rootfs, tmp_path) as images, capture_logs() as logs:
        async with a_world(driver, images / rootfs.relative_to(images_of(rootfs)), state_dir, images) as world:
            assert isinstance(world.runtime, LocalRuntime)
            assert isinstance(world.runtime.ids, SharedIds)
            async with world.held() as one, world.held() as two:
                assert owners(one) == owners(two) == {FIRST_HOST_ID}
            assert (await world.shell("cat /etc/secret; stat -c %u /home/app")).stdout.endswith(b"root\n1234\n")
            assert not world.left()
        assert not list(images.glob(".try-*"))
    (warning,) = [entry for entry in logs if entry["event"] == "worker.shared-ids"]
    assert "Invalid argument" in warning["reason"]
    assert "5.19" in warning["remedy"]


async def test_functions_with_shared_users_have_their_own_queued_signals(
    driver: str, rootfs: Path, state_dir: Path
) -> None:
    """Beside one that has as many as it may, another has just as many: each has a user namespace of its own."""
    async with a_world(driver, rootfs, state_dir, None) as world, world.held() as one, world.held() as two:
        assert isinstance(one, HeldContainer)
        full = asyncio.create_task(one.run(Call(argv=("queue_signals",)), timeout_s=60 * SCALE))
        await spoken(one)
        ending = await two.run(Call(argv=("queue_signals", "once")), timeout_s=20 * SCALE)
        assert (int(written(one)), int(ending.stdout)) == (SIGNALS_PENDING, SIGNALS_PENDING)
        one.kill()
        await full


async def test_shared_users_leave_no_namespaces(driver: str, rootfs: Path, state_dir: Path) -> None:
    """As many as containers were there at once, however many were there in all; none when the runtime is closed."""
    before = open_descriptors()
    async with a_world(driver, rootfs, state_dir, None) as world:
        counts = set()
        for _ in range(3):
            async with world.held(), world.held():
                pass
            counts.add(open_descriptors())
        assert len(counts) == 1
    assert open_descriptors() == before


@pytest.mark.parametrize("fails", ["program", "overlay", "shift"])
async def test_whatever_stands_in_the_way_nothing_is_left(
    rootfs: Path, tmp_path: Path, fails: str, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    """
    No user namespace can be made; the kernel mounts images shifted, but no overlay above (before 5.19); or whose they
    are does not come out.
    """

    def refuse(*_: object, **__: object) -> None:
        raise OSError(22, "Invalid argument")

    def bind(source: Path, target: Path, **_: object) -> None:
        mounts.mount(str(source), target, None, flags=mounts.MS_BIND)

    program = Path(shutil.which("false") or "/bin/false") if fails == "program" else BUILT / USERNS
    if fails == "overlay":
        monkeypatch.setattr(mounts, "mount_overlay", refuse)
    if fails == "shift":
        monkeypatch.setattr(mounts, "bind_shifted", bind)
    before = mounts.mounts(), open_descriptors(), sorted(images_of(rootfs).iterdir())
    ids = OwnIds(program, is_joined=driver != "runc")
    with pytest.raises(OSError, match=r"user namespace|Invalid|a file of user 100000"):
        ids.open(3, images=images_of(rootfs), directory=tmp_path / "try")
    assert (mounts.mounts(), open_descriptors(), sorted(images_of(rootfs).iterdir())) == before
    assert not list(tmp_path.iterdir())


def test_no_range_is_given_twice_nor_from_elsewhere(
    rootfs: Path, tmp_path: Path, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They begin anywhere, and end when all have been made once."""
    monkeypatch.setattr("mayfly.containers.ids.OWN_HOST_IDS", range(10 * ID_COUNT, 13 * ID_COUNT, ID_COUNT))
    ids = OwnIds(BUILT / USERNS, is_joined=driver != "runc")
    ids.open(1, images=images_of(rootfs), directory=tmp_path / "try")
    try:
        assert {ids.take().first for _ in range(3)} == {10 * ID_COUNT, 11 * ID_COUNT, 12 * ID_COUNT}
        with pytest.raises(OSError, match="no user ids left"):
            ids.take()
    finally:
        ids.close()


def test_workers_that_share_images_have_no_range_in_common(
    tmp_path: Path, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has blocks of its own. When it ends another one may have them, and nothing is left of them."""
    monkeypatch.setattr("mayfly.containers.id_blocks.BLOCK", 2)
    monkeypatch.setattr("mayfly.containers.ids.OWN_HOST_IDS", range(10 * ID_COUNT, 16 * ID_COUNT, ID_COUNT))
    images = tmp_path / "images"  # where no killed worker of another test has left its blocks
    one, other, third = (OwnIds(BUILT / USERNS, is_joined=driver != "runc") for _ in range(3))
    with ExitStack() as stack:
        for each in (one, other):
            stack.callback(each.close)
            each.open(1, images=images, directory=tmp_path / "try")
        firsts = [ids.take().first for ids in (one, other, one, other, one)]
        assert len(set(firsts)) == 5
        with pytest.raises(OSError, match="no user ids left"):
            other.take()
        other.close()
        stack.callback(third.close)
        third.open(2, images=images, directory=tmp_path / "try")
        assert {third.take().first, third.take().first} <= set(range(10 * ID_COUNT, 16 * ID_COUNT)) - {
            firsts[number] for number in (0, 2, 4)
        }
    assert not (images / "users").exists()


def test_a_range_that_could_not_be_made_leaves_nothing_and_is_made_later(
    rootfs: Path, tmp_path: Path, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of its namespaces is refused, as often as it is tried: when it is not any more, there are ranges."""
    monkeypatch.setattr("mayfly.containers.ids.OWN_HOST_IDS", range(10 * ID_COUNT, 12 * ID_COUNT, ID_COUNT))
    program, is_refused = tmp_path / "program", tmp_path / "refused"
    last = "!=" if driver != "runc" else "="  # the one that is joined is not made by root
    program.write_text(f"#!/bin/sh\n[ -e {is_refused} ] && [ $1 {last} 0 ] && exit 124\nexec {BUILT / USERNS} $1\n")
    program.chmod(0o755)
    ids = OwnIds(program, is_joined=driver != "runc")
    ids.open(1, images=images_of(rootfs), directory=tmp_path / "try")
    try:
        ids.take()
        is_refused.touch()
        before = open_descriptors()
        for _ in range(3):
            with pytest.raises(OSError, match="no user namespace"):
                ids.take()
        assert open_descriptors() == before
        is_refused.unlink()
        assert ids.take().first in (10 * ID_COUNT, 11 * ID_COUNT)
    finally:
        ids.close()
