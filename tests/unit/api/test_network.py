"""Where a caller is, and whom the API server believes about it."""

from __future__ import annotations

import pytest
from starlette.requests import Request
from structlog.testing import capture_logs

from mayfly.api.address import caller_network
from mayfly.api.envelope import KEY, Exchange

pytestmark = [pytest.mark.F3, pytest.mark.A1]

PEER = ("198.51.100.9", 4711)


def asked(*forwarded: bytes, passed: bool) -> str | None:
    """Ask where a request comes from that has these headers; *passed* is the door's word."""
    headers = [(b"x-forwarded-for", value) for value in forwarded]
    exchange = Exchange("r", through_gateway=passed)
    return caller_network(Request({"type": "http", "client": PEER, "headers": headers, KEY: exchange}))


def test_the_header_is_not_believed_of_who_did_not_come_through_the_gateway() -> None:
    """Without a gateway, or round it, the connection's own address counts, whatever is claimed."""
    assert asked(b"203.0.113.1", passed=False) == "198.51.100.9"
    assert asked(passed=False) == "198.51.100.9"


@pytest.mark.parametrize(
    ("forwarded", "network"),
    [
        ([b"203.0.113.1"], "203.0.113.1"),
        ([b" 203.0.113.1 "], "203.0.113.1"),
        ([b"2001:db8::7"], "2001:db8::/64"),
        ([b"10.0.0.1, 203.0.113.1"], "203.0.113.1"),
        ([b"10.0.0.1", b"203.0.113.1"], "203.0.113.1"),
    ],
)
def test_the_gateways_word_is_the_last_one(forwarded: list[bytes], network: str) -> None:
    """What a caller claims stands before what the gateway adds, and does not count."""
    assert asked(*forwarded, passed=True) == network


@pytest.mark.parametrize("forwarded", [[], [b""], [b"unknown"], [b"203.0.113.1,"], [b"203.0.113.1:80"], [b"\xff\xfe"]])
def test_a_gateway_that_does_not_say_merges_nobody(forwarded: list[bytes]) -> None:
    """Then nobody's address is known, not all callers at the gateway's; the operator is told."""
    with capture_logs() as logs:
        assert asked(*forwarded, passed=True) is None
    assert [line["event"] for line in logs] == ["address.unknown"]
