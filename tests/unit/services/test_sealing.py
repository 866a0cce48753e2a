"""What is sealed can be opened by a private key, in the place it was sealed for, and in no other way."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mayfly.domain.errors import NotAllowed, SecretUnavailable
from mayfly.domain.ids import UserId, new_id
from mayfly.domain.registry import OpenedCredentials, registry_place
from mayfly.domain.secret import Delivery, OpenedSecret, SecretRef, secret_place
from mayfly.ops.certificates import new_token_key, public_pem
from mayfly.services.sealing import Keyring, Opener, Sealer, SealingKeyUnusable
from tests.support.sealing import SealingKeys

pytestmark = pytest.mark.F4

VALUE = b"of-nobody-else"
USER, OTHER = UserId(new_id()), UserId(new_id())
REF = SecretRef(key="TOKEN", version="v1", delivery=Delivery.FILE, size_bytes=1, updated_at=0)
PLACE = secret_place(USER, "function-1", REF)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> SealingKeys:
    """One key."""
    return SealingKeys(tmp_path_factory.mktemp("keys"))


@given(value=st.binary(max_size=70_000))
def test_what_is_sealed_is_opened(keys: SealingKeys, value: bytes) -> None:
    """Byte for byte, and the same value never seals to the same bytes."""
    sealed = keys.sealer.seal(value, PLACE)

    assert keys.opener.open(sealed, PLACE, what="it") == value
    assert sealed.box != keys.sealer.seal(value, PLACE).box
    assert len(value) < 8 or value not in sealed.box


@pytest.mark.parametrize(
    "place",
    [
        secret_place(OTHER, "function-1", REF),
        secret_place(USER, "function-2", REF),
        secret_place(USER, "function-1", replace(REF, key="TOKEN2")),
        secret_place(USER, "function-1", replace(REF, version="v2")),
        secret_place(USER, "function-1", replace(REF, delivery=Delivery.ENVIRONMENT)),
        registry_place(USER, "function-1", "TOKEN"),
    ],
)
def test_moved_it_cannot_be_opened(keys: SealingKeys, place: tuple[str, ...]) -> None:
    """Not as another user's, another function's, another secret, an older version, in another way, or as a password."""
    sealed = keys.sealer.seal(VALUE, PLACE)

    with pytest.raises(SecretUnavailable, match="was not sealed for it") as refused:
        keys.opener.open(sealed, place, what="Secret 'TOKEN'")
    assert refused.value.ran == "no"
    assert VALUE.decode() not in refused.value.detail


@given(at=st.integers(min_value=0), bit=st.integers(min_value=0, max_value=7))
def test_changed_it_cannot_be_opened(keys: SealingKeys, at: int, bit: int) -> None:
    """Whichever bit of it is another one, or the end missing."""
    sealed = keys.sealer.seal(VALUE, PLACE)
    at %= len(sealed.box)
    changed = bytearray(sealed.box)
    changed[at] ^= 1 << bit

    for box in (bytes(changed), sealed.box[:at]):
        with pytest.raises(SecretUnavailable):
            keys.opener.open(replace(sealed, box=box), PLACE, what="it")


def test_an_api_servers_keys_open_nothing(keys: SealingKeys) -> None:
    """Its directory has no private key, so what loads it for opening has none."""
    sealed = keys.sealer.seal(VALUE, PLACE)

    with pytest.raises(SecretUnavailable, match="the key that it was sealed with is not there any more"):
        Opener.load(keys.public).open(sealed, PLACE, what="it")
    assert b"PRIVATE" not in b"".join(path.read_bytes() for path in keys.public.iterdir())


def test_the_last_key_seals_and_all_open(tmp_path: Path) -> None:
    """While a key is rotated both are good; when the old one is gone, what it sealed cannot be opened any more."""
    keys = SealingKeys(tmp_path)
    [old] = keys.kids
    first = keys.sealer.seal(VALUE, PLACE)
    new = keys.add(f"{old}-z")
    second = keys.sealer.seal(VALUE, PLACE)

    assert (first.kid, second.kid) == (old, new)
    assert keys.opener.open(first, PLACE, what="it") == keys.opener.open(second, PLACE, what="it") == VALUE
    assert (Keyring.load(keys.private).newest, Keyring.load(keys.private).older) == (new, (old,))
    keys.forget(old)
    with pytest.raises(SecretUnavailable):
        keys.opener.open(first, PLACE, what="it")


def test_without_a_key_nothing_is_sealed(tmp_path: Path) -> None:
    """An installation whose operator made none refuses, and says who can do something about it."""
    with pytest.raises(NotAllowed, match="`mayfly secrets create`"):
        Sealer.load(tmp_path / "none").seal(VALUE, PLACE)
    with pytest.raises(SealingKeyUnusable, match="has no <kid>"):
        Keyring.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no key", new_token_key()])
def test_a_file_that_is_no_key_stops_the_start(tmp_path: Path, content: bytes) -> None:
    """It is named; a worker that went on without it would refuse calls one by one."""
    (tmp_path / "a.pem").write_bytes(content)
    with pytest.raises(SealingKeyUnusable, match=r"a\.pem is"):
        Opener.load(tmp_path)
    (tmp_path / "a.pub.pem").write_bytes(public_pem(content) if b"PRIVATE" in content else content)
    with pytest.raises(SealingKeyUnusable, match=r"a\.pub\.pem is"):
        Sealer.load(tmp_path)


def test_what_is_open_is_not_printed() -> None:
    """Neither a secret nor a password shows where its holder is printed, as in a traceback."""
    opened = (
        OpenedSecret(key="A", delivery=Delivery.FILE, value=VALUE),
        OpenedCredentials(username="ann", password=VALUE.decode()),
    )
    assert VALUE.decode() not in f"{opened!r} {opened!s}"
