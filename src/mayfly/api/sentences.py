"""
From what pydantic found wrong to sentences for a person: the field, the rule, the remedy.

The input itself is never repeated: it may be a password, or a megabyte. Names of fields are, cut short.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from mayfly.domain.errors import InvalidRequest

SHOWN_PROBLEMS = 20
SHOWN_CHARACTERS = 64
IN_DETAIL = 3

Context = Mapping[str, Any]

MOMENT = "must be a time with its zone, such as 2026-11-29T12:00:00Z (in a URL, the + of a zone is %2B)"

RULES: dict[str, Callable[[Context], str]] = {
    "missing": lambda _: "is missing",
    "string_type": lambda _: "must be a string",
    "int_type": lambda _: "must be a whole number",
    "int_parsing": lambda _: "must be a whole number",
    "int_parsing_size": lambda _: "is too large a number",
    "int_from_float": lambda _: "must be a whole number",
    "float_type": lambda _: "must be a number",
    "float_parsing": lambda _: "must be a number",
    "finite_number": lambda _: "must be a finite number",
    "bool_type": lambda _: "must be true or false",
    "bool_parsing": lambda _: "must be true or false",
    "list_type": lambda _: "must be a list",
    "dict_type": lambda _: "must be an object",
    "model_type": lambda _: "must be an object",
    "enum": lambda context: f"must be {context.get('expected')}",
    "literal_error": lambda context: f"must be {context.get('expected')}",
    "greater_than_equal": lambda context: f"must be at least {context.get('ge')}",
    "less_than_equal": lambda context: f"must be at most {context.get('le')}",
    "greater_than": lambda context: f"must be more than {context.get('gt')}",
    "string_too_short": lambda context: f"must have at least {context.get('min_length')} characters",
    "string_too_long": lambda context: f"must have at most {context.get('max_length')} characters",
    "too_short": lambda context: f"must have at least {context.get('min_length')} entries",
    "too_long": lambda context: f"must have at most {context.get('max_length')} entries",
    "value_error": lambda context: f"is refused: {context.get('error')}",
    "datetime_type": lambda _: MOMENT,
    "datetime_parsing": lambda _: MOMENT,
    "datetime_from_date_parsing": lambda _: MOMENT,
    "timezone_aware": lambda _: MOMENT,
    "json_invalid": lambda context: f"is not JSON in UTF-8: {context.get('error')}",
}


def invalid(problems: Iterable[Any], known: Sequence[str] = ()) -> InvalidRequest:
    """Word pydantic's *problems*; a field that is not *known* is answered with the nearest name."""
    found = [_worded(problem, known) for problem in list(problems)[:SHOWN_PROBLEMS]]
    named = [f"`{one['field']}` {one['problem']}" if one["field"] else f"The body {one['problem']}" for one in found]
    rest = len(found) - IN_DETAIL
    more = f"; and {rest} more, see `errors`" if rest > 0 else ""
    return InvalidRequest("; ".join(named[:IN_DETAIL]) + more + ".", field=found[0]["field"] or None, errors=found)


def field_names(model: type[BaseModel]) -> list[str]:
    """List a shape's field names, those of the shapes in it included."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += field_names(field.annotation)
    return names


def _worded(problem: Mapping[str, Any], known: Sequence[str]) -> dict[str, str]:
    path = _path(problem["loc"])
    kind = problem["type"]
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(problem["loc"][-1])[:SHOWN_CHARACTERS], known, n=1)
        return {"field": path, "problem": "is not known" + (f"; did you mean `{near[0]}`?" if near else "")}
    context = problem.get("ctx", {})
    if kind in ("too_short", "too_long") and context.get("field_type") == "Value":
        kind = f"string_{kind}"  # behind a validator of our own pydantic counts characters, and does not say so
    rule = RULES.get(kind)
    return {"field": path, "problem": rule(context) if rule else "has a value that cannot be"}


def _path(location: Sequence[object]) -> str:
    """Write a location as one would in a program: `command[0]`, `limits.memory_mib`, `env.NAME`."""
    path = ""
    for part in location:
        if part == "[key]" or (not path and part in {"body", "query", "path", "header"}):
            continue
        text = str(part)[:SHOWN_CHARACTERS]
        path += f"[{part}]" if isinstance(part, int) else f".{text}" if path else text
    return path
