"""Sentences for what a form finds: the key, the rule, the nearest right name, and never the value. Rows: D3."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Any, cast

from jsonschema import Draft202012Validator, ValidationError

from mayfly.ops.gateway.checks.problem import Problem
from mayfly.ops.gateway.checks.shape import Shape

TYPES = {
    "object": "a mapping",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
}


def form_problems(content: dict[str, Any], shape: Shape, name: str) -> Iterator[Problem]:
    """Compare the content of a file with its form."""
    for error in sorted(Draft202012Validator(shape).iter_errors(content), key=lambda error: list(map(str, error.path))):
        where = path_of(content, list(error.absolute_path))
        if error.validator == "additionalProperties":
            yield from _unknown_keys(error, where, name)
        elif error.validator == "required":
            yield from _missing_key(error, where, name)
        else:
            yield Problem(name, where, _sentence(error))


def path_of(content: Any, steps: list[str | int]) -> str:
    """Word a path; an element of a list is called by its id, where it has one."""
    where, value = "", content
    for step in steps:
        value = value[step]
        if isinstance(step, int):
            name = value.get("id") if isinstance(value, dict) else None
            where += f"[{name if isinstance(name, str) else step}]"
        else:
            where += f".{step}" if where else step
    return where


def demanded(shape: Shape) -> str:
    """Say of a value that is demanded for a reason what it must be."""
    if "const" in shape:
        return _plain(shape["const"])
    return f"one of {', '.join(map(_plain, shape['enum']))}" if "enum" in shape else "there"


def _unknown_keys(error: ValidationError, where: str, name: str) -> Iterator[Problem]:
    shape, given = _shape(error), cast("dict[str, Any]", error.instance)
    for key in sorted(set(given) - set(shape["properties"])):
        path = f"{where}.{key}" if where else key
        if key in shape["x-refused"]:
            yield Problem(name, path, f"must not be there: {shape['x-refused'][key]}")
            continue
        near = difflib.get_close_matches(key, shape["properties"], n=1)
        known = ", ".join(sorted(shape["properties"])) or "none"
        hint = f"did you mean {near[0]}?" if near else f"known here: {known}."
        yield Problem(name, path, f"is no {shape['x-kind']} that the gateway uses; {hint}")


def _missing_key(error: ValidationError, where: str, name: str) -> Iterator[Problem]:
    # jsonschema reports one missing key at a time and names it in its sentence only
    shape = _shape(error)
    key = next(key for key in shape["required"] if f"{key!r} is a required" in error.message)
    path = f"{where}.{key}" if where else key
    reason = shape["properties"][key].get("description", "add it.")
    yield Problem(name, path, f"is missing: {reason}")


def _sentence(error: ValidationError) -> str:
    rule: Any = error.validator_value
    sentences: dict[str, Callable[[], str]] = {
        "type": lambda: f"must be {TYPES[rule]}",
        "const": lambda: f"must be {_plain(rule)}",
        "enum": lambda: f"must be one of {', '.join(map(_plain, rule))}",
        "minimum": lambda: f"must be at least {rule:,}",
        "maximum": lambda: f"must be at most {rule:,}",
        "minLength": lambda: "must not be empty",
        "maxLength": lambda: f"must have at most {rule:,} characters",
        "pattern": lambda: f"must be {_shape(error)['x-form']}",
        "minItems": lambda: f"must have at least {rule} element{'s' if rule > 1 else ''}",
        "uniqueItems": lambda: "has the same element twice",
    }
    reason = _shape(error).get("description")
    return f"{sentences[str(error.validator)]()}: {reason}" if reason else f"{sentences[str(error.validator)]()}."


def _shape(error: ValidationError) -> Shape:
    return cast("Shape", error.schema)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    return str(value)
