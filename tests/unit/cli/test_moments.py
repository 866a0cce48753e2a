"""Moments as people write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mayfly.cli.exits import Refused
from mayfly.cli.moments import moment

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("0s", timedelta(0)),
        ("90s", timedelta(seconds=90)),
        ("10m", timedelta(minutes=10)),
        ("1.5h", timedelta(minutes=90)),
        ("2h", timedelta(hours=2)),
        ("1d", timedelta(days=1)),
    ],
)
def test_so_long_ago_is_counted_from_now(text: str, ago: timedelta) -> None:
    """A number with its unit is that much before now."""
    assert moment(text, now=NOW) == NOW - ago


@pytest.mark.parametrize("text", ["2026-11-29T12:00Z", "2026-11-29 12:00:00Z", "2026-11-29T14:00+02:00"])
def test_a_time_with_its_zone_is_that_moment(text: str) -> None:
    """ISO 8601 with a zone means one moment, also as `activations list` writes it."""
    assert moment(text) == NOW


def test_a_time_without_a_zone_is_ours() -> None:
    """A time on the wall is read on the wall of the one who types it."""
    assert moment("2026-11-29T12:00") == datetime(2026, 11, 29, 12).astimezone()
    assert moment("2026-11-29").tzinfo is not None


@pytest.mark.parametrize(
    "text", ["", "10", "m", "-5m", "10 m", "10w", "yesterday", "12:00", "99999999d", "9" * 400 + "d"]
)
def test_what_is_no_moment_is_refused_with_the_forms(text: str) -> None:
    """What cannot be read, and what is before all time, is answered with the forms that can be."""
    with pytest.raises(Refused, match="10m"):
        moment(text)
