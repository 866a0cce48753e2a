"""
A sealed value: what only a worker can read, and only in the place it was sealed for. How it is done is
`services.sealing`'s. Rows: F4.
"""

from __future__ import annotations

import msgspec

from mayfly.domain.stored import Word


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """A value, encrypted to the sealing key *kid*."""

    kid: Word
    box: bytes
