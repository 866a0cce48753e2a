"""What goes over the wire about secrets and registries. A value or a password only ever comes in. Rows: F4."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from mayfly.api.shapes import Shape, instant
from mayfly.domain.registry import PASSWORD_MAX_BYTES, USERNAME_MAX_CHARACTERS, RegistryCredentials
from mayfly.domain.secret import Delivery, SecretRef

KEY_RULE = "1 to 64 characters: letters, digits and _, the first one no digit"


def _account_name(text: str) -> str:
    if ":" in text or not text.isprintable():
        raise ValueError("printable characters without a colon, which HTTP puts between name and password")
    return text


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("printable characters on one line")
    if len(text.encode()) > PASSWORD_MAX_BYTES:
        raise ValueError(f"at most {PASSWORD_MAX_BYTES} bytes")
    return text


class SecretShape(Shape):
    """A secret, without its value, which is never shown again."""

    model_config = ConfigDict(serialize_by_alias=True)

    key: str
    """Its name."""

    as_: Annotated[Delivery, Field(alias="as")]
    """How the container gets it: as a variable of the `environment`, or as a `file` in /run/secrets."""

    size_bytes: int
    """How long the value is."""

    updated_at: datetime
    """When it was set."""

    @classmethod
    def of(cls, ref: SecretRef) -> SecretShape:
        """Show a secret."""
        return cls.model_validate(
            {
                "key": ref.key,
                "as": ref.delivery,
                "size_bytes": ref.size_bytes,
                "updated_at": instant(ref.updated_at),
            }
        )


class SecretList(Shape):
    """A function's secrets, by key."""

    secrets: list[SecretShape]
    """By key."""


class NewRegistryCredentials(Shape):
    """One's account at a registry."""

    username: Annotated[str, Field(min_length=1, max_length=USERNAME_MAX_CHARACTERS), AfterValidator(_account_name)]
    """One's name there: printable, without a colon."""

    password: Annotated[str, Field(min_length=1, json_schema_extra={"format": "password"}), AfterValidator(_one_line)]
    """Or what the registry calls a token. Sealed when it arrives, and never shown again."""


class RegistryShape(Shape):
    """One's account at a registry, without the password."""

    host: str
    """HOST or HOST:PORT, in lower case."""

    username: str
    """One's name there."""

    updated_at: datetime
    """When it was set."""

    @classmethod
    def of(cls, entry: RegistryCredentials) -> RegistryShape:
        """Show an account."""
        return cls(host=entry.host, username=entry.username, updated_at=instant(entry.updated_at))


class RegistryList(Shape):
    """One's accounts at registries, by host."""

    registries: list[RegistryShape]
    """By host."""
