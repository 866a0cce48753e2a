"""What a safeguard that can be taken out is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One safeguard, how it is taken out, and the tests that say so."""

    safeguard: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
