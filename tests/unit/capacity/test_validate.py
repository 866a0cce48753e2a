"""How real and model are put side by side."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench.capacity import page
from bench.capacity.compared import NOISY, Compared, Validation, conditions, table
from bench.capacity.costs import Costs
from bench.capacity.load import Used
from bench.capacity.neighbours import busy_s, busy_ticks, of_the_kernel, others
from bench.capacity.outcome import Outcome, Spread
from bench.capacity.plan import Plan
from bench.capacity.validate import SLEEPING, short_calls

REAL = Outcome(
    arrived=100,
    refused={"platform": 15, "user": 5},
    finished=80,
    in_flight=0,
    waited=0,
    queue_ms=Spread(0.4, 0.3, 0.5, 1.0),
    latency_ms=Spread(11.0, 10.0, 20.0, 40.0),
    used={"slots": 0.5, "cores": 0.25},
)
MODEL = replace(
    REAL, refused={"platform": 22, "user": 0}, queue_ms=Spread(0, 0, 0, 0), latency_ms=Spread(11.0, 9.0, 20.0, 50.0)
)
WAITING = replace(REAL, waited=80, queue_ms=Spread(100.0, 200.0, 300.0, 400.0))


def validation(real: Outcome, model: Outcome) -> Validation:
    """One load, compared."""
    return Validation(Costs(api_s=0.01), 12.0, 100.0, (Compared("a load", Plan(others=0.25), real, model),))


def test_the_error_is_the_models() -> None:
    """In percent of what was real, with its sign."""
    lines = table(validation(REAL, MODEL)).splitlines()

    assert lines == [
        "| load | figure | real | model | error |",
        "|---|---|---|---|---|",
        "| a load | refused | 20 % | 22 % | +10 % |",
        "| a load | slots in use | 50 % | 50 % | +0 % |",
        "| a load | cores in use | 25 % | 25 % | +0 % |",
        "| a load | latency, p50 | 10.0 ms | 9.0 ms | -10 % |",
        "| a load | latency, p95 | 20.0 ms | 20.0 ms | +0 % |",
        "| a load | latency, p99 | 40.0 ms | 50.0 ms | +25 % |",
    ]


def test_the_wait_for_a_slot_is_compared_where_there_is_one() -> None:
    """Its rows come with a load in which most wait."""
    lines = table(validation(WAITING, WAITING)).splitlines()

    assert "| a load | wait for a slot, p50 | 200.0 ms | 200.0 ms | +0 % |" in lines
    assert "| a load | wait for a slot, p95 | 300.0 ms | 300.0 ms | +0 % |" in lines


@pytest.mark.parametrize(("beside", "warns"), [(0.1, False), (0.5, True)])
def test_a_noisy_machine_is_no_proof(beside: float, warns: bool) -> None:
    """What was measured beside others says so itself, on the page too."""
    [compared] = validation(REAL, MODEL).compared
    measured = replace(validation(REAL, MODEL), compared=(replace(compared, plan=Plan(others=beside)),))

    assert conditions(measured).startswith(f"100 calls on 2 cores, on which {beside} processes of others computed")
    assert (NOISY in conditions(measured)) is warns


def test_the_page_takes_what_was_measured_between_its_marks() -> None:
    """And nothing else of it changes; a page without the marks is refused."""
    there = page.PAGE.read_text(encoding="utf-8")
    measured = f"{table(validation(REAL, MODEL))}\n\n{conditions(validation(REAL, MODEL))}"

    once = page.with_measured(there, measured)

    assert measured in once
    assert page.with_measured(once, measured) == once
    assert once.partition(page.BEGIN)[0] == there.partition(page.BEGIN)[0]
    assert once.partition(page.END)[2] == there.partition(page.END)[2]
    with pytest.raises(ValueError, match="no place for what is measured"):
        page.with_measured("nothing", measured)


@pytest.mark.parametrize(
    ("runnable", "ours_of_busy", "expected"),
    [(2.9, 1.0, 0.0), (0.5, 0.5, 0.25), (4.0, 0.5, 2.0), (18.0, 0.1, 16.2), (1.0, 1.2, 0.0)],
)
def test_others_are_those_who_are_not_ours(runnable: float, ours_of_busy: float, expected: float) -> None:
    """Four who want the cores, and half of what is computed ours, are two of ours and two of others."""
    assert others(runnable, ours_of_busy=ours_of_busy) == pytest.approx(expected)


def test_all_that_a_machine_computes_is_counted() -> None:
    """What this process computes is in it, and not the time that nobody computed, or another machine."""
    assert busy_ticks("cpu  100 20 30 9999 50 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n") == 163
    before, ours_before = busy_s(), time.process_time()
    while time.process_time() < ours_before + 0.3:
        pass

    assert busy_s() - before >= 0.3 - 2 / os.sysconf("SC_CLK_TCK")


def test_the_kernels_own_threads_are_counted() -> None:
    """They have done something since this machine started, and are a part of all. A container does not see them."""
    are_here = Path("/proc/2/comm").exists() and Path("/proc/2/comm").read_text(encoding="ascii") == "kthreadd\n"

    assert (of_the_kernel() > 0) is are_here
    assert of_the_kernel() < busy_s()


def test_an_installations_part_of_what_is_computed() -> None:
    """Of three seconds that the machine computed, one and a half."""
    before = Used(at=0.0, cpu_s={"api": 1.0, "nats": 1.0}, kernel_s=5.0, busy_s=10.0)
    now = Used(at=2.0, cpu_s={"api": 1.5, "nats": 1.5}, kernel_s=5.5, busy_s=13.0)

    assert now.ours_of_busy_since(before) == pytest.approx(0.5)
    assert now.since(before) == {"api": 0.25, "nats": 0.25}
    assert replace(now, kernel_s=1.0).ours_of_busy_since(before) == pytest.approx(1 / 3)  # kernel threads have ended
    assert replace(now, busy_s=10.5).ours_of_busy_since(before) == 1.0


def test_the_loads_are_such_that_something_is_refused() -> None:
    """Short calls meet both limits below saturation; who sleeps asks for more than there is, with room to wait."""
    short = short_calls(100.0)

    assert short.rate_per_s == 60
    assert short.max_per_user is not None
    assert short.max_activations is not None
    assert short.max_per_user < short.max_activations == short.slots
    assert SLEEPING.rate_per_s * SLEEPING.duration_ms / 1000 == pytest.approx(1.2 * SLEEPING.slots)
    assert SLEEPING.max_activations == 2 * SLEEPING.slots
