"""What the real API never answers: proxies, other servers, connections that break. Through the client's own library."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mayfly.client import ApiError, Client, FixedToken, InvalidCall, MemoryTokens, NotMayfly, Tokens, Unreachable
from tests.integration.cli.command import Mayfly
from tests.integration.cli.strange import StrangeServer, http, strange_server
from tests.support.api import ApiServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

PROBLEM = "application/problem+json"
REFUSED = {"code": "not-authenticated", "detail": "This token has expired.", "fault": "caller", "ran": "no"}
NEXT = {"access_token": "next", "expires_in": 900, "refresh_token": "next-refresh", "token_type": "Bearer"}
RUNNING = {
    "id": "a-1", "function": "f", "state": "running", "ran": "unknown", "image": "i", "digest": None,
    "parameter_bytes": 1, "parameter_sha256": "", "created_at": "2026-01-01T00:00:00Z",
    "deadline_at": "2026-01-01T00:00:30Z",
}  # fmt: skip
RESULT = http("200 OK", "text/plain", "HELLO", "Mayfly-Activation-Id: a-1", "Server-Timing: cdn;dur=9, run;dur=1.5")


def problem(status: str, **members: Any) -> bytes:
    """Write an answer as Mayfly does."""
    return http(status, PROBLEM, json.dumps(members))


def client_of(api: ApiServer, server: StrangeServer, tokens: MemoryTokens | None = None) -> Client:
    """A client with tokens that can be renewed."""
    keeper = tokens or MemoryTokens(Tokens(access_token="first", refresh_token="first-refresh"))
    return Client(server.url, ca_file=api.certificates.ca_file, tokens=keeper)


async def test_a_proxys_page_is_told_from_an_answer(api: ApiServer) -> None:
    """HTML from a proxy becomes one sentence with the status and its beginning, and `ran` is unknown."""
    page = http("502 Bad Gateway", "text/html", "<html>\n<h1>Bad Gateway</h1>")
    async with strange_server(api.certificates, page) as server, client_of(api, server) as client:
        with pytest.raises(NotMayfly) as caught:
            await client.invoke("upper", "x")

    assert "502 Bad Gateway (text/html)" in caught.value.detail
    assert "<h1>Bad Gateway</h1>" in caught.value.detail
    assert caught.value.ran == "unknown"


@pytest.mark.parametrize(
    "answer",
    [
        http("200 OK", "text/html", "<html>Please log in to the hotel's network"),
        http("302 Found", "text/html", "", "Location: https://elsewhere.example/"),
        problem("400 Bad Request", detail="no code"),
        http("400 Bad Request", PROBLEM, "{"),
        http("400 Bad Request", PROBLEM, "[]"),
    ],
    ids=["portal", "redirect", "no-code", "no-json", "no-object"],
)
async def test_what_only_looks_like_an_answer_is_no_result(api: ApiServer, answer: bytes) -> None:
    """Only an answer that names its activation is a function's result; a redirect is not followed with the token."""
    async with strange_server(api.certificates, answer) as server, client_of(api, server) as client:
        with pytest.raises(NotMayfly):
            await client.invoke("upper", "x")

    assert len(server.requests) == 1


async def test_json_of_another_shape_is_not_mayflys(api: ApiServer) -> None:
    """An answer that lacks what it must have is told as such, not as a KeyError."""
    answer = http("200 OK", "application/json", '{"hello": "world"}')
    async with strange_server(api.certificates, answer) as server, client_of(api, server) as client:
        with pytest.raises(NotMayfly):
            await client.me()


async def test_json_that_is_no_text_is_not_mayflys(api: ApiServer) -> None:
    """Bytes that are not UTF-8 where JSON should be are told as such."""
    answer = http("200 OK", "application/json", '{"id": "?"}').replace(b"?", b"\xff")
    async with strange_server(api.certificates, answer) as server, client_of(api, server) as client:
        with pytest.raises(NotMayfly):
            await client.me()


@pytest.mark.parametrize("value", ["5", [5], None])
async def test_a_time_to_come_back_that_is_no_number_is_none(api: ApiServer, value: object) -> None:
    """A gateway that writes its problems by hand does not make the client stumble over them."""
    answer = problem("429 Too Many Requests", **REFUSED, retry_after_s=value)
    async with strange_server(api.certificates, answer) as server, client_of(api, server) as client:
        with pytest.raises(ApiError) as caught:
            await client.me()

    assert caught.value.retry_after_s is None


async def test_fields_of_a_newer_server_are_ignored(api: ApiServer) -> None:
    """A server may say more than this client knows."""
    user = {"id": "a", "username": "ann", "role": "user", "created_at": "2026-01-01T00:00:00Z", "hat": "red"}
    answer = http("200 OK", "application/json", json.dumps(user))
    async with strange_server(api.certificates, answer) as server, client_of(api, server) as client:
        assert (await client.me()).username == "ann"


@pytest.mark.F12
async def test_a_call_whose_connection_breaks_is_not_repeated(api: ApiServer) -> None:
    """Once it was sent a call may have run: it is sent once, and `ran` is unknown."""
    async with strange_server(api.certificates, b"", RESULT) as server, client_of(api, server) as client:
        with pytest.raises(Unreachable) as caught:
            await client.invoke("upper", "x")

    assert caught.value.ran == "unknown"
    assert len(server.requests) == 1


@pytest.mark.F12
async def test_a_call_with_a_key_is_repeated_when_its_connection_breaks(api: ApiServer) -> None:
    """It is sent again as it was, with the same key, until there is an answer: the platform runs it once."""
    broken = (b"", RESULT[:-2], problem("502 Bad Gateway", code="bad-gateway", detail="It broke.", ran="unknown"))
    async with strange_server(api.certificates, *broken, RESULT) as server, client_of(api, server) as client:
        answer = await client.invoke("upper", "x", idempotency_key="order 66")

    assert answer.text == "HELLO"
    assert len(server.requests) == 4
    assert len(set(server.requests)) == 1
    assert b"Idempotency-Key: order 66\r\n" in server.requests[0]


@pytest.mark.parametrize("key", ["", "x" * 256, "two\r\nHost: evil", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"])
async def test_a_key_that_cannot_be_a_header_is_not_sent(api: ApiServer, key: str) -> None:
    """It is refused with its rule, whatever it would have made of the request."""
    async with strange_server(api.certificates, RESULT) as server, client_of(api, server) as client:
        with pytest.raises(InvalidCall, match="1 to 255 printable ASCII"):
            await client.invoke("upper", "x", idempotency_key=key)

    assert server.requests == []


@pytest.mark.F12
async def test_a_submission_that_is_answered_with_a_result_is_none(api: ApiServer) -> None:
    """Only 202 is an activation in the queue; whoever answered something else may have run it."""
    async with strange_server(api.certificates, RESULT) as server, client_of(api, server) as client:
        with pytest.raises(NotMayfly) as caught:
            await client.submit("upper", "x")

    assert caught.value.ran == "unknown"
    assert b"prefer: respond-async\r\n" in server.requests[0].lower()


async def test_a_call_that_does_not_end_when_cancelled_is_told(anybody: Mayfly, api: ApiServer) -> None:
    """While its worker has not ended it, `cancel` says so with status 6 and the state that it is in."""
    answer = http("202 Accepted", "application/json", json.dumps(RUNNING))
    async with strange_server(api.certificates, answer) as server:
        ended = await anybody.with_(MAYFLY_TOKEN="t", MAYFLY_URL=server.url)("activations", "cancel", "a-1")

    assert (ended.status, ended.stdout) == (6, b"running\n")
    assert "has not ended yet" in ended.stderr
    assert server.requests[0].startswith(b"DELETE /v1/activations/a-1 ")


@pytest.mark.F8
async def test_a_result_that_breaks_off_is_no_result(api: ApiServer) -> None:
    """Half a body is an error, never a shorter result."""
    async with strange_server(api.certificates, RESULT[:-2]) as server, client_of(api, server) as client:
        with pytest.raises(Unreachable) as caught:
            await client.invoke("upper", "x")

    assert caught.value.ran == "unknown"


@pytest.mark.F3
async def test_a_call_refused_for_its_token_is_sent_once_more(api: ApiServer) -> None:
    """401, a renewal, and the same call with the new token; foreign entries of Server-Timing are left out."""
    answers = (problem("401 Unauthorized", **REFUSED), http("200 OK", "application/json", json.dumps(NEXT)), RESULT)
    async with strange_server(api.certificates, *answers) as server, client_of(api, server) as client:
        answer = await client.invoke("upper", "x")

    assert (answer.text, answer.timing) == ("HELLO", {"run": 0.0015})
    assert [request.split(b" ")[1].rpartition(b"/")[2] for request in server.requests] == [
        b"activations", b"tokens", b"activations",
    ]  # fmt: skip
    assert b"grant_type=refresh_token&refresh_token=first-refresh" in server.requests[1]
    assert b"Bearer next\r\n" in server.requests[2]


@pytest.mark.F3
async def test_a_token_is_renewed_once_a_call(api: ApiServer) -> None:
    """If the new token is refused too, that is the answer: no loop."""
    refused = problem("401 Unauthorized", **REFUSED)
    answers = (refused, http("200 OK", "application/json", json.dumps(NEXT)), refused)
    async with strange_server(api.certificates, *answers) as server, client_of(api, server) as client:
        with pytest.raises(ApiError):
            await client.invoke("upper", "x")

    assert len(server.requests) == 3


@pytest.mark.F3
@pytest.mark.parametrize(
    "answer",
    [problem("401 Unauthorized", **(REFUSED | {"ran": "unknown"})), http("401 Unauthorized", "text/html", "Go away")],
    ids=["may-have-run", "proxy"],
)
async def test_a_call_that_may_have_run_is_not_repeated(api: ApiServer, answer: bytes) -> None:
    """A 401 that does not say `ran: no` is not from where tokens are checked, and is not answered with a repetition."""
    async with strange_server(api.certificates, answer) as server, client_of(api, server) as client:
        with pytest.raises((ApiError, NotMayfly)):
            await client.invoke("upper", "x")

    assert len(server.requests) == 1


async def test_a_token_without_a_refresh_token_is_not_renewed(api: ApiServer) -> None:
    """A fixed token that is refused is refused."""
    answer = problem("401 Unauthorized", **REFUSED)
    async with (
        strange_server(api.certificates, answer) as server,
        client_of(api, server, FixedToken("fixed")) as client,
    ):
        with pytest.raises(ApiError):
            await client.me()

    assert len(server.requests) == 1


async def test_words_of_a_registry_do_not_steer_the_terminal(anybody: Mayfly, api: ApiServer) -> None:
    """Control characters in an error are replaced where a person reads it."""
    answer = problem("422 Unprocessable Entity", **(REFUSED | {"code": "image-unavailable", "detail": "x\x1b[2Jy"}))
    async with strange_server(api.certificates, answer) as server:
        ended = await anybody.with_(MAYFLY_TOKEN="t", MAYFLY_URL=server.url)("functions", "create", "a", "b")

    assert (ended.status, ended.stderr) == (5, "mayfly: x\N{REPLACEMENT CHARACTER}[2Jy\n")
