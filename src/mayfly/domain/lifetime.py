"""
How long something is kept, by how much of its kind its user has: what bounds one user's share of the store. Rows: F4.

Up to half of the most that a user may have nothing changes. From there on what is new is kept the shorter the more he
has, evenly, down to the shortest time when he has the most. So nothing is taken away early and nothing is refused; and
whatever he does, he has no more than the most and what he makes in the shortest time.
"""

from __future__ import annotations

from dataclasses import dataclass

RECORDS_MAX_PER_USER = 100_000  # unless it is set: some 100 MB
UNTOUCHED = 1 / 2  # of the most a user may have


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """Times in seconds; *most* is how many of these things one user may have."""

    longest_s: float
    shortest_s: float
    most: int

    def of_next(self, present: int) -> float:
        """Say how long one more is kept, beside so many that are *present*."""
        shortest_s = min(self.shortest_s, self.longest_s)
        left = min(1.0, max(0.0, (self.most - present) / (self.most * (1 - UNTOUCHED))))
        return shortest_s + left * (self.longest_s - shortest_s)

    def is_short(self, present: int) -> bool:
        """Whether one more is kept shorter than it would be for others."""
        return present > self.most * UNTOUCHED
