"""Remembering that a token's signature is right: only that, only of that very token, and only until it is over."""

from __future__ import annotations

import time
from datetime import datetime, tzinfo
from pathlib import Path

import jwt.api_jwt
import pytest

from mayfly.domain.errors import NotAuthenticated
from mayfly.domain.ids import SessionId, UserId, new_id
from mayfly.services import tokens
from mayfly.services.tokens import CLOCK_SKEW_S, Claims, TokenKeys, write_new_key

pytestmark = [pytest.mark.F3]

LIVES_S = 900


@pytest.fixture
def keys(tmp_path: Path) -> TokenKeys:
    """The keys of one API server."""
    write_new_key(tmp_path)
    return TokenKeys.load(tmp_path, issuer="mayfly", audience="mayfly")


def claims() -> Claims:
    """Somebody's."""
    return Claims(UserId(new_id()), SessionId(new_id()))


def go_on(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let so much time pass, for us and for the library that reads tokens."""
    now = time.time() + seconds

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Later:
            return cls.fromtimestamp(now, tz)

    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(jwt.api_jwt, "datetime", Later)


def test_a_signature_is_checked_once(keys: TokenKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same token says the same, and the library is asked no second time."""
    whose = claims()
    token = keys.sign(whose, "access", lives_s=LIVES_S)
    assert keys.verify(token, "access") == whose

    monkeypatch.setattr(jwt, "decode", None)

    assert keys.verify(token, "access") == whose
    with pytest.raises(TypeError):
        keys.verify(keys.sign(claims(), "access", lives_s=LIVES_S), "access")


def test_a_remembered_token_ends_when_it_is_over(keys: TokenKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second before it is good; a second after it is refused, with the reason that any other would be told."""
    whose = claims()
    token = keys.sign(whose, "access", lives_s=LIVES_S)
    assert keys.verify(token, "access") == whose

    with monkeypatch.context() as patched:
        go_on(patched, LIVES_S + CLOCK_SKEW_S - 2)
        assert keys.verify(token, "access") == whose
    go_on(monkeypatch, LIVES_S + CLOCK_SKEW_S + 1)
    with pytest.raises(NotAuthenticated, match="has expired"):
        keys.verify(token, "access")


def test_a_remembered_token_is_good_for_its_use_only(keys: TokenKeys) -> None:
    """One that refreshes a login opens nothing else, however often it was shown where it belongs."""
    token = keys.sign(claims(), "refresh", lives_s=LIVES_S)
    keys.verify(token, "refresh")

    with pytest.raises(NotAuthenticated):
        keys.verify(token, "access")


def test_another_signature_under_a_remembered_token_is_refused(keys: TokenKeys) -> None:
    """What is remembered is the whole token: not its claims, and not its length."""
    token = keys.sign(claims(), "access", lives_s=LIVES_S)
    keys.verify(token, "access")
    head, said, signature = token.split(".")
    forged = ".".join((head, said, signature[::-1]))

    for _ in range(2):
        with pytest.raises(NotAuthenticated, match="was not issued here"):
            keys.verify(forged, "access")


def test_few_are_remembered_and_no_wrong_ones(keys: TokenKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever shows many tokens costs no memory; those that were used last stay."""
    monkeypatch.setattr(tokens, "REMEMBERED_AT_MOST", 2)
    first, second, third = (keys.sign(claims(), "access", lives_s=LIVES_S) for _ in range(3))
    for token in (first, second, first, third):
        keys.verify(token, "access")
    for number in range(3):
        with pytest.raises(NotAuthenticated):
            keys.verify(f"{first}{number}", "access")

    assert len(keys._remembered) == 2
    monkeypatch.setattr(jwt, "decode", None)
    keys.verify(first, "access")
    keys.verify(third, "access")
