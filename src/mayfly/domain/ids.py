"""
Identifiers and names, and the one rule for what may become a token of a NATS subject or key.

Nothing else ever gets there: an id with a dot in it would make a subject that nobody listens to.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from typing import NewType

UserId = NewType("UserId", str)
UserName = NewType("UserName", str)
SessionId = NewType("SessionId", str)
FunctionName = NewType("FunctionName", str)
InstanceId = NewType("InstanceId", str)
WorkerId = NewType("WorkerId", str)
ActivationId = NewType("ActivationId", str)  # "<instance>-<ulid>", as callers see it
Digest = NewType("Digest", str)  # "sha256:<64 hex digits>", of an image's manifest

ID = re.compile(r"[a-z0-9]{20,32}")
KEY_ID = re.compile(r"key[a-z0-9]{24}")  # the session of a key; that of a login has no such prefix
FUNCTION_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
USER_NAME = re.compile(r"[a-z][a-z0-9-]{2,31}")
ACTIVATION_ID = re.compile(r"([a-z0-9]{20,32})-([a-z0-9]{26})")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def new_ulid(at: float | None = None) -> str:
    """
    Make a ULID in lower case: 48 bits of milliseconds, 80 random bits, 26 characters that sort by time; of now, or of a
    moment in seconds since the epoch.
    """
    number = int((time.time() if at is None else at) * 1000) << 80 | int.from_bytes(os.urandom(10))
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def ulid_time(ulid: str) -> float:
    """Read the moment of a ULID, in seconds since the epoch."""
    milliseconds = 0
    for character in ulid[:10]:
        milliseconds = milliseconds << 5 | _CROCKFORD.index(character)
    return milliseconds / 1000


def new_id() -> str:
    """Make a random id of 24 characters (120 bits) that nobody can guess: users, sessions, workers, instances."""
    number = secrets.randbits(120)
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(115, -1, -5))


def new_key_id() -> SessionId:
    """Make a random id for the session of a key, which is longer than any other's."""
    return SessionId(f"key{new_id()}")


def activation_id(instance: str, ulid: str) -> ActivationId:
    """Join the id by which a caller knows an activation."""
    return ActivationId(f"{instance}-{ulid}")


def split_activation_id(text: str) -> tuple[str, str] | None:
    """Take a caller's activation id apart into instance and ulid; None if it can't be one."""
    match = ACTIVATION_ID.fullmatch(text)
    return (match[1], match[2]) if match else None
