"""Machines whose clock is wrong: deadlines are counted by NATS's. The nats-server is a process with the right time."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from mayfly.domain.activation import State
from mayfly.domain.errors import TimedOut
from mayfly.domain.limits import Limits
from tests.support.bus import installation
from tests.support.world import World, a_world

pytestmark = [pytest.mark.A2, pytest.mark.A5, pytest.mark.F12]

TRUE_TIME = time.time


@pytest.fixture(params=[-30.0, 30.0], ids=["behind", "ahead"])
async def wrong(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """An API server and its workers, by whose clock it is half a minute earlier or later."""
    monkeypatch.setattr("time.time", lambda: TRUE_TIME() + request.param)
    async with installation(max_activations=8, max_activations_per_user=8) as nats, a_world(nats) as world:
        yield world


async def test_a_wrong_clock_neither_refuses_a_call_nor_dates_it_wrong(wrong: World) -> None:
    """A call with 5 s is run, although by the machine's clock it has been queued for half a minute, or is yet to be."""
    function = await wrong.function(limits=Limits(timeout_s=5))
    before = TRUE_TIME()
    async with wrong.worker():
        assert await wrong.invoke(function) == b"x"
        record = await wrong.record(function)

    moments = [record.created_at, record.admitted_at, record.claimed_at, record.ready_at, record.started_at]
    moments += [record.first_byte_at, record.exited_at, record.ended_at]
    told = [moment for moment in moments if moment is not None]
    assert len(told) == len(moments)
    assert before - 0.5 < told[0]
    assert told[-1] < TRUE_TIME() + 0.5
    assert all(later > earlier - 0.5 for earlier, later in pairwise(told))
    assert record.steps.queue_s is not None
    assert record.steps.queue_s < 4


async def test_a_wrong_clock_ends_a_waiting_call_no_sooner_and_no_later(wrong: World) -> None:
    """The janitor leaves a call in peace that has time, and ends one that has none, by NATS's clock."""
    function = await wrong.function(limits=Limits(timeout_s=300))
    waiting = await wrong.queued(function, deadline_at=TRUE_TIME() + 20)
    late = await wrong.queued(function, deadline_at=TRUE_TIME() - 20)
    for queued in (waiting, late):
        entry = await wrong.stores.activations.get(queued.key)
        assert entry
        await wrong.janitor._end_if_late(entry)

    states = [
        entry.value.state for key in (waiting.key, late.key) if (entry := await wrong.stores.activations.get(key))
    ]
    assert states == [State.QUEUED, State.TIMED_OUT]


async def test_an_expired_message_is_never_run(wrong: World) -> None:
    """What waited longer than its call may take is refused by the worker that gets it, whatever its clock says."""
    function = await wrong.function(limits=Limits(timeout_s=0.3))
    with pytest.raises(TimedOut) as caught:
        await wrong.invoke(function)
    assert (caught.value.members["clock"], caught.value.ran) == ("queue", "no")
    async with wrong.worker():
        await wrong.until(0)

    assert wrong.runtime.calls == []
