"""Moments as people write them: so long ago, or a time; and how long something is to last."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from mayfly.cli.exits import Refused

_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment(text: str, *, now: datetime | None = None) -> datetime:
    """
    Read a moment: `90s`, `10m`, `2h`, `1d` before *now*, or a time by ISO 8601, local unless it names its zone.

    Raises: Refused.
    """
    try:
        if ago := _AGO.fullmatch(text):
            return (now or datetime.now(UTC)) - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise Refused(
            f"{text!r} is not a moment. Write how long ago, such as 90s, 10m, 2h or 1d, or a time, such as "
            "2026-11-29T12:00 or 2026-11-29T12:00Z."
        ) from None


def duration(text: str) -> float:
    """
    Read how long something is to last, in seconds: `90s`, `10m`, `2h`, `30d`.

    Raises: Refused.
    """
    found = _AGO.fullmatch(text)
    try:
        if found:
            return timedelta(**{_UNITS[found[2]]: float(found[1])}).total_seconds()
    except (ValueError, OverflowError):
        pass  # more than there is
    raise Refused(f"{text!r} is no length of time. Write such as 90s, 10m, 2h or 30d.")
