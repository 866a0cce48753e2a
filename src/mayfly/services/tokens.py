"""
Tokens: ES256 JWTs, access and refresh alike, signed with one of the platform's keys.

The key's id is in the header and, because the gateway looks keys up by a claim, among the claims too. All keys in the
directory verify and the last one by name signs, so keys are rotated by adding one, and removing the old one when the
longest token is over. What a token says is only that it was issued; whether its session still exists, `sessions` asks
the database, each time. So that this server has found a signature right may be remembered until the token is over: it
stays right, and checking it takes 0.1 ms. Rows: F3, A1.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mayfly.domain.errors import NotAuthenticated
from mayfly.domain.ids import ID, SessionId, UserId, new_id, new_ulid

ALGORITHM = "ES256"
CLOCK_SKEW_S = 60  # between two API servers, each half a minute off: an end is by its session first, by this last
TOKEN_MAX_CHARACTERS = 2048
REMEMBERED_AT_MOST = 4096  # tokens, some 2 MB; only genuine ones, those unused for longest go first
REQUIRED = ["iss", "aud", "sub", "sid", "exp", "iat", "jti", "kid"]

Use = Literal["access", "refresh"]


class KeysMissing(Exception):
    """There is no usable signing key."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a genuine token says."""

    user_id: UserId
    session_id: SessionId


def write_new_key(directory: Path) -> Path:
    """Make an ES256 key, readable by its owner only. Its name sorts last, so it signs from the next start on."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    newest = max((present.stem for present in directory.glob("*.pem")), default="")
    kid = new_ulid()
    if kid <= newest:  # of the same millisecond, or somebody chose names
        kid = f"{newest}-{kid}"
    path = directory / f"{kid}.pem"
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(pem)
    return path


class TokenKeys:
    """The keys of one API server: signs, and verifies what itself or another server signed."""

    def __init__(self, keys: dict[str, ec.EllipticCurvePrivateKey], *, issuer: str, audience: str) -> None:
        """*keys* are private keys by kid; the last one by name signs."""
        self._signing_kid = max(keys)
        self._signing_key = keys[self._signing_kid]
        self._public = {kid: key.public_key() for kid, key in keys.items()}
        self._issuer = issuer
        self._audience: dict[Use, str] = {"access": audience, "refresh": f"{audience}/refresh"}
        self._remembered: OrderedDict[bytes, tuple[Claims, float]] = OrderedDict()  # by digest, with the end

    @classmethod
    def load(cls, directory: Path, *, issuer: str, audience: str) -> TokenKeys:
        """
        Read `<kid>.pem` files.

        Raises: KeysMissing when there is none, or one is not an ES256 private key.
        """
        keys = {path.stem: _read_key(path) for path in sorted(directory.glob("*.pem"))}
        if not keys:
            raise KeysMissing(
                f"{directory} has no <kid>.pem: `mayfly bootstrap` makes one, or set MAYFLY_TOKEN_KEYS_DIR."
            )
        return cls(keys, issuer=issuer, audience=audience)

    @property
    def signing_kid(self) -> str:
        """The id of the key that signs."""
        return self._signing_kid

    def has(self, kid: str | None) -> bool:
        """Whether what this key has signed is still good."""
        return kid in self._public

    def sign(self, claims: Claims, use: Use, *, lives_s: float) -> str:
        """Issue a token that is good for *lives_s*."""
        now = int(time.time())
        payload: dict[str, Any] = {
            "iss": self._issuer,
            "aud": self._audience[use],
            "sub": claims.user_id,
            "sid": claims.session_id,
            "iat": now,
            "exp": now + int(lives_s),
            "jti": new_id(),
            "kid": self._signing_kid,
        }
        return jwt.encode(payload, self._signing_key, algorithm=ALGORITHM, headers={"kid": self._signing_kid})

    def verify(self, token: str, use: Use) -> Claims:
        """
        Read a token that we issued for this use and that is not over.

        Raises: NotAuthenticated, saying only what its holder may know.
        """
        if len(token) > TOKEN_MAX_CHARACTERS:
            raise _refused("is longer than any that was issued here")
        digest = hashlib.sha256(f"{use} {token}".encode()).digest()
        remembered, ends_at = self._remembered.get(digest, (None, 0.0))
        if remembered and time.time() < ends_at:
            self._remembered.move_to_end(digest)
            return remembered
        claims, ends_at = self._verify(token, use)
        self._remembered[digest] = claims, ends_at
        if len(self._remembered) > REMEMBERED_AT_MOST:
            self._remembered.popitem(last=False)
        return claims

    def _verify(self, token: str, use: Use) -> tuple[Claims, float]:
        """Say what a token says, and until when it is good."""
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            claims = self._decode(token, kid, use)
        except jwt.ExpiredSignatureError:
            raise _refused("has expired; refresh it or log in again") from None
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise _refused("was not issued here, or is damaged") from None
        if claims["kid"] != kid or not (_is_id(claims["sub"]) and _is_id(claims["sid"])):
            raise _refused("was not issued here, or is damaged")
        return Claims(UserId(claims["sub"]), SessionId(claims["sid"])), claims["exp"] + CLOCK_SKEW_S

    def _decode(self, token: str, kid: object, use: Use) -> dict[str, Any]:
        key = self._public.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise _refused("was signed with a key that is not in use here")
        return jwt.decode(
            token,
            key,
            algorithms=[ALGORITHM],  # never the one that the token names
            audience=self._audience[use],
            issuer=self._issuer,
            leeway=CLOCK_SKEW_S,
            options={"require": REQUIRED, "strict_aud": True},
        )


def _is_id(value: object) -> bool:
    return isinstance(value, str) and ID.fullmatch(value) is not None


def _refused(why: str) -> NotAuthenticated:
    return NotAuthenticated(f"The token {why}. POST /v1/tokens gives a new one.", error="invalid_token")


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise KeysMissing(f"{path} is not a private key in PEM: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeysMissing(f"{path} is not an ES256 key (EC, curve P-256).")
    return key
