"""
The files of sealing keys: a private half for workers, a public half for API servers, both in PEM.

`<kid>.pem` opens, `<kid>.pub.pem` seals, if it is the last by name; the kid is a ULID, so that is the newest. Rows: D7.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mayfly.domain.ids import new_ulid
from mayfly.ops.certificates import write_secret
from mayfly.services.sealing import PRIVATE, PUBLIC


def new_sealing_key() -> bytes:
    """Make an X25519 private key, in PEM."""
    key = X25519PrivateKey.generate()
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def ensure_sealing_key(directory: Path) -> None:
    """See to one key in *directory*; keys that are there stay."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not any(directory.glob(f"*{PRIVATE}")):
        write_secret(directory / f"{new_ulid()}{PRIVATE}", new_sealing_key())


def sealing_key_fault(private: bytes) -> str | None:
    """Say why secrets cannot be opened with a key in PEM; None if they can."""
    try:
        key = serialization.load_pem_private_key(private, password=None)
    except (ValueError, TypeError):
        return "is no private key in PEM without a passphrase"
    return None if isinstance(key, X25519PrivateKey) else "is a key of another kind than X25519's"


def public_name(private_name: str) -> str:
    """Name the file of a key's public half by that of its private one."""
    return private_name.removesuffix(PRIVATE) + PUBLIC


def newest_kid(private_names: list[str]) -> str | None:
    """Name the newest of the keys with these files; by kid, as names sort by what comes after it as well."""
    return max((name.removesuffix(PRIVATE) for name in private_names), default=None)
