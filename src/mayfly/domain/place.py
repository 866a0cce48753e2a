"""
A place: one of the numbered units of a limit that the work stream cannot count, such as a function's own. Rows: F13.
"""

from __future__ import annotations

import msgspec

from mayfly.domain.stored import StoredKey


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A place that is taken; a free one is not there."""

    v: int = 1
    holder: StoredKey  # key of the record of the activation that has it
