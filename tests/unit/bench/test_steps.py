"""Where a call's time goes."""

from __future__ import annotations

import pytest

from bench.steps import REST, steps_ms


def test_steps_and_the_rest_add_up() -> None:
    """Together they are what the client waited, in the calls of the middle fifth; `start` is a part of `run`."""
    slow = (100.0, "admit;dur=50.00, queue;dur=10.00, image;dur=20.00, start;dur=5.00, run;dur=10.00")
    middle = (10.0, "admit;dur=1.00, queue;dur=0.50, image;dur=5.00, start;dur=1.00, run;dur=2.00")
    fast = (1.0, "admit;dur=0.10")
    found = steps_ms([slow, slow, middle, fast, fast])

    assert found == pytest.approx({"admit": 1, "queue": 0.5, "image": 5, "start": 1, "run": 2, REST: 1.5})


def test_a_step_of_which_we_know_nothing_counts() -> None:
    """A later version may tell of more: it is shown, and is no part of the rest. The installation's sum is no step."""
    found = steps_ms([(10.0, "admit;dur=1, answer;dur=4, total;dur=5")])

    assert found == pytest.approx({"admit": 1, "answer": 4, REST: 5})
