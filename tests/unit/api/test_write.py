"""What an answer tells of the time that a call took."""

from __future__ import annotations

import pytest

from mayfly.api.write import server_timing
from mayfly.client.shapes import timing
from mayfly.domain.activation import Steps

pytestmark = [pytest.mark.F12]

STEPS = Steps(admit_s=0.001, queue_s=0.0005, image_s=0.002, start_s=0.001, run_s=0.003)


def test_the_steps_and_the_rest_add_up_to_the_whole() -> None:
    """All but `start`, which is a part of `run`."""
    told = timing(server_timing(STEPS, total_s=0.0081))

    assert told.pop("total") == pytest.approx(0.0081)
    assert told.pop("start") == pytest.approx(0.001)
    assert sum(told.values()) == pytest.approx(0.0081)
    assert told["answer"] == pytest.approx(0.0016)


def test_who_gets_an_earlier_outcome_has_waited_less_than_it_took() -> None:
    """Then nothing is said to be left, and least of all less than nothing."""
    assert server_timing(STEPS, total_s=0.001).endswith("run;dur=3.00, total;dur=1.00")


def test_without_a_whole_there_are_the_steps_that_were_reached() -> None:
    """Of one that was refused, for example."""
    assert server_timing(Steps(admit_s=0.001)) == "admit;dur=1.00"
