"""
A small language for strict forms: JSON Schema in which no key is allowed that is not named.

The `description` of a value is the reason for what is demanded of it; problems quote it, and the reference page is made
from it. `x-kind` says what the keys of a mapping are called, `x-refused` which keys deserve a reason of their own.
Rows: D3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Shape = dict[str, Any]

NOTHING: Mapping[str, Any] = {}


def mapping(
    required: Mapping[str, Shape],
    optional: Mapping[str, Shape] = NOTHING,
    *,
    kind: str = "key",
    refused: Mapping[str, str] = NOTHING,
) -> Shape:
    """Demand a mapping with these keys and no others; *refused* has the reason why a key is not there."""
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
        "additionalProperties": False,
        "x-kind": kind,
        "x-refused": dict(refused),
    }


def fixed(value: object, reason: str) -> Shape:
    """Demand one value, for a reason."""
    return {"const": value, "description": reason}


def needed(shape: Shape, reason: str) -> Shape:
    """Give the reason why a value has to be there."""
    return {**shape, "description": reason}


def listed(items: Shape) -> Shape:
    """Demand a list without repetitions."""
    return {**objects(items), "uniqueItems": True}


def objects(items: Shape) -> Shape:
    """Demand a list of objects with ids, for whose repetitions there is a rule."""
    return {"type": "array", "items": items, "minItems": 1}


def integer(low: int = 0, high: int = 1_000_000_000) -> Shape:
    """Demand a whole number."""
    return {"type": "integer", "minimum": low, "maximum": high}


def number(low: float = 0, high: float = 1_000_000_000) -> Shape:
    """Demand a number."""
    return {"type": "number", "minimum": low, "maximum": high}


def text(pattern: str = "", *, longest: int = 1024, form: str = "") -> Shape:
    """Demand a text; *form* says in words what *pattern* does in signs."""
    if pattern:
        return {"type": "string", "pattern": rf"\A(?:{pattern})\Z", "x-form": form}
    return {"type": "string", "minLength": 1, "maxLength": longest}


def one_of(*values: object) -> Shape:
    """Demand one of some values."""
    return {"enum": list(values)}


YES_OR_NO: Shape = {"type": "boolean"}
CHUNKS: Shape = listed(text(longest=64 * 1024))
PORT = integer(1, 65_535)
SECONDS = text(r"[0-9]{1,4}s", form="a number of seconds such as 60s")
SIZE = text(r"[0-9]{1,5}[km]", form="a size such as 20m")
ADDRESS = text(r"[0-9A-Za-z.:\[\]-]{1,253}", form="an address or a host name")
IDENTITY = text(r"[A-Za-z0-9_.-]{1,64}", form="1 to 64 letters, digits and _ . -")


def demands(shape: Shape, where: str = "") -> Iterator[tuple[str, Shape]]:
    """Go through a form and yield, with its path, each value that is demanded for a stated reason."""
    if "description" in shape:
        yield where, shape
    for key, inner in shape.get("properties", {}).items():
        yield from demands(inner, f"{where}.{key}" if where else key)
    if "items" in shape:
        yield from demands(shape["items"], f"{where}[]")


def refusals(shape: Shape, where: str = "") -> Iterator[tuple[str, str]]:
    """Go through a form and yield the path of each key that is refused by name, and the reason."""
    for key, reason in shape.get("x-refused", {}).items():
        yield f"{where}.{key}" if where else key, reason
    for key, inner in shape.get("properties", {}).items():
        yield from refusals(inner, f"{where}.{key}" if where else key)
    if "items" in shape:
        yield from refusals(shape["items"], f"{where}[]")
