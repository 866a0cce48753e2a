"""A load offered to a real installation comes to what it comes to in the model, where chance decides nothing."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from bench.capacity.costs import Costs
from bench.capacity.load import offer
from bench.capacity.model import simulate
from bench.capacity.plan import Plan
from bench.installation import Function
from tests.support.images import build_and_push
from tests.support.need import need
from tests.support.registry import Registry

PLAN = Plan(
    rate_per_s=5, burst=5, users=2, duration_ms=500, slots=2, admission_wait_ms=0, one_machine=True,
    seconds=8, warm_up_s=2, seed=59,
)  # fmt: skip
"""Bursts of five calls of half a second, each by one of two users and more than a second after the one before."""


@pytest.fixture
async def sleeps() -> AsyncIterator[tuple[str, Function]]:
    """A registry, and a function that takes half a second."""
    need(os.geteuid() == 0, "root")
    async with Registry() as registry:
        image = await build_and_push(registry.url, "sleeps", cmd=["/bin/sleep", "0.5"])
        yield registry.url, Function(name="sleeps", parameter=b"", result=b"", spec={"image": image})


@pytest.mark.root
@pytest.mark.F13
@pytest.mark.parametrize(
    ("limits", "scope"), [({"max_activations": 2}, "platform"), ({"max_activations": 4, "max_per_user": 2}, "user")]
)
async def test_real_and_simulated_calls_are_refused_alike(
    sleeps: tuple[str, Function], limits: dict[str, Any], scope: str
) -> None:
    """Of each burst as many as the limit run, the others are refused by it; so it is in the model, call by call."""
    plan = replace(PLAN, **limits)

    measured, real = await offer(*sleeps, plan)

    model = simulate(plan, Costs())
    assert (real.arrived, real.refused, real.finished) == (model.arrived, model.refused, model.finished)
    assert real.refused[scope] == real.arrived * 3 / 5 > 0
    assert real.latency_ms.p50 >= 500
    assert 0 < real.used["slots"] < 1
    assert real.used["cores"] > 0
    assert measured == replace(plan, cores=measured.cores, others=measured.others)
