"""`mayfly inspect` on the NATS of a deployment, which MAYFLY_NATS_URL names."""

from __future__ import annotations

import re

import pytest

from tests.support.backup import mayfly
from tests.support.bus import installation

pytestmark = [pytest.mark.A3, pytest.mark.A4]


async def test_a_deployments_streams_and_buckets_are_looked_into() -> None:
    """By the variables of `mayfly bootstrap` the admin sees each of them, and an API server's user is refused."""
    async with installation() as made:
        status, said, complained = await (await mayfly(made, "inspect")).ended()
        refused, nothing, why = await (await mayfly(made, "inspect", role="api")).ended()

    assert status == 0, complained
    names = re.findall(r"^(\w+) +\d+ messages +\d+ bytes$", said, re.MULTILINE)
    assert {"ACT", "RESPONSES", "AUDIT", "users", "functions", "activations"} <= set(names)
    assert len(names) == len(said.splitlines())
    assert (refused, nothing) == (2, "")
    assert "it takes the user `admin`" in why
