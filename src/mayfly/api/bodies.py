"""
Reading request bodies: bounded while they arrive, never before the caller is known, strict in what they are. They may
take their time, so the caller is asked for again when they are there.

FastAPI would read a body before it asks who sends it, so no route declares one: handlers call `read_json` and friends,
and `takes_json` tells the OpenAPI. Rows: F7.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.parse
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from mayfly.api.envelope import ask_again
from mayfly.api.errors import BodyTimeout, BodyTooLarge, UnsupportedMediaType
from mayfly.api.sentences import field_names, invalid
from mayfly.domain.errors import InvalidRequest, MayflyError, ParameterNotText, ParameterTooLarge, UnsupportedEncoding
from mayfly.domain.function import ParameterMode
from mayfly.domain.secret import VALUE_MAX_BYTES

JSON_MAX_BYTES = 512 * 1024  # the largest valid registration has 96 KiB, which escapes may multiply
FORM_MAX_BYTES = 16 * 1024
BODY_TIMEOUT_S = 60.0
PARAMETER_AT_ONCE_S = 1.0  # until then a call is as one that came before: it costs no second read of its session

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"

S = TypeVar("S", bound=BaseModel)


def takes_json(shape: type[BaseModel]) -> dict[str, Any]:
    """Describe a JSON body for the OpenAPI (`openapi_extra`)."""
    schema = {"$ref": f"#/components/schemas/{shape.__name__}"}
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}


async def read_json(request: Request, shape: type[S]) -> S:
    """
    Read a body of this shape.

    Raises: UnsupportedMediaType; UnsupportedEncoding; BodyTooLarge; BodyTimeout; InvalidRequest; what `ask_again` does.
    """
    _require_media_type(request, JSON)
    too_large = BodyTooLarge(f"The body may have at most {JSON_MAX_BYTES} bytes.")
    body = await _read_and_ask(request, JSON_MAX_BYTES, too_large)
    try:
        value = shape.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise invalid(found, field_names(shape)) from None
    _refuse_duplicates(body)
    return value


async def read_form(request: Request) -> dict[str, str]:
    """
    Read a form whose fields occur once each.

    Raises: as `read_json`.
    """
    _require_media_type(request, FORM)
    body = await _read(request, FORM_MAX_BYTES, BodyTooLarge(f"The form may have at most {FORM_MAX_BYTES} bytes."))
    try:
        pairs = urllib.parse.parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=32)
    except ValueError:
        raise InvalidRequest("The body is not a form in UTF-8 with at most 32 fields.") from None
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise InvalidRequest("A field of the form occurs more than once; send each once.")
    return fields


async def read_parameter(request: Request, mode: ParameterMode) -> bytes:
    """
    Read a parameter, whatever content type it has, and check that the container can be given it this way.

    Raises: UnsupportedEncoding; ParameterTooLarge; ParameterNotText; BodyTimeout; what `ask_again` does.
    """
    too_large = ParameterTooLarge(
        f"The parameter may have at most {mode.max_bytes} bytes for a function that takes it by {mode}. "
        "Nothing was queued.",
        limit=mode.max_bytes,
    )
    began = time.monotonic()
    parameter = await _read(request, mode.max_bytes, too_large)
    if time.monotonic() - began > PARAMETER_AT_ONCE_S:
        await ask_again(request.scope)
    try:
        parameter.decode()
    except UnicodeDecodeError as error:
        raise ParameterNotText(
            f"The parameter must be text in UTF-8, and at byte {error.start} it is not ({error.reason}). "
            "Encode binary data, for example as base64.",
            at_byte=error.start,
        ) from None
    if mode is not ParameterMode.STDIN and b"\0" in parameter:
        at = parameter.index(b"\0")
        raise ParameterNotText(
            f"The parameter has a NUL character at byte {at}, which cannot be passed by {mode}. "
            "Register the function with `parameter: stdin`, or encode the parameter.",
            at_byte=at,
        )
    return parameter


async def read_secret(request: Request) -> bytes:
    """
    Read a secret's value, whatever content type it has. No error says any of it.

    Raises: UnsupportedEncoding; BodyTooLarge; InvalidRequest (field value); BodyTimeout; what `ask_again` does.
    """
    too_large = BodyTooLarge(f"A secret may have at most {VALUE_MAX_BYTES} bytes.")
    value = await _read_and_ask(request, VALUE_MAX_BYTES, too_large)
    try:
        value.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"A secret must be text in UTF-8, and at byte {error.start} it is not. Encode binary data, for example as "
            "base64.",
            field="value",
        ) from None
    return value


async def _read_and_ask(request: Request, limit: int, too_large: MayflyError) -> bytes:
    """Read a body, and require the caller again: it may be there a minute after his login or account has ended."""
    body = await _read(request, limit, too_large)
    await ask_again(request.scope)
    return body


async def _read(request: Request, limit: int, too_large: MayflyError) -> bytes:
    """Read at most *limit* bytes: what is announced as more is refused unread, what grows beyond, while it arrives."""
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedEncoding
    if int(request.headers.get("content-length", "0")) > limit:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise too_large
                chunks.append(chunk)
    except TimeoutError:
        raise BodyTimeout(f"The body did not arrive within {BODY_TIMEOUT_S:.0f} s.") from None
    return b"".join(chunks)


def _require_media_type(request: Request, wanted: str) -> None:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != wanted:
        came = f"the body came as `{given[:64]}`" if given else "the body came without one"
        raise UnsupportedMediaType(f"This call takes `Content-Type: {wanted}`; {came}.")


def _refuse_duplicates(body: bytes) -> None:
    """A name that occurs twice in an object is a mistake of which JSON parsers see only one half."""

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        members = dict(pairs)
        if len(members) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)[:64]
            raise InvalidRequest(f"`{twice}` occurs twice in one object; give it once.", field=twice)
        return members

    try:
        json.loads(body, object_pairs_hook=once)
    except (ValueError, RecursionError):  # what the other parser took, in a member that a duplicate hid from it
        raise InvalidRequest("The body is JSON with numbers or nesting beyond reason.") from None
