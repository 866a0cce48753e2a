"""What goes into a request, and what comes out of an answer, checked."""

from __future__ import annotations

from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from mayfly.client.errors import InvalidCall, not_mayfly

T = TypeVar("T")


def as_json(body: dict[str, Any]) -> dict[str, Any]:
    """
    Make what a request with a JSON body is sent with.

    Raises: InvalidCall for a string that is not text.
    """
    try:
        content = msgspec.json.encode(body)
    except UnicodeEncodeError as error:
        raise InvalidCall(_not_text("What you gave", error)) from None
    return {"content": content, "headers": {"Content-Type": "application/json"}}


def as_utf8(text: str | bytes, what: str = "parameter") -> bytes:
    """
    Encode text; bytes go as they are, and the API says whether they are text.

    Raises: InvalidCall.
    """
    if isinstance(text, bytes):
        return text
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidCall(_not_text(f"The {what}", error)) from None


def segment(text: str) -> str:
    """
    Put a name into a path, where it must stay one segment.

    Raises: InvalidCall.
    """
    if text in {"", ".", ".."}:
        raise InvalidCall(f"{text!r} is not a name.")
    return quote(as_utf8(text, "name"), safe="")


def read(response: httpx.Response, shape: type[T]) -> T:
    """
    Read an answer as a value.

    Raises: NotMayfly when it is none.
    """
    try:
        return msgspec.json.decode(response.content, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise not_mayfly(response) from None


def _not_text(what: str, error: UnicodeEncodeError) -> str:
    return (
        f"{what} is not text: character {error.start} is a lone surrogate (U+{ord(error.object[error.start]):04X}), "
        "which UTF-8 cannot express. Encode binary data, for example as base64."
    )
