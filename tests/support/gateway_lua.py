"""
The gateway's Lua chunks, run: LuaJIT with a small stand-in for what nginx and APISIX give them. It knows what these
chunks use and nothing else, so a chunk that begins to use more fails here first.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from lupa import luajit21  # type: ignore[import-untyped]  # it has no types

STAND_IN = """
local given = ...
local headers = {}
for name, value in pairs(given.headers) do headers[name:lower()] = value end
ngx = {
  status = given.status, var = given.var, arg = {given.arg, true}, header = {},
  re = {
    find = function(text, pattern, options) return given.find(text, pattern, options) end,
    match = function(text, pattern, options)
      local found = given.match(text, pattern, options)
      return found and {[0] = found}
    end,
  },
  print = function(text) ngx.printed = (ngx.printed or "") .. text end,
}
package.preload["apisix.core"] = function()
  return {request = {
    set_header = function(ctx, name, value) headers[name:lower()] = value end,
    header = function(ctx, name) return headers[name:lower()] end,
  }}
end
return headers
"""


@dataclass
class Request:
    """A request as a chunk sees it, and what became of it."""

    headers: dict[str, str] = field(default_factory=dict)
    uri: str = "/v1/functions"
    status: int = 200
    body: str | None = None  # a piece of the answer, in a body filter
    request_id: str = "id-of-the-request"

    def __post_init__(self) -> None:
        """Start Lua."""
        self._lua: Any = luajit21.LuaRuntime(unpack_returned_tuples=True)
        variables = {
            "request_uri": self.uri,
            "uri": self.uri.partition("?")[0],
            "request_id": self.request_id,
            "apisix_request_id": self.request_id,
            "http_authorization": self.headers.get("Authorization"),
        }
        given = {
            "headers": self._table(self.headers),
            "status": self.status,
            "var": self._table({name: value for name, value in variables.items() if value is not None}),
            "arg": self.body,
            "find": _find,
            "match": _match,
        }
        self._headers = self._lua.execute(STAND_IN, self._table(given))

    def _table(self, items: dict[str, Any]) -> Any:
        return self._lua.table_from(items)

    def call(self, code: str, **ctx: Any) -> tuple[Any, ...]:
        """Call the function that a chunk returns, as the serverless plugins do. Its *ctx* is in `ctx` afterwards."""
        function = self._lua.execute(code)
        self.ctx = self._table({"var": self._table({}), **ctx})
        result = function(None, self.ctx)
        return result if isinstance(result, tuple) else (result,)

    def transform(self, code: str, status: int, body: str = "") -> tuple[int, dict[str, Any], dict[str, str]]:
        """Run a chunk as exit-transformer does; return status, problem and headers."""
        new_status, text, headers = self._lua.execute(code, status, body, self._table({}))
        return new_status, json.loads(text), dict(headers)

    def run(self, code: str) -> dict[str, Any]:
        """Run a chunk as nginx does, for the content; return the problem that it prints."""
        self._lua.execute(code)
        return dict(json.loads(self._lua.globals().ngx.printed))

    def sent(self, name: str) -> str | None:
        """A header that goes on to the API."""
        value = self._headers[name.lower()]
        return None if value is None else str(value)

    def answered(self, name: str) -> Any:
        """A header of the answer."""
        return self._lua.globals().ngx.header[name]

    @property
    def filtered(self) -> str:
        """What a body filter made of the piece."""
        return str(self._lua.globals().ngx.arg[1])


def _pattern(pattern: str, options: str) -> re.Pattern[str]:
    r"""PCRE's `\z` is Python's `\Z`; the rest of ours is the same."""
    return re.compile(pattern.replace(r"\z", r"\Z"), re.IGNORECASE if "i" in options else 0)


def _find(text: str, pattern: str, options: str) -> int | None:
    found = _pattern(pattern, options).search(text)
    return found.start() + 1 if found else None


def _match(text: str, pattern: str, options: str) -> str | None:
    found = _pattern(pattern, options).search(text)
    return found[0] if found else None
