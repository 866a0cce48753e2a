"""
The gateway's Lua: files of their own in `lua/`, and above each the values that it is given.

A value becomes a literal, never text within code, so nothing in it can be code. Rows: A1, D3.
"""

from __future__ import annotations

from importlib import resources
from typing import TypeAlias

PRINTABLE = frozenset(map(chr, range(0x20, 0x7F))) - {'"', "\\"}
"""What stands for itself; braces only in pairs, since what looks for the end of a block may count them in strings."""

LuaValue: TypeAlias = "str | int | tuple[str, ...] | dict[int, str]"


def chunk(name: str, **values: LuaValue) -> str:
    """Return a chunk with its *values*, each as a local in capitals."""
    code = resources.files(__package__).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
    given = "".join(f"local {key.upper()} = {literal(value)}\n" for key, value in values.items())
    return given + code


def literal(value: LuaValue) -> str:
    """Write a value as Lua."""
    if isinstance(value, str):
        plain = PRINTABLE if value.count("{") == value.count("}") else PRINTABLE - {"{", "}"}
        return '"' + "".join(character if character in plain else _escaped(character) for character in value) + '"'
    if isinstance(value, int):
        return str(value)
    if isinstance(value, tuple):
        return "{" + ", ".join(map(literal, value)) + "}"
    return "{\n" + "".join(f"  [{key}] = {literal(inner)},\n" for key, inner in value.items()) + "}"


def _escaped(character: str) -> str:
    return f"\\{character}" if character in {'"', "\\"} else "".join(f"\\{byte:03}" for byte in character.encode())
