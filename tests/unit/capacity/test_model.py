"""What holds of every simulation, and where the model is like Mayfly and unlike a textbook's queue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.capacity.arrivals import arrivals
from bench.capacity.costs import Costs
from bench.capacity.model import simulate
from bench.capacity.plan import DISTRIBUTIONS, Plan

FREE = Costs()
COSTS = Costs(
    client_s=0.001, api_s=0.002, nats_s=0.001, worker_s=0.002, container_s=0.004, behind_s=0.001, idle_s=0.0005
)
ALONE_MS = 10.5  # all of them but what comes behind the answer
METERED = ("slots", "cores", "api", "nats")  # all the time
PLAN = Plan(rate_per_s=20, seconds=60, warm_up_s=5, admission_wait_ms=0)


@settings(max_examples=50, deadline=None)
@given(
    plan=st.builds(
        Plan,
        rate_per_s=st.floats(1, 2000),
        burst=st.integers(1, 20),
        users=st.integers(1, 10),
        duration_ms=st.floats(0, 500),
        distribution=st.sampled_from(DISTRIBUTIONS),
        cpu_share=st.floats(0, 1),
        workers=st.integers(3, 5),
        slots=st.integers(1, 8),
        shards=st.integers(1, 3),
        max_activations=st.none() | st.integers(3, 50),
        max_per_user=st.none() | st.integers(1, 10),
        admission_wait_ms=st.sampled_from([0.0, 150.0]),
        seconds=st.floats(1, 2),
        warm_up_s=st.floats(0, 0.9),
        seed=st.integers(0, 100),
    )
)
def test_no_call_is_lost_and_nothing_is_used_beyond_what_there_is(plan: Plan) -> None:
    """Who arrived was refused, has finished, or is in flight, whatever is simulated; no share is above one."""
    found = simulate(plan, COSTS)

    calls = [each for each in arrivals(plan) if each.at_s >= plan.warm_up_s]
    assert found.arrived == len(calls) == sum(found.refused.values()) + found.finished + found.in_flight
    assert found.waited <= found.finished
    assert all(0 <= found.used[name] <= 1 + 1e-9 for name in METERED), found.used
    # What a role has done is counted when it is done: it was computed since the beginning, warm-up included.
    most = plan.seconds / (plan.seconds - plan.warm_up_s) + 1e-9
    assert all(0 <= share <= most for share in found.used.values()), found.used
    if plan.max_activations is None:
        assert not found.refused["platform"]
    if plan.max_per_user is None:
        assert not found.refused["user"]


def test_the_same_seed_gives_the_same_outcome() -> None:
    """Two simulations of one plan are equal to the last digit; another seed is another."""
    plan = replace(PLAN, duration_ms=300.0, distribution="lognormal", max_activations=8, users=5, max_per_user=3)

    assert simulate(plan, COSTS) == simulate(plan, COSTS)
    assert simulate(plan, COSTS) != simulate(replace(plan, seed=2), COSTS)


def test_a_call_that_is_alone_takes_what_was_measured() -> None:
    """Without others a call takes what its hops cost, one after the other, and its function's own time."""
    plan = replace(PLAN, rate_per_s=0.2, seconds=600.0, duration_ms=100.0, cpu_share=0.5, one_machine=True)

    found = simulate(plan, COSTS)

    assert found.latency_ms.p50 == pytest.approx(ALONE_MS + 100)
    assert found.queue_ms.p99 == 0


def test_all_of_one_machine_saturates_with_its_processor_time() -> None:
    """More calls than the cores have time for: each core is busy, and as many end as its time is enough for."""
    plan = replace(PLAN, rate_per_s=400.0, slots=64, max_activations=64, one_machine=True, cores=2.0)
    costs = replace(COSTS, nats_s=0.0, api_s=0.0, client_s=0.0)  # what is refused costs nothing then

    found = simulate(plan, costs)

    assert found.used["cores"] == pytest.approx(1, abs=0.001)
    assert found.finished / 55 == pytest.approx(2 / costs.cpu_s, rel=0.01)
    assert found.refused["platform"] > 0


def test_a_server_that_has_too_much_to_do_is_wholly_in_use() -> None:
    """What an overloaded nats-server has begun counts as use of it, whether it is ever done or not."""
    found = simulate(replace(PLAN, rate_per_s=3000.0, apis=10, nats_cores=1.0, seconds=10.0), COSTS)

    assert found.used["nats"] == pytest.approx(1)
    assert found.finished < 300 < found.in_flight


def test_others_on_the_machine_have_their_share() -> None:
    """A call that computes alone beside three of others has two quarters of two cores, so one half of one."""
    plan = replace(PLAN, rate_per_s=0.2, seconds=300.0, duration_ms=100.0, cpu_share=1.0, cores=2.0, others=3.0)

    assert simulate(plan, FREE).latency_ms.p50 == pytest.approx(200)


def test_a_worker_process_does_one_thing_at_a_time() -> None:
    """However many cores a worker has, its event loop is one thread: it bounds the calls a second."""
    plan = replace(PLAN, rate_per_s=900.0, slots=64, cores=64.0, apis=10, nats_cores=10.0, max_activations=64)

    found = simulate(plan, COSTS)

    assert found.finished / 55 == pytest.approx(1 / COSTS.worker_s, rel=0.01)
    assert found.used["worker"] * 64 == pytest.approx(1, abs=0.001)


@pytest.mark.parametrize(("limits", "refuses"), [({"max_activations": 6}, "platform"), ({"max_per_user": 2}, "user")])
def test_limits_count_what_waits_as_well_as_what_runs(limits: dict[str, Any], refuses: str) -> None:
    """A burst of ten by one user at two slots: as many as the limit are admitted, those beyond the slots wait."""
    plan = replace(PLAN, rate_per_s=1.0, burst=10, slots=2, duration_ms=10.0, seconds=300.0, **limits)

    found = simulate(plan, FREE)

    [limit] = limits.values()
    bursts = found.arrived / 10
    assert found.finished == pytest.approx(limit * bursts, rel=0.03)  # two bursts may meet
    assert found.waited == pytest.approx((limit - 2) * bursts, rel=0.03, abs=bursts * 0.03)
    assert found.refused == {**dict.fromkeys(("platform", "user"), 0), refuses: found.arrived - found.finished}


def test_asking_again_finds_the_place_that_comes_free() -> None:
    """With a wait for admission above the duration, two calls at once on one place both run, one after the other."""
    plan = replace(PLAN, rate_per_s=1.0, burst=2, slots=1, max_activations=1, duration_ms=50.0, seconds=100.0)

    at_once = simulate(plan, FREE)
    again = simulate(replace(plan, admission_wait_ms=100.0), FREE)

    assert at_once.refused["platform"] >= at_once.finished
    assert again.refused["platform"] < again.arrived / 20
    assert again.latency_ms.p95 == pytest.approx(75 + 50)  # asked after 5, 15, 35 and 75 ms
    assert again.waited == 0


def test_removal_holds_the_slot_and_not_the_place() -> None:
    """Two calls at once on one slot: the second waits for the first one's container to be removed as well."""
    plan = replace(PLAN, rate_per_s=0.1, burst=2, slots=1, duration_ms=50.0, seconds=1000.0)
    costs = Costs(container_s=0.004, behind_s=0.010)

    found = simulate(plan, costs)

    assert found.queue_ms.p95 == pytest.approx(4 + 50 + 10)
    assert found.latency_ms.p95 == pytest.approx(4 + 50 + 10 + 4 + 50)
    assert found.latency_ms.mean == pytest.approx((54 + 118) / 2, rel=0.01)


def test_a_shard_may_refuse_while_another_has_room() -> None:
    """M is split over shards, so of the same load more is refused; U of a user, who lives in one shard, is not."""
    plan = replace(
        PLAN, rate_per_s=100.0, duration_ms=400.0, workers=8, slots=6, max_activations=48, seconds=200.0, users=200
    )

    whole, split = simulate(plan, FREE), simulate(replace(plan, shards=8), FREE)

    assert whole.refused_share < 0.05 < split.refused_share
    assert simulate(replace(plan, max_activations=None, shards=8, max_per_user=64), FREE).refused_share == 0


def test_bursts_keep_the_rate() -> None:
    """Calls that come ten at a time come as often as those that come alone."""
    counts = [sum(1 for _ in arrivals(replace(PLAN, rate_per_s=100.0, burst=burst))) for burst in (1, 10)]

    assert counts == pytest.approx([6000, 6000], rel=0.1)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_durations_have_the_mean_that_was_asked_for(distribution: str) -> None:
    """And lognormal ones the spread."""
    plan = replace(PLAN, rate_per_s=1000.0, duration_ms=200.0, distribution=distribution, spread=0.5)

    durations_s = [each.duration_s for each in arrivals(plan)]

    mean_s = sum(durations_s) / len(durations_s)
    deviation_s = (sum((each - mean_s) ** 2 for each in durations_s) / len(durations_s)) ** 0.5
    assert mean_s == pytest.approx(0.2, rel=0.02)
    expected = {"fixed": 0.0, "exponential": 1.0, "lognormal": 0.5}
    assert deviation_s / mean_s == pytest.approx(expected[distribution], rel=0.03, abs=1e-9)
