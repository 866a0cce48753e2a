"""Processor time is shared out by user, not by call; memory is whose it was that was not enough."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mayfly.containers.cgroups import USER, open_cgroups, read_int
from mayfly.containers.held import HeldContainer
from mayfly.containers.local import LocalRuntime
from mayfly.containers.runtime import Call, EndReason
from mayfly.domain.ids import UserId, new_id
from tests.contract.exceptions import local_only, not_with
from tests.support.containers import SCALE, World, groups_of, spoken

pytestmark = [pytest.mark.root, pytest.mark.F9]

BUSY, IDLE = "echo up; while :; do :; done", "echo up; sleep 600"
LIMITS = ("memory.max", "memory.limit_in_bytes")
"""What the memory limit of a group is called, on cgroup v2 and v1."""
ENOUGH_US = 400_000
"""Of all together: a hundred turns of the scheduler's."""


@pytest.fixture
def one_core() -> Iterator[None]:
    """Whatever is started meanwhile has a single core for all of it."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@not_with("docker", "fair shares")
@pytest.mark.parametrize("calls", [[BUSY] * 6, [BUSY] + [IDLE] * 5], ids=["many", "one"])
async def test_a_user_has_one_share_however_many_calls(world: World, one_core: None, calls: list[str]) -> None:
    """
    Beside a user with one call that computes, another has as much and no more: not six times as much with six calls,
    and not a sixth where the other five only wait.
    """
    async with AsyncExitStack() as stack:
        many = [await _running(stack, world, script, owner) for owner in [UserId(new_id())] for script in calls]
        one = await _running(stack, world, BUSY, UserId(new_id()))
        share = await _share(one, [*many, one])
    assert 0.35 <= share <= 0.65


@not_with("docker", "fair shares")
async def test_a_users_group_goes_with_his_last_call(world: World) -> None:
    """It is there as long as he has a container, whoever else has one, and comes again."""
    first, second = UserId(new_id()), UserId(new_id())
    async with world.held(world.spec(owner=second)):
        for _ in range(2):
            async with world.held(world.spec(owner=first)):
                async with world.held(world.spec(owner=first)):
                    assert _users(world) == {first, second}
                assert _users(world) == {first, second}
            assert _users(world) == {second}
    assert _users(world) == set()


@local_only
async def test_what_others_have_taken_is_not_a_functions_limit(world: World) -> None:
    """A function that is killed because all groups above it have no more is not said to have met its own limit."""
    async with world.held(world.spec(memory_mib=256)) as container:
        above = {group.parent for group in world.cgroups(container)}
        [limit] = [each / name for each in above for name in LIMITS if (each / name).exists()]
        limit.write_text(str(64 << 20))
        ending = await container.run(Call(argv=("eat_memory",)), timeout_s=20 * SCALE)
    assert (ending.reason, ending.exit_code) == (EndReason.NO_MEMORY_LEFT, None)


def test_several_workers_of_a_machine_are_capped_together() -> None:
    """Their functions leave something to the system, all in all; and the last one takes their common group along."""
    name = f"mayfly-{new_id()}"
    one, other = (open_cgroups(f"{name}-{number}", within=f"{name}-all", cores=2.0) for number in (1, 2))
    common = one.parent.parent
    try:
        assert other.parent.parent == common
        assert (_cap(common), _cap(one.parent), _cap(other.parent)) == (175_000, None, None)
    finally:
        one.close()
        assert other.parent.exists()
        other.close()
    assert not common.exists()


def _cap(group: Path) -> int | None:
    """Microseconds of a tenth of a second that a group may have; None without a bound."""
    if (quota := group / "cpu.cfs_quota_us").exists():
        return read_int(quota) if read_int(quota) > 0 else None
    most = (group / "cpu.max").read_text().split()[0]
    return None if most == "max" else int(most)


async def _running(stack: AsyncExitStack, world: World, script: str, owner: UserId) -> HeldContainer:
    """A container in which this runs, until the stack is closed."""
    container = await stack.enter_async_context(world.held(world.spec(owner=owner)))
    call = asyncio.create_task(container.run(Call(argv=("sh", "-c", script)), timeout_s=600 * SCALE))
    stack.push_async_callback(asyncio.wait, {call})
    stack.callback(container.kill)
    await spoken(container)
    assert isinstance(container, HeldContainer)
    return container


async def _share(one: HeldContainer, everyone: list[HeldContainer]) -> float:
    """What part of the time that all of them use from now on is this one's, when they have used enough."""
    before = {each.id: each._group.cpu_us() for each in everyone}
    async with asyncio.timeout(200 * SCALE):
        while True:
            used = {each.id: each._group.cpu_us() - before[each.id] for each in everyone}
            if sum(used.values()) >= ENOUGH_US:
                return used[one.id] / sum(used.values())
            await asyncio.sleep(0.05)


def _users(world: World) -> set[str]:
    """Whose groups there are."""
    assert isinstance(world.runtime, LocalRuntime)
    return {path.name.removeprefix(USER) for path in groups_of(world.runtime) if path.name.startswith(USER)}
