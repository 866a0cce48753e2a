"""
A function's secrets: values that are sealed where they come in, and opened where a container starts.

The function's record says which there are; each value lies in a bucket of its own, under a key that is never used
again. So the record's compare-and-set is the one moment at which a secret is set, changed or deleted. Rows: F4.
"""

from __future__ import annotations

import enum
import re

import msgspec

from mayfly.domain.ids import UserId
from mayfly.domain.sealing import Sealed
from mayfly.domain.stored import Count, Moment, StoredId, StoredSecretKey

KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
SECRETS_MAX = 32  # of one function
VALUE_MAX_BYTES = 64 * 1024
ENVIRONMENT_MAX_BYTES = 32 * 1024  # of all secrets of a function that are variables, names included
FILES_MAX_BYTES = 256 * 1024  # of all that are files: they are in a worker's memory while the function runs
DIRECTORY = "/run/secrets"  # in the container


class Delivery(enum.StrEnum):
    """How the container gets a secret."""

    ENVIRONMENT = "environment"  # as a variable of the secret's name
    FILE = "file"  # as a file of its name in DIRECTORY, readable by the image's user alone


class SecretRef(msgspec.Struct, frozen=True, kw_only=True):
    """What a function's record says of one secret: all but its value."""

    key: StoredSecretKey
    version: StoredId  # a ULID, new with each value; part of the bucket's key
    delivery: Delivery
    size_bytes: Count
    updated_at: Moment


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """The value of one version of a secret."""

    v: int = 1
    sealed: Sealed


def secret_key(user_id: UserId, function_id: str, key: str, version: str) -> str:
    """Its key in the bucket."""
    return f"{user_id}.{function_id}.{key}.{version}"


def secret_place(user_id: UserId, function_id: str, ref: SecretRef) -> tuple[str, ...]:
    """What its value is sealed for: it can be opened as this secret of this function, in this way, and as no other."""
    return ("secret", user_id, function_id, ref.key, ref.version, ref.delivery)


class OpenedSecret(msgspec.Struct, frozen=True, kw_only=True):
    """A secret in the clear, for one container."""

    key: str
    delivery: Delivery
    value: bytes

    def __repr__(self) -> str:
        """Show all but the value, wherever this is printed."""
        return f"OpenedSecret(key={self.key!r})"
