"""What it costs to lose a container while it works: at most the calls running in it; and everything comes back."""

from __future__ import annotations

import asyncio
import time

import pytest

from mayfly.ops.gateway.bounds import CHECK_EVERY_S, CHECK_FAILURES
from tests.compose.load import CALLERS, Call, calling, in_flight
from tests.e2e.conftest import Shell
from tests.support.compose import containers, log_of, nats_leader, started_again

BEFORE_S, AFTER_S = 2.0, 8.0  # of calls, around the loss
STAND_IN_SEES_WITHIN_S = 4.0  # it pauses a second between rounds of checks, waits two for an answer; and one to spare
APISIX_SEES_WITHIN_S = CHECK_FAILURES * CHECK_EVERY_S + CHECK_EVERY_S + 1.0
"""The checks that it takes, the last of which may have to time out; and a second, until all its processes know."""
TOLD_WITHIN_S = 8.0  # a lost worker's caller is told within 5 s of the loss; the call itself takes 0.3 s
SLOTS = 8
QUEUE = "ACT"  # the stream with the work


async def lose(shell: Shell, service: str) -> tuple[float, list[Call], list[Call]]:
    """Kill one container of *service* under load; return when, all calls, and those that failed."""
    async with calling(shell) as load:
        await asyncio.sleep(BEFORE_S)
        victim = containers(service)[0]
        victim.kill()
        killed_at = time.monotonic()
        await asyncio.sleep(AFTER_S)
        await started_again(victim)
        back_at = time.monotonic()
        await asyncio.sleep(BEFORE_S)
    failed = load.failed()
    print(f"\n{service}: {len(load.calls)} calls, {len(failed)} failed: {load.told(killed_at)}")
    assert not [call for call in load.calls if call.words.startswith("wrong")]
    assert [call for call in load.calls if call.began < killed_at - BEFORE_S / 2]
    assert not [call for call in failed if call.ended < killed_at]
    late = [call for call in load.calls if call.began > back_at]
    assert late
    assert {call.status for call in late} == {200}
    return killed_at, load.calls, failed


@pytest.mark.A3
@pytest.mark.A4
@pytest.mark.parametrize("role", ["leader", "follower"])
async def test_a_nats_server_is_lost(whole: Shell, role: str) -> None:
    """
    Two of three go on, also without the one that led the queue: no call that was admitted is lost.

    While a leader is chosen some may be refused, and are told that they did not run. All routes are there again.
    """
    leader = await asyncio.to_thread(nats_leader, QUEUE)
    server = leader if role == "leader" else min({"nats-1", "nats-2", "nats-3"} - {leader})
    _, _, failed = await lose(whole, server)
    assert len(failed) <= CALLERS
    assert all('"queue-unavailable"' in call.words and '"ran": "no"' in call.words for call in failed)
    for each in containers("nats-1", "nats-2", "nats-3"):
        assert "TLS route handshake error" not in log_of(each), each.service


@pytest.mark.A5
async def test_a_worker_is_lost(whole: Shell) -> None:
    """
    The calls running in it are lost, no more than it has slots, and their callers told so within 5 s.

    One that NATS had just sent it, and that it had not claimed, runs elsewhere, `ACK_WAIT_S` later.
    """
    killed_at, calls, failed = await lose(whole, "worker")
    assert len(failed) <= SLOTS
    assert all(call in in_flight(calls, killed_at) for call in failed)
    assert all('"worker-lost"' in call.words for call in failed)
    assert all(call.ended < killed_at + TOLD_WITHIN_S for call in failed)


@pytest.mark.A1
@pytest.mark.A2
@pytest.mark.parametrize("server", ["api-1", "api-2"])
async def test_an_api_server_is_lost(whole: Shell, server: str) -> None:
    """The calls through it are lost; the gateway sees it as soon as its checks can, and then sends nothing there."""
    seen_within_s = STAND_IN_SEES_WITHIN_S if containers("gateway")[0].is_stand_in else APISIX_SEES_WITHIN_S
    killed_at, calls, failed = await lose(whole, server)
    lost = [call for call in failed if call.began < killed_at]
    assert all(call in in_flight(calls, killed_at) for call in lost)
    assert all(call.began < killed_at + seen_within_s for call in failed)
    assert {call.status for call in failed} <= {502}


@pytest.mark.A1
async def test_the_gateway_is_lost(whole: Shell) -> None:
    """Its connections break, which costs their calls; it answers again as soon as Docker has started it anew."""
    killed_at, calls, failed = await lose(whole, "gateway")
    lost = [call for call in failed if call.began < killed_at]
    assert all(call in in_flight(calls, killed_at) for call in lost)
    assert {call.status for call in failed} <= {0, 502}
    assert max(call.ended for call in failed) < killed_at + 30
