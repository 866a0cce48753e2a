"""How failed attempts slow down the next ones, and who counts as one caller."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly.domain.attempts import BackOff, Tally, network_of

pytestmark = pytest.mark.F3

BACK_OFF = BackOff(free=5, delay_s=1, delay_max_s=900, kept_s=86_400)
NOW = 1_800_000_000.0


def failed(times: int, *, at: float = NOW) -> Tally:
    """So many, the last one then."""
    return Tally(failures=times, last_at=at, nonce="n")


@pytest.mark.parametrize(
    ("failures", "wait_s"), [(0, 0), (4, 0), (5, 1), (6, 2), (7, 4), (14, 512), (15, 900), (10**9, 900)]
)
def test_after_the_free_ones_each_waits_twice_as_long(failures: int, wait_s: float) -> None:
    """1 s after the last free one, then twice as long each time, and never longer than the most."""
    assert BACK_OFF.wait_s(failed(failures), NOW) == wait_s


def test_nothing_counted_waits_for_nothing() -> None:
    """Where nobody has failed, nobody waits."""
    assert BACK_OFF.wait_s(None, NOW) == 0


def test_the_wait_goes_down_with_the_time_and_ends() -> None:
    """What is told is what is left, and at its end the next attempt may be made."""
    assert BACK_OFF.wait_s(failed(8), NOW + 3) == 5
    assert BACK_OFF.wait_s(failed(8), NOW + 8) == 0


def test_all_is_forgotten_together() -> None:
    """So long after the last failure that it does not count any more, the first ones are free again."""
    late = NOW + BACK_OFF.kept_s
    assert BACK_OFF.wait_s(failed(1000), late) == 0
    assert BACK_OFF.one_more(failed(1000), late, "m") == Tally(failures=1, last_at=late, nonce="m")


@given(
    failures=st.integers(0, 10**12),
    last_at=st.floats(0, 4e9),
    now=st.floats(0, 4e9),
    free=st.integers(1, 10**6),
    most=st.floats(1, 86_400),
)
def test_no_wait_is_negative_or_longer_than_the_most(
    failures: int, last_at: float, now: float, free: int, most: float
) -> None:
    """Whatever is counted, and however wrong a clock is."""
    back_off = BackOff(free=free, delay_s=1, delay_max_s=most, kept_s=86_400)
    tally = failed(failures, at=last_at)
    assert 0 <= back_off.wait_s(tally, now) <= most
    more = back_off.one_more(tally, now, "m")
    assert back_off.one_less(more, "l").failures == back_off.failures(tally, now)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", None),
        ("unknown", None),
        ("192.0.2.7:1234", None),
        ("192.0.2.7, 192.0.2.8", None),
        ("0192.0.2.7", None),
        ("1" * 5000, None),
        ("\x00", None),
    ],
)
def test_callers_count_by_address_or_by_the_64_bits_of_their_network(address: str, network: str | None) -> None:
    """Who has a whole IPv6 network is one caller; what is no address is nobody's."""
    assert network_of(address) == network
