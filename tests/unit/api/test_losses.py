"""Workers that went without a goodbye are counted, and no others."""

from __future__ import annotations

import pytest

from mayfly.api.usage import FORGOTTEN_AFTER_S, LOST_AFTER_S, Losses

pytestmark = [pytest.mark.A2, pytest.mark.D4]


def told(looks: list[tuple[float, str, str]]) -> int:
    """How many are noticed in all, of looks at a time that find these alive and these gone of themselves."""
    losses = Losses()
    return sum(losses.noticed(set(alive), set(left), now=now) for now, alive, left in looks)


def test_a_worker_whose_signs_ran_out_is_lost_once() -> None:
    """Seen, then missing for long enough, it counts; and at later looks not again."""
    assert told([(0, "ab", ""), (5, "a", ""), (5 + LOST_AFTER_S, "a", ""), (40, "a", "")]) == 1


def test_a_worker_that_said_goodbye_is_not_lost() -> None:
    """The trace that its goodbye left is enough, also when that is gone later."""
    assert told([(0, "ab", ""), (5, "a", "b"), (20, "a", ""), (40, "a", "")]) == 0


def test_one_that_comes_back_is_not_lost() -> None:
    """After an outage of NATS all signs of life are missing at first, and are there again a moment later."""
    assert told([(0, "ab", ""), (12, "", ""), (17, "ab", ""), (30, "ab", "")]) == 0


def test_who_has_not_looked_for_long_begins_anew() -> None:
    """A goodbye that could have been missed is not taken for a loss."""
    assert told([(0, "ab", ""), (FORGOTTEN_AFTER_S + 1, "", ""), (FORGOTTEN_AFTER_S + 12, "", "")]) == 0
