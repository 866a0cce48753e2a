"""
Sealing: API servers encrypt, and only workers can decrypt.

By HPKE (RFC 9180) with X25519, HKDF-SHA256 and AES-256-GCM, as the library `cryptography` has it in one call. An API
server has public keys only, so neither its files nor what is stored are of use to whoever has copied them. Where a
value belongs is its `info`: moved to another user, function or host, it cannot be opened. All private keys open, the
last public one by name seals.

Not covered: whoever is inside an API server can change a function's command, and have a worker run that with its
secrets. An older value of the very same version of a secret cannot be told from a newer one; there is none, as each
version is written once. Rows: F4.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from mayfly.domain.errors import NotAllowed, SecretUnavailable
from mayfly.domain.sealing import Sealed
from mayfly.settings import SettingsError

log = structlog.get_logger()

SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
PUBLIC, PRIVATE = ".pub.pem", ".pem"
Place = tuple[str, ...]


class SealingKeyUnusable(SettingsError):
    """A file among the sealing keys is none."""


class Sealer:
    """Seals values with the newest public key."""

    def __init__(self, kid: str | None, key: X25519PublicKey | None) -> None:
        """Without a key everything that would have to be sealed is refused."""
        self._kid = kid
        self._key = key

    @classmethod
    def load(cls, directory: Path) -> Sealer:
        """
        Read the last `<kid>.pub.pem` by name; there may be none.

        Raises: SealingKeyUnusable; OSError.
        """
        kids = [name.removesuffix(PUBLIC) for name in _names(directory) if name.endswith(PUBLIC)]
        if not kids:
            log.warning("sealing.no-key", directory=str(directory), remedy="`mayfly secrets create` makes one.")
            return cls(None, None)
        newest = max(kids)
        return cls(newest, _public_key(directory / f"{newest}{PUBLIC}"))

    def seal(self, value: bytes, place: Place) -> Sealed:
        """
        Seal *value* for *place*.

        Raises: NotAllowed when this installation has no sealing key.
        """
        if self._kid is None or self._key is None:
            raise NotAllowed(
                "This installation keeps no secrets, as it has no sealing key: its operator makes one by "
                "`mayfly secrets create`. Nothing was stored."
            )
        return Sealed(kid=self._kid, box=SUITE.encrypt(value, self._key, _info(place)))


class Opener:
    """Opens what was sealed with any of its keys."""

    def __init__(self, keys: dict[str, X25519PrivateKey]) -> None:
        """*keys* by kid."""
        self._keys = keys

    @classmethod
    def load(cls, directory: Path) -> Opener:
        """
        Read every `<kid>.pem`; there may be none.

        Raises: SealingKeyUnusable; OSError.
        """
        return cls(_private_keys(directory))

    def open(self, sealed: Sealed, place: Place, *, what: str) -> bytes:
        """
        Open a value that was sealed for *place*; *what* names it in the error.

        Raises: SecretUnavailable: the key is not here, or it was sealed for another place, or changed.
        """
        key = self._keys.get(sealed.kid)
        if key is None:
            log.error("sealing.key-missing", kid=sealed.kid, remedy="Give this worker the key, or have it set anew.")
            raise SecretUnavailable(
                f"{what} cannot be read: the key that it was sealed with is not there any more. "
                "Set it again, or tell the operator. Nothing was run."
            )
        try:
            return SUITE.decrypt(sealed.box, key, _info(place))
        except InvalidTag:
            log.error("sealing.not-for-this-place", kid=sealed.kid, place=place[:3])
            raise SecretUnavailable(
                f"{what} cannot be read: what is stored was not sealed for it. Set it again. Nothing was run."
            ) from None


@dataclass(frozen=True, slots=True)
class Keyring:
    """All private keys, and the newest as what seals: for whoever seals anew."""

    opener: Opener
    sealer: Sealer
    newest: str
    older: tuple[str, ...]

    @classmethod
    def load(cls, directory: Path) -> Keyring:
        """
        Read every `<kid>.pem`.

        Raises: SealingKeyUnusable, also when there is none; OSError.
        """
        keys = _private_keys(directory)
        if not keys:
            raise SealingKeyUnusable(f"{directory} has no <kid>.pem: give the workers' sealing-keys.")
        *older, newest = sorted(keys)
        return cls(Opener(keys), Sealer(newest, keys[newest].public_key()), newest, tuple(older))


def _private_keys(directory: Path) -> dict[str, X25519PrivateKey]:
    names = [name for name in _names(directory) if name.endswith(PRIVATE) and not name.endswith(PUBLIC)]
    return {name.removesuffix(PRIVATE): _private_key(directory / name) for name in names}


def _names(directory: Path) -> list[str]:
    """List the files; a directory that is not there has none, one that may not be read is an error."""
    try:
        return sorted(name for path in directory.iterdir() if not (name := path.name).startswith("."))
    except FileNotFoundError:
        return []


def _info(place: Place) -> bytes:
    """No word has a NUL: each is an id, a name, or checked text."""
    return "\0".join(("mayfly", *place)).encode()


def _public_key(path: Path) -> X25519PublicKey:
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except ValueError as error:
        raise SealingKeyUnusable(f"{path} is no public key in PEM.") from error
    if not isinstance(key, X25519PublicKey):
        raise SealingKeyUnusable(f"{path} is a key of another kind than X25519's.")
    return key


def _private_key(path: Path) -> X25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise SealingKeyUnusable(f"{path} is no private key in PEM without a passphrase.") from error
    if not isinstance(key, X25519PrivateKey):
        raise SealingKeyUnusable(f"{path} is a key of another kind than X25519's.")
    return key
