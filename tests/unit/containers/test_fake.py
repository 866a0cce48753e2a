"""The runtime that starts nothing keeps the promises that its users' tests rely on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mayfly.containers.fake import FakeRuntime, ending
from mayfly.containers.runtime import Call, ContainerSpec, EndReason, Runtime
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.ids import UserId, new_id, new_ulid
from mayfly.domain.image import ProcessConfig
from mayfly.domain.limits import Limits


def spec() -> ContainerSpec:
    """Any spec."""
    return ContainerSpec(
        id=new_ulid(), owner=UserId(new_id()), rootfs=Path("/r"), config=ProcessConfig(), limits=Limits()
    )


CALL = Call(argv=("cat",), stdin=b"hello")


async def test_a_call_echoes_and_is_remembered() -> None:
    """By default as `cat`; what was created, called and removed can be read off."""
    runtime = FakeRuntime()
    protocol: Runtime = runtime
    container = await protocol.create(spec())
    result = await container.run(CALL, timeout_s=1)
    assert (result.reason, result.exit_code, result.stdout) == (EndReason.EXITED, 0, b"hello")
    assert runtime.calls == [(container.id, CALL)]
    await container.remove()
    await container.remove()
    assert (runtime.alive, runtime.removed) == ({}, [container.id])


async def test_calls_wait_for_the_gate_and_can_be_killed_or_time_out() -> None:
    """While the gate is shut a call goes on until killed or out of time."""
    runtime = FakeRuntime()
    runtime.gate.clear()
    first, second, third = [await runtime.create(spec()) for _ in range(3)]
    calls = [asyncio.create_task(each.run(CALL, timeout_s=60)) for each in (first, second)]
    await asyncio.wait_for(runtime.wait_until(lambda fake: fake.running == 2), 5)
    assert (await third.run(CALL, timeout_s=0.01)).reason is EndReason.TIMED_OUT
    first.kill()
    assert (await calls[0]).reason is EndReason.CANCELLED
    runtime.gate.set()
    assert (await calls[1]).reason is EndReason.EXITED


async def test_endings_and_failures_can_be_scripted() -> None:
    """By call; and creation, removal and the reaper as well."""
    runtime = FakeRuntime(lambda _spec, call: RuntimeFailed() if call.argv == ("fail",) else ending(b"x", exit_code=3))
    assert (await (await runtime.create(spec())).run(CALL, timeout_s=1)).exit_code == 3
    failing = await runtime.create(spec())
    with pytest.raises(RuntimeFailed):
        await failing.run(Call(argv=("fail",)), timeout_s=1)
    runtime.remove_error = RuntimeFailed()
    with pytest.raises(RuntimeFailed):
        await failing.remove()
    runtime.create_error = RuntimeFailed()
    with pytest.raises(RuntimeFailed):
        await runtime.create(spec())
    runtime.leftovers = 2
    assert (await runtime.reap(), await runtime.reap()) == (2, 0)
    await runtime.close()
    assert runtime.is_closed


async def test_a_container_is_used_once() -> None:
    """As the real one."""
    container = await FakeRuntime().create(spec())
    await container.run(CALL, timeout_s=1)
    with pytest.raises(RuntimeFailed):
        await container.run(CALL, timeout_s=1)
