"""
The secret half of the gateway's files: certificate and key, the secret for API servers, and public token keys.

It is read from a directory of `mayfly secrets create`. Without one, placeholders stand in its place, which APISIX
fills in from its environment, and without which it refuses the file. Rows: D3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mayfly.api.door import SECRET_MIN_BYTES
from mayfly.ops.certificates import Issued, key_belongs
from mayfly.ops.folder import read_followed
from mayfly.settings import SettingsError

CERTIFICATE, KEY, AUTHORITY, SHARED, TOKEN_KEYS = (
    "gateway.crt",
    "gateway.key",
    "ca.crt",
    "gateway.secret",
    "token-keys",
)
KID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
SECRET = re.compile(rf"[A-Za-z0-9_-]{{{SECRET_MIN_BYTES},256}}")


class MaterialUnusable(SettingsError):
    """A file of the gateway's secrets is missing, or is not what it should be."""


@dataclass(frozen=True, slots=True)
class Material:
    """What only the gateway knows, and the keys by which it knows a token. Never printed."""

    certificate: str = field(repr=False)
    key: str = field(repr=False)
    secret: str = field(repr=False)
    token_keys: dict[str, str]  # public keys in PEM, by kid


def placeholder(name: str) -> str:
    """Return what APISIX replaces by the environment variable *name*."""
    return f"${{{{{name}}}}}"


PLACEHOLDER_NAMES = (
    "GATEWAY_CERTIFICATE",
    "GATEWAY_KEY",
    "GATEWAY_SECRET",
    "TOKEN_KID_1",
    "TOKEN_KEY_1",
    "TOKEN_KID_2",
    "TOKEN_KEY_2",
)
"""The variables of files without secrets. PEM in them has `\\n` for its line breaks."""

PLACEHOLDERS = Material(
    certificate=placeholder("GATEWAY_CERTIFICATE"),
    key=placeholder("GATEWAY_KEY"),
    secret=placeholder("GATEWAY_SECRET"),
    token_keys={placeholder(f"TOKEN_KID_{number}"): placeholder(f"TOKEN_KEY_{number}") for number in (1, 2)},
)


def read_material(directory: Path) -> Material:
    """
    Read a gateway's directory.

    Raises: MaterialUnusable, naming the file and never what is in it.
    """
    certificate, key = _read(directory / CERTIFICATE), _read(directory / KEY)
    if not key_belongs(Issued(certificate.encode(), key.encode())):
        raise MaterialUnusable(f"{directory / KEY} is not the private key, in PEM, of gateway.crt beside it.")
    if "PRIVATE" in certificate:
        raise MaterialUnusable(f"{directory / CERTIFICATE} has a private key in it; it belongs into gateway.key only.")
    _read_authority(directory / AUTHORITY)
    return Material(certificate, key, _secret(directory / SHARED), _token_keys(directory / TOKEN_KEYS))


def _read(path: Path) -> str:
    try:
        return read_followed(path).decode("ascii")
    except OSError as error:
        raise MaterialUnusable(f"{path} cannot be read: {error.strerror}. `mayfly secrets create` makes it.") from error
    except UnicodeDecodeError as error:
        raise MaterialUnusable(f"{path} has a byte, number {error.start}, that is no ASCII character.") from None


def _secret(path: Path) -> str:
    """The gateway sends one secret; what could end a line or a Lua string is refused."""
    lines = _read(path).split()
    if len(lines) != 1 or not SECRET.fullmatch(lines[0]):
        raise MaterialUnusable(
            f"{path} must be one line of {SECRET_MIN_BYTES} to 256 letters, digits, `-` and `_`, as "
            "`mayfly secrets create` makes it."
        )
    return lines[0]


def _token_keys(directory: Path) -> dict[str, str]:
    keys = {path.stem: _public_key(path) for path in sorted(directory.glob("*.pem"))}
    if not keys:
        raise MaterialUnusable(f"{directory} has no <kid>.pem, so no token would be accepted. `mayfly secrets create`.")
    return keys


def _public_key(path: Path) -> str:
    """Return a public key, written anew, so that nothing else that the file may have gets anywhere."""
    if not KID.fullmatch(path.stem):
        raise MaterialUnusable(f"{path}: a key's id has at most 64 letters, digits and `_.-`.")
    try:
        key = serialization.load_pem_public_key(_read(path).encode())
    except ValueError:
        raise MaterialUnusable(f"{path} is not a public key in PEM. The gateway gets public halves only.") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise MaterialUnusable(f"{path} is not an ES256 key (EC, curve P-256).")
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def _read_authority(path: Path) -> None:
    """API servers are trusted by it, so a gateway with a broken one would refuse them all."""
    try:
        x509.load_pem_x509_certificate(_read(path).encode())
    except ValueError:
        raise MaterialUnusable(f"{path} is not a certificate in PEM. `mayfly secrets create` makes it.") from None
