"""Reading bodies: whatever comes is a value or an error of the caller's, never a surprise."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from starlette.requests import Request

from mayfly.api import bodies
from mayfly.api.bodies import read_form, read_json, read_parameter
from mayfly.api.envelope import KEY, Exchange
from mayfly.api.errors import BodyTimeout, UnsupportedMediaType
from mayfly.api.shapes import NewFunction, NewUser
from mayfly.domain.errors import InvalidRequest, ParameterNotText, ParameterTooLarge, UnsupportedEncoding
from mayfly.domain.function import ParameterMode
from mayfly.domain.ids import FUNCTION_NAME, USER_NAME

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
S = TypeVar("S", bound=BaseModel)
FIELDS = ("name", "image", "command", "args", "env", "parameter", "limits", "result_type")


def request(body: bytes, content_type: str = "application/json", *, chunk: int = 65_536, **headers: str) -> Request:
    """A request whose body comes in pieces."""
    pieces = [body[start : start + chunk] for start in range(0, len(body), chunk)] or [b""]

    async def receive() -> dict[str, Any]:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    given_headers = {"content-type": content_type, **{name.replace("_", "-"): value for name, value in headers.items()}}
    raw = [(name.encode(), value.encode()) for name, value in given_headers.items()]
    return Request({"type": "http", "method": "POST", "headers": raw, KEY: Exchange("r-1")}, receive)


async def outcome_of(body: bytes, shape: type[S]) -> S | InvalidRequest:
    """What reading comes to."""
    try:
        return await read_json(request(body), shape)
    except InvalidRequest as error:
        return error


@pytest.mark.parametrize(
    ("shape", "body", "words"),
    [
        (NewUser, {"username": "ann", "password": "short"}, "`password` must have at least 10 characters."),
        (NewUser, {"username": "ann", "password": "x" * 2000}, "`password` must have at most 256 characters."),
        (NewFunction, {"name": "f", "image": "x", "command": []}, "`command` must have at least 1 entries."),
    ],
)
async def test_what_is_too_short_or_long_is_counted_in_its_own_unit(
    shape: type[BaseModel], body: dict[str, object], words: str
) -> None:
    """A text has characters, a list has entries."""
    refused = await outcome_of(json.dumps(body).encode(), shape)

    assert isinstance(refused, InvalidRequest)
    assert refused.detail == words


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(body: bytes) -> None:
    """Bytes that are no registration are InvalidRequest, whatever they are."""
    with pytest.raises(InvalidRequest):
        asyncio.run(read_json(request(body), NewUser))


@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=6), JSON_VALUES, max_size=8))
def test_any_object_is_a_registration_or_refused_with_a_field(members: dict[str, Any]) -> None:
    """Each refusal names at least one field and its problem, and can be written as JSON."""
    outcome = asyncio.run(outcome_of(json.dumps(members).encode(), NewFunction))
    if isinstance(outcome, NewFunction):
        assert FUNCTION_NAME.fullmatch(outcome.name)
    else:
        assert json.dumps(outcome.members["errors"])
        assert outcome.detail


@given(st.text(max_size=70), st.text(max_size=40))
def test_names_are_taken_by_the_rule_and_by_nothing_else(function_name: str, user_name: str) -> None:
    """A name passes exactly when it can be a token of a subject."""
    for field, text, pattern, shape, rest in (
        ("name", function_name, FUNCTION_NAME, NewFunction, {"image": "b"}),
        ("username", user_name, USER_NAME, NewUser, {"password": "long enough 1"}),
    ):
        body = json.dumps({field: text, **rest}).encode()
        outcome = asyncio.run(outcome_of(body, shape))
        if pattern.fullmatch(text):
            assert isinstance(outcome, shape)
        else:
            assert isinstance(outcome, InvalidRequest)
            assert outcome.members["field"] == field


@given(st.text(max_size=200), st.integers(min_value=1, max_value=7))
def test_any_text_is_a_parameter_in_any_pieces(text: str, chunk: int) -> None:
    """Text passes byte for byte, also when characters are cut by the network."""
    body = text.encode("utf-8", "surrogatepass")
    try:
        body.decode()
    except UnicodeDecodeError:
        with pytest.raises(ParameterNotText):
            asyncio.run(read_parameter(request(body, chunk=chunk), ParameterMode.STDIN))
        return
    assert asyncio.run(read_parameter(request(body, chunk=chunk), ParameterMode.STDIN)) == body


@pytest.mark.F7
@pytest.mark.parametrize("mode", list(ParameterMode))
async def test_parameter_is_limited_at_the_byte(mode: ParameterMode) -> None:
    """The limit itself passes, one byte more does not, and neither does the announcement of it."""
    exact = b"p" * mode.max_bytes
    assert await read_parameter(request(exact), mode) == exact
    for over in (request(exact + b"p"), request(b"", content_length=str(mode.max_bytes + 1))):
        with pytest.raises(ParameterTooLarge, match=str(mode.max_bytes)):
            await read_parameter(over, mode)


@pytest.mark.F7
@pytest.mark.parametrize("body", [b"\xff", b"ok\xed\xa0\x80", b"\xf4\x90\x80\x80", b"cut\xe2\x82"])
async def test_parameter_that_is_not_utf8_says_where(body: bytes) -> None:
    """The place of the first wrong byte is named, in the words and as a member."""
    with pytest.raises(ParameterNotText) as caught:
        await read_parameter(request(body), ParameterMode.STDIN)
    position = caught.value.members["at_byte"]
    assert body[: int(str(position))].decode().isascii()
    assert f"at byte {position}" in caught.value.detail


@pytest.mark.parametrize("read", [lambda r: read_json(r, NewUser), read_form])
async def test_other_media_types_are_refused_unread(read: Callable[[Request], Awaitable[object]]) -> None:
    """A body of another type is 415 and names the right one."""
    with pytest.raises(UnsupportedMediaType, match="Content-Type: application/"):
        await read(request(b"{}", "text/plain"))


async def test_identity_is_no_encoding() -> None:
    """`Content-Encoding: identity` says nothing; any other one is refused."""
    assert await read_parameter(request(b"x", content_encoding="identity"), ParameterMode.STDIN) == b"x"
    with pytest.raises(UnsupportedEncoding):
        await read_parameter(request(b"x", content_encoding="br"), ParameterMode.STDIN)


async def test_body_that_never_comes_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender who stalls is refused after the time for bodies, not waited for."""
    monkeypatch.setattr(bodies, "BODY_TIMEOUT_S", 0.01)

    async def stall() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(BodyTimeout):
        await read_parameter(Request({"type": "http", "method": "POST", "headers": []}, stall), ParameterMode.STDIN)


async def test_long_field_names_are_cut() -> None:
    """An error names an unknown field, but not a megabyte of it."""
    body = json.dumps({"x" * 100_000: 1, "username": "abc", "password": "long enough 1"}).encode()
    with pytest.raises(InvalidRequest) as caught:
        await read_json(request(body), NewUser)
    assert len(caught.value.detail) < 200
