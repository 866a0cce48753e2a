"""
The Lua chunks in the gateway's files: compiled by the LuaJIT that lupa brings, never run.

APISIX drops a whole global rule, or route, when one of its chunks does not compile, and traffic flows on without it.
What a chunk does is read from its text, without its comments. Rows: D3.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from lupa import luajit21  # type: ignore[import-untyped]  # lupa has no types

CHUNK_MAX_BYTES = 32 * 1024

_COMMENTS_AND_TEXTS = re.compile(
    r"""(?P<comment>--\[(?P<a>=*)\[.*?\](?P=a)\]|--[^\n]*)"""
    r"""|(?P<text>\[(?P<b>=*)\[.*?\](?P=b)\]|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')""",
    re.DOTALL,
)
_REMOVAL = r"core\.request\.set_header\(\s*ctx\s*,\s*{name}\s*,\s*nil\s*\)"
_LOOP = re.compile(
    r"for\s+\w+\s*,\s*(?P<name>\w+)\s+in\s+ipairs\(\s*(?P<list>\{[^{}]*\}|\w+)\s*\)\s+do\s+"
    + _REMOVAL.format(name=r"(?P=name)")
    + r"\s*;?\s*end"
)
_SINGLE = re.compile(_REMOVAL.format(name=r"""["'](?P<name>[\w-]+)["']"""))
_QUOTED = re.compile(r"""["']([\w-]+)["']""")
_SAID_BY_LUA = re.compile(
    r"'(?:\W{1,3}|<\w+>|do|end|in|then|until|function)' expected|unexpected symbol|malformed number"
    r"|unfinished (?:long )?(?:string|comment)|chunk has too many syntax levels"
)
"""The beginnings of Lua's messages that have nothing of the chunk in them."""


def fault_of(chunk: str) -> str | None:
    """
    Say why a chunk does not compile, or None if it does. Nothing of the chunk is in what is said.
    """
    if len(chunk.encode(errors="replace")) > CHUNK_MAX_BYTES:
        return f"has more than {CHUNK_MAX_BYTES:,} bytes"
    outcome = _load()(chunk.encode(errors="replace"), b"=chunk", b"t")
    if not isinstance(outcome, tuple):
        return None
    return _sentence(outcome[1])


@cache
def _load() -> Any:
    """Lua's own `load`, with mode `t`: source text only, since bytecode is not checked by anybody."""
    runtime = luajit21.LuaRuntime(encoding=None, register_eval=False, register_builtins=False)
    return runtime.globals().load


def _sentence(message: bytes) -> str:
    found = re.match(rb"chunk:(\d+): (.*)", message, re.DOTALL)
    if not found:
        return "is not Lua source"
    said = _SAID_BY_LUA.match(found[2].decode(errors="replace"))
    return f"line {int(found[1])}: {said[0] if said else 'is not Lua'}"


def without_comments(chunk: str) -> str:
    """Return a chunk with a blank in place of each comment: what is commented out does not count."""
    return _COMMENTS_AND_TEXTS.sub(lambda found: " " if found["comment"] else found[0], chunk)


def skeleton(chunk: str) -> str:
    """Return a chunk without comments, and with each text in it empty."""
    return _COMMENTS_AND_TEXTS.sub(lambda found: " " if found["comment"] else '""', chunk)


def masked(text: str) -> str:
    """Return a text of the same length with blanks in place of Lua's comments and texts."""
    return _COMMENTS_AND_TEXTS.sub(lambda found: " " * len(found[0]), text)


def constant(chunk: str, name: str) -> str | None:
    """Return the expression of `local NAME = ...`, as far as its line goes; None if there is none."""
    found = re.search(rf"^\s*local\s+{re.escape(name)}\s*=\s*(.+?)\s*$", without_comments(chunk), re.MULTILINE)
    return found[1] if found else None


def removed_headers(chunk: str) -> set[str]:
    """Name the request headers that a chunk takes away, in lower case."""
    code = without_comments(chunk)
    names = {found["name"] for found in _SINGLE.finditer(code)}
    for loop in _LOOP.finditer(code):
        listed = loop["list"] if loop["list"].startswith("{") else constant(chunk, loop["list"])
        names |= set(_QUOTED.findall(listed or ""))
    return {name.lower() for name in names}


def header_set_to(chunk: str, header: str) -> str | None:
    """
    Return the Lua expression that a chunk sets a request header to, a constant's own if it is one; None if it sets
    none, or only removes it.
    """
    pattern = rf"""core\.request\.set_header\(\s*ctx\s*,\s*["']{re.escape(header)}["']\s*,\s*(?P<value>[^\n]*?)\s*\)"""
    for found in re.finditer(pattern, without_comments(chunk), re.IGNORECASE):
        if found["value"] != "nil":
            return constant(chunk, found["value"]) or found["value"]
    return None
