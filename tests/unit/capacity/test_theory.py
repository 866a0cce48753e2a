"""
Where queueing theory has an answer, the model gives it. Nothing of ours costs anything here, so that a call is what the
theory calls a customer. The tolerances are some three standard errors of runs as long as these; the seeds are fixed.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.capacity.costs import Costs
from bench.capacity.model import simulate
from bench.capacity.plan import Plan

FREE = Costs()
LOAD, RATE_PER_S = 0.8, 80.0
PLAN = Plan(rate_per_s=RATE_PER_S, distribution="exponential", admission_wait_ms=0, seconds=800, warm_up_s=20)


def duration_ms(servers: int) -> float:
    """How long a call must take for so many servers to be busy for 0.8 of the time."""
    return servers * LOAD / RATE_PER_S * 1000


def erlang_b(servers: int, offered: float) -> float:
    """The share that is lost of M/M/c/c."""
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked


def erlang_c(servers: int, offered: float) -> float:
    """The share that waits of M/M/c."""
    blocked = erlang_b(servers, offered)
    return blocked / (1 - offered / servers * (1 - blocked))


def test_one_slot_is_the_queue_m_m_1() -> None:
    """With one slot the load is what waits, is what is in use, and a call takes service / (1 - load)."""
    found = simulate(replace(PLAN, slots=1, duration_ms=duration_ms(1)), FREE)

    assert found.waited / found.finished == pytest.approx(LOAD, rel=0.02)
    assert found.used["slots"] == pytest.approx(LOAD, rel=0.02)
    assert found.latency_ms.mean == pytest.approx(duration_ms(1) / (1 - LOAD), rel=0.08)


@pytest.mark.parametrize(("workers", "slots"), [(1, 4), (4, 4)])
def test_slots_are_the_servers_of_erlang_c(workers: int, slots: int) -> None:
    """As many wait, and as long, as Erlang's formula says of all slots together, whichever workers have them."""
    servers = workers * slots
    plan = replace(PLAN, workers=workers, slots=slots, duration_ms=duration_ms(servers))

    found = simulate(plan, FREE)

    waits = erlang_c(servers, servers * LOAD)
    assert found.waited / found.finished == pytest.approx(waits, rel=0.06)
    assert found.queue_ms.mean == pytest.approx(waits * plan.duration_ms / servers / (1 - LOAD), rel=0.12)


@pytest.mark.parametrize("distribution", ["exponential", "fixed", "lognormal"])
def test_m_equal_to_the_slots_refuses_as_erlang_b(distribution: str) -> None:
    """With M = slots nothing waits, and as many are refused as Erlang's other formula says, however durations vary."""
    plan = replace(PLAN, slots=6, max_activations=6, distribution=distribution, duration_ms=duration_ms(6))

    found = simulate(plan, FREE)

    assert found.waited == 0
    assert found.refused_share == pytest.approx(erlang_b(6, 6 * LOAD), rel=0.05)
    assert found.refused["user"] == 0


@pytest.mark.parametrize("distribution", ["exponential", "fixed", "lognormal"])
def test_a_core_that_is_shared_is_insensitive_to_durations(distribution: str) -> None:
    """Calls that compute on one core take service / (1 - load) on average, however their durations vary (M/G/1 PS)."""
    plan = replace(PLAN, slots=4096, cores=1.0, cpu_share=1.0, distribution=distribution, duration_ms=duration_ms(1))

    found = simulate(plan, FREE)

    assert found.latency_ms.mean == pytest.approx(duration_ms(1) / (1 - LOAD), rel=0.08)
    assert found.used["cores"] == pytest.approx(LOAD, rel=0.02)
    assert found.used["function"] == pytest.approx(found.used["cores"], rel=0.001)


def test_cores_that_are_shared_take_as_long_as_servers_with_a_queue() -> None:
    """On several cores, with exponential durations, sharing or queueing makes no difference to the mean."""
    plan = replace(PLAN, slots=4096, cores=4.0, cpu_share=1.0, duration_ms=duration_ms(4))

    found = simulate(plan, FREE)

    waits_ms = erlang_c(4, 4 * LOAD) * plan.duration_ms / 4 / (1 - LOAD)
    assert found.latency_ms.mean == pytest.approx(plan.duration_ms + waits_ms, rel=0.05)
