"""What cannot be simulated is refused in words that name the field, what it may be, and the remedy."""

from __future__ import annotations

from dataclasses import fields

import pytest

from bench.capacity.plan import BadInput, Plan


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"slots": "0"}, "slots is 0 and must be from 1 to 4,096: raise it"),
        ({"slots": "two"}, "slots is 'two' and must be a whole number: write it in digits, without a unit"),
        ({"slots": "1.5"}, "slots is '1.5' and must be a whole number: write it in digits, without a unit"),
        ({"rate_per_s": "50/s"}, "rate_per_s is '50/s' and must be a number: write it in digits, without a unit"),
        ({"rate_per_s": "nan"}, "rate_per_s is nan and must be from 0.001 to 1,000,000: raise it"),
        ({"rate_per_s": "-1"}, "rate_per_s is -1 and must be from 0.001 to 1,000,000: raise it"),
        ({"cpu_share": "1.1"}, "cpu_share is 1.1 and must be from 0 to 1: lower it"),
        ({"workers": "none"}, "workers is 'none' and must be a whole number: write it in digits, without a unit"),
        (
            {"distribution": "normal"},
            "distribution is 'normal' and must be one of: fixed, exponential, lognormal",
        ),
        ({"warm_up_s": "60"}, "warm_up_s is 60 and must be below seconds, 60: simulate for longer"),
        (
            {"shards": "2"},
            "shards is 2 and must be at most workers, 1, as each shard has workers of its own: take fewer shards or "
            "more workers",
        ),
        (
            {"shards": "4", "workers": "4", "max_activations": "3"},
            "max_activations is 3 and must be at least shards, 4, over which it is split: raise it or take fewer "
            "shards",
        ),
        (
            {"workers": "2", "one_machine": True},
            "workers is 2 and must be 1 with one_machine: give the one more slots and cores",
        ),
        (
            {"rate_per_s": "100000"},
            "rate_per_s x seconds is 6,000,000 calls and must be at most 5,000,000: simulate a shorter time; the more "
            "calls a second, the less of it is needed",
        ),
    ],
)
def test_a_plan_that_cannot_be(given: dict[str, str | bool], says: str) -> None:
    """Each wrong input has its sentence."""
    with pytest.raises(BadInput) as caught:
        Plan.read(given)

    assert str(caught.value) == says


def test_every_number_is_bounded_on_both_sides() -> None:
    """No field of a plan takes any number: a typing error is found before it costs an hour."""
    for each in fields(Plan):
        if isinstance(each.default, bool | str):
            continue
        for beyond in (each.metadata["least"] - 1, each.metadata["most"] + 1):
            with pytest.raises(BadInput, match=rf"^{each.name} is .* must be from"):
                Plan.read({each.name: str(beyond)})


def test_there_may_be_no_limit() -> None:
    """`none` is a value of M and U, as it is of the settings."""
    assert Plan.read({"max_activations": "none", "max_per_user": "7"}) == Plan(max_per_user=7)
