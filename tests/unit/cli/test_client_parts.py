"""Parts of the client that need no server: addresses, times, tokens."""

from __future__ import annotations

import time

import pytest

from mayfly.client import InvalidCall, Tokens
from mayfly.client.connection import normal_url
from mayfly.client.shapes import timing
from mayfly.client.tokens import TokenAnswer


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("https://127.0.0.1:8443", "https://127.0.0.1:8443"),
        ("https://127.0.0.1:8443/", "https://127.0.0.1:8443"),
        ("https://Mayfly.Example:443//", "https://mayfly.example"),
        ("https://[::1]:8443", "https://[::1]:8443"),
        ("https://example.org/faas/", "https://example.org/faas"),
    ],
)
def test_an_address_has_one_form(given: str, normal: str) -> None:
    """Two ways to write an address find the same login."""
    assert normal_url(given) == normal


@pytest.mark.parametrize(
    "url", ["", "mayfly", "http://a", "https://", "https://a?b", "https://a#b", "https://u@a", "ftp://a"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    """Only https, a host, and perhaps a port and a path."""
    with pytest.raises(InvalidCall):
        normal_url(url)


@pytest.mark.parametrize(
    ("header", "steps"),
    [
        ("", {}),
        ("admit;dur=1.00, run;dur=3", {"admit": 0.001, "run": 0.003}),
        ("cache;desc=HIT, run;dur=abc, gateway;dur=4", {}),
    ],
)
def test_only_our_steps_are_read(header: str, steps: dict[str, float]) -> None:
    """A proxy's own entries, and what is no number, are left out."""
    assert timing(header) == steps


@pytest.mark.parametrize(("expires_in", "early"), [(900, 30), (10, 2.5)])
def test_a_token_is_renewed_before_it_ends(expires_in: float, early: float) -> None:
    """Half a minute early, or a quarter of a short life, so that no call meets a token that just ended."""
    tokens = TokenAnswer(access_token="a", expires_in=expires_in, refresh_token="r").kept()

    assert tokens.fresh_until == pytest.approx(time.time() + expires_in - early, abs=1)
    assert not tokens.is_stale


def test_a_token_without_a_refresh_token_is_never_stale() -> None:
    """It is used until the API refuses it: there is nothing to renew it with."""
    assert not Tokens(access_token="a", fresh_until=0.0).is_stale
