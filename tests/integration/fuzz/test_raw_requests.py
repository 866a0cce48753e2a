"""
Requests that no HTTP client would write: bytes in paths, queries, headers and bodies as they come, to each operation
with a genuine token. What a client library would refuse, escape or put right is just what a hostile caller sends.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import ssl
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.integration.fuzz.test_schemathesis import ENDS_THE_LOGIN
from tests.support.whole import Whole

pytestmark = pytest.mark.asyncio(loop_scope="session")

REQUESTS = 400
NOT_OF_AN_OPERATION = {400, 404, 405, 431}
"""What the parser and the router answer, when the path or the method was not what it was meant to be."""

SEGMENTS = st.one_of(
    st.sampled_from(
        [
            b"f",
            b"%00",
            b"%",
            b"%zz",
            b"%c0%af",
            b"..%2f..",
            b"%2e%2e",
            b"*",
            b">",
            b"a.b",
            b"%ed%a0%80",
            b"%0d%0ax:%20y",
        ]
    ),
    st.binary(min_size=1, max_size=20).map(lambda raw: b"".join(b"%%%02x" % byte for byte in raw)),
    st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=70).map(str.encode),
)
VALUES = st.one_of(
    st.sampled_from(
        [b"", b"1", b"-1", b"1e999", b"9" * 400, b"NaN", b"null", b"true", b"%00", b"%ff", b"0001-01-01T00:00:00Z"]
    ),
    st.sampled_from(
        [b"9999-12-31T23:59:59-23:59", b"0001-01-01T00:00:00%2B23:59", b"2026-11-29T12:00:60Z", b"succeeded"]
    ),
    st.binary(max_size=20).map(lambda raw: b"".join(b"%%%02x" % byte for byte in raw)),
)
HEADER_NAMES = st.sampled_from(
    b"Idempotency-Key Prefer Traceparent If-Match Mayfly-Timeout X-Request-Id Content-Encoding Content-Type Accept "
    b"Cookie X-Forwarded-For X-Mayfly-Gateway X-Mayfly-User Range Expect Authorization".split()
)
HEADER_VALUES = st.one_of(
    st.sampled_from([b"", b"0.5", b"1e3", b"*", b'"1"', b'W/"1"', b"identity", b"gzip", b"respond-async", b"9" * 500]),
    st.binary(max_size=40).map(lambda raw: raw.replace(b"\r", b"r").replace(b"\n", b"n").replace(b"\0", b"0")),
)
BODIES = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(
        [b"[" * 5000, b'{"a":' * 3000, b'{"name": "\\ud800"}', b"\xef\xbb\xbf{}", b'{"a": 1, "a": 2}', b"NaN"]
    ),
    st.sampled_from(
        [
            b'{"name": "x", "image": "busybox", "limits": {"timeout_s": 1e999}}',
            b'{"name": "x", "image": "busybox", "limits": {"memory_mib": %s}}' % (b"9" * 4000),
            b'{"name": "x", "image": "busybox", "limits": {"cpus": 0.000000000000000000001e20}}',
            b'{"name": "x", "image": "busybox", "env": {"A": "\\u0000"}}',
            b'{"username": "somebody", "password": "\\udfff aaaaaaaaaa"}',
            b"grant_type=password&username=%00&password=%ff%fe",
            b"grant_type=refresh_token&refresh_token=a.b.c",
            b"&" * 5000,
        ]
    ),
)
TYPES = st.sampled_from([b"application/json", b"application/x-www-form-urlencoded", b"text/plain", b"\xff/\xfe"])


@dataclass
class Tried:
    """What was sent, and what came back."""

    statuses: Counter[int] = field(default_factory=Counter)


async def test_whatever_bytes_come_the_answer_is_a_documented_one(installation: Whole, openapi: dict[str, Any]) -> None:
    """Each of 400 requests is answered: with a status that is documented for it, errors as problems, and never 500."""
    tried = Tried()

    await asyncio.to_thread(call_with_anything, installation, openapi, tried)

    print(f"{tried.statuses.total()} requests: {dict(tried.statuses)}")
    assert tried.statuses.total() >= REQUESTS
    assert (await installation.client.get("/v1/users/me")).status_code == 200
    assert [event for event in installation.api.log if event["event"] in ("request.failed", "api.lost")] == []


def call_with_anything(whole: Whole, openapi: dict[str, Any], tried: Tried) -> None:
    """Send them, each on a connection of its own."""
    operations = [
        (method, path, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
        if operation["operationId"] not in ENDS_THE_LOGIN
    ]
    token = whole.client.headers["Authorization"].encode()

    @seed(7)
    @settings(max_examples=REQUESTS, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def call(data: st.DataObject) -> None:
        method, path, operation = data.draw(st.sampled_from(operations))
        target = b"/".join(data.draw(SEGMENTS) if part.startswith("{") else part.encode() for part in path.split("/"))
        if query := data.draw(queries(operation)):
            target += b"?" + query
        headers = data.draw(st.lists(st.tuples(HEADER_NAMES, HEADER_VALUES), max_size=4))
        body = data.draw(BODIES) if "requestBody" in operation else b""
        if "requestBody" in operation:
            headers.append((b"Content-Type", data.draw(TYPES)))
        lines = [b"%b %b HTTP/1.1" % (method.upper().encode(), target), b"Host: x", b"Connection: close"]
        lines += [b"Authorization: " + token, b"Content-Length: %d" % len(body)]
        lines += [b"%b: %b" % header for header in headers]
        answer, content = exchange(whole, b"\r\n".join(lines) + b"\r\n\r\n" + body, method.upper())
        tried.statuses[answer.status] += 1
        documented = {int(status) for status in operation["responses"]} | NOT_OF_AN_OPERATION
        assert answer.status in documented - {500}, (answer.status, lines)
        assert answer.headers["X-Request-Id"]
        if answer.status >= 400:
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert json.loads(content)["status"] == answer.status

    call()


def queries(operation: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Queries of an operation: what it knows, twice or with no sense, and sometimes what it does not."""
    known = [each["name"].encode() for each in operation.get("parameters", ()) if each["in"] == "query"]
    pairs = st.lists(st.tuples(st.sampled_from([*known, *known, b"other", b"%00"]), VALUES), max_size=4)
    return pairs.map(lambda found: b"&".join(b"=".join(pair) for pair in found))


def exchange(whole: Whole, request: bytes, method: str) -> tuple[http.client.HTTPResponse, bytes]:
    """Send one request as it is, and read its answer."""
    with connected(whole) as connection:
        connection.sendall(request)
        answer = http.client.HTTPResponse(connection, method=method)
        answer.begin()
        return answer, answer.read()


@contextmanager
def connected(whole: Whole) -> Iterator[ssl.SSLSocket]:
    """Connect to the API server."""
    with (
        socket.create_connection(("127.0.0.1", whole.api.port), timeout=60) as plain,
        whole.api.tls.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        yield connection
