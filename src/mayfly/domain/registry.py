"""A user's own credentials for a registry; the password is sealed. Rows: F4, F6."""

from __future__ import annotations

import hashlib

import msgspec

from mayfly.domain.ids import UserId
from mayfly.domain.sealing import Sealed
from mayfly.domain.stored import HeaderText, Moment, Word

REGISTRIES_MAX = 32  # of one user
HOSTS_MAX = 256  # that a user may ever name: each that was deleted leaves a tombstone, which every list reads
USERNAME_MAX_CHARACTERS = 256
PASSWORD_MAX_BYTES = 16 * 1024  # tokens of some clouds have some kilobytes


class RegistryCredentials(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a user's account at a registry."""

    v: int = 1
    host: HeaderText  # in lower case, with its port if it has one
    username: Word
    updated_at: Moment
    sealed: Sealed


class OpenedCredentials(msgspec.Struct, frozen=True, kw_only=True):
    """Credentials in the clear, for one pull."""

    username: str
    password: str

    def __repr__(self) -> str:
        """Show no password, wherever this is printed."""
        return f"OpenedCredentials(username={self.username!r})"


def registry_key(user_id: UserId, host: str) -> str:
    """Its key in the bucket. A host's name has dots, colons and brackets, so its hash stands there."""
    return f"{user_id}.{hashlib.sha256(host.encode()).hexdigest()}"


def registry_place(user_id: UserId, host: str, username: str) -> tuple[str, ...]:
    """What the password is sealed for: this user at this host under this name."""
    return ("registry", user_id, host, username)
