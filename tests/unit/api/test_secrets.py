"""Password hashes and signing keys."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mayfly.domain.errors import NotAuthenticated, TooManyAttempts
from mayfly.domain.ids import SessionId, UserId, new_id
from mayfly.services.passwords import WAITING_PER_THREAD, Passwords
from mayfly.services.tokens import Claims, KeysMissing, TokenKeys, write_new_key

pytestmark = pytest.mark.F3

CLAIMS = Claims(UserId(new_id()), SessionId(new_id()))


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    """With one thread."""
    one = Passwords(1)
    yield one
    one.close()


async def test_hash_is_argon2id_with_its_own_salt(passwords: Passwords) -> None:
    """Two hashes of one password differ, both match, and nothing else does."""
    first, second = await passwords.hash("correct horse"), await passwords.hash("correct horse")
    assert first != second
    assert first.startswith("$argon2id$v=19$m=32768,t=3,p=1$")
    assert await passwords.matches("correct horse", first)
    assert not await passwords.matches("correct horsf", first)


async def test_nobody_matches_no_password(passwords: Passwords) -> None:
    """Where there is no user there is no password, also not the one that nobody's hash was made of."""
    for password in ("", "x", "whoever has no account is compared with this"):
        assert not await passwords.matches(password, None)


async def test_line_is_bounded_and_empties(passwords: Passwords) -> None:
    """Who finds the line full is told when to come back; when it has emptied, the next one is served."""
    line = [asyncio.create_task(passwords.matches("x", None)) for _ in range(1 + WAITING_PER_THREAD)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyAttempts) as caught:
        await passwords.matches("x", None)
    assert caught.value.retry_after_s
    assert caught.value.retry_after_s >= 1
    await asyncio.gather(*line)
    assert not await passwords.matches("x", None)


def keys_in(directory: Path) -> TokenKeys:
    """Load."""
    return TokenKeys.load(directory, issuer="mayfly", audience="mayfly-api")


def test_new_key_is_private_and_signs_what_it_verifies(tmp_path: Path) -> None:
    """A key file is 0600; a token comes back as the claims it was made of, for its use only."""
    path = write_new_key(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    keys = keys_in(tmp_path)
    token = keys.sign(CLAIMS, "access", lives_s=60)
    assert keys.verify(token, "access") == CLAIMS
    with pytest.raises(NotAuthenticated):
        keys.verify(token, "refresh")


def test_keys_rotate(tmp_path: Path) -> None:
    """The newest key signs; the older one still verifies, until its file is gone."""
    old_path = write_new_key(tmp_path)
    old_token = keys_in(tmp_path).sign(CLAIMS, "access", lives_s=60)
    new_path = [write_new_key(tmp_path) for _ in range(5)][-1]
    keys = keys_in(tmp_path)
    assert jwt.get_unverified_header(keys.sign(CLAIMS, "access", lives_s=60))["kid"] == new_path.stem
    assert keys.verify(old_token, "access") == CLAIMS
    old_path.unlink()
    with pytest.raises(NotAuthenticated, match="key that is not in use"):
        keys_in(tmp_path).verify(old_token, "access")


def test_without_keys_there_is_no_start(tmp_path: Path) -> None:
    """No key, no PEM, an RSA key, another curve: each is refused with the file's name."""
    with pytest.raises(KeysMissing, match=r"<kid>\.pem"):
        keys_in(tmp_path)
    path = tmp_path / "k.pem"
    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(pem)
        with pytest.raises(KeysMissing, match=r"k\.pem is not an ES256 key"):
            keys_in(tmp_path)
    path.write_text("nonsense")
    with pytest.raises(KeysMissing, match="not a private key"):
        keys_in(tmp_path)
