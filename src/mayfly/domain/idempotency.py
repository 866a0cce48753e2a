"""
What is kept under a caller's Idempotency-Key: enough for anybody to find the call's outcome, and to carry on with one
whose API server died before it was in the queue. Rows: F12.
"""

from __future__ import annotations

import hashlib

import msgspec

from mayfly.domain.ids import FunctionName, UserId
from mayfly.domain.stored import StoredId, StoredUserId

KEY_MAX_CHARACTERS = 255


class IdempotencyEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The first call with a key. Its ulid is the message's id as well, so that nobody can queue it twice."""

    v: int = 1
    user_id: StoredUserId
    instance: StoredId
    ulid: StoredId
    request_sha256: str  # of the function's name and the parameter

    @property
    def activation_key(self) -> str:
        """The key of its record."""
        return f"{self.user_id}.{self.instance}.{self.ulid}"


def entry_key(user_id: UserId, idempotency_key: str) -> str:
    """Where the entry is. The caller's words go through a hash: they could not be a token of a subject."""
    return f"{user_id}.{hashlib.sha256(idempotency_key.encode()).hexdigest()}"


def request_sha256(function: FunctionName, parameter: bytes) -> str:
    """Say which call it is: the same key with another one is a mistake of the caller's."""
    return hashlib.sha256(function.encode() + b"\0" + parameter).hexdigest()
