"""
NATS's clock: the one by which all records are dated, and all deadlines counted, whatever clock a machine has.

The server stamps each message as it stores it, so whoever compares such a stamp with a clock of his own would run what
is long over, or refuse what has just come, where that clock is wrong. Between two readings (`bus.clock_reading`) time
is counted by the monotonic clock, so that a correction of the machine's own is not felt either. The servers of a
cluster are trusted to agree among themselves within a second.
"""

from __future__ import annotations

import time


class Clock:
    """Tells NATS's time; until it was read for the first time, the machine's own."""

    def __init__(self) -> None:
        """Believe the machine's clock."""
        self._ahead_of_monotonic_s = time.time() - time.monotonic()

    def now(self) -> float:
        """Return the seconds since the epoch."""
        return time.monotonic() + self._ahead_of_monotonic_s

    def read(self, stamp_s: float, *, asked_at: float, answered_at: float) -> None:
        """
        Take over a server's stamp, made between these two moments of the monotonic clock.

        Where the machine's own clock agrees, as far as the stamp can tell, that one is more exact than a guess at when
        between the two it was.
        """
        machine_s = time.time() - time.monotonic()
        agrees = asked_at + machine_s <= stamp_s <= answered_at + machine_s
        self._ahead_of_monotonic_s = machine_s if agrees else stamp_s - (asked_at + answered_at) / 2

    @property
    def machine_is_ahead_s(self) -> float:
        """How far the machine's own clock is ahead of NATS's."""
        return time.time() - self.now()
