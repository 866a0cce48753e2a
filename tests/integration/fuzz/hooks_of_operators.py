"""
Loaded by schemathesis where it calls as an operator: half of what it puts into paths is made to name what is there.

FUZZ_THERE is JSON: for each parameter of a path, what there is to name.
"""

from __future__ import annotations

import json
import os
import zlib
from typing import Any

import schemathesis

THERE: dict[str, list[str]] = json.loads(os.environ["FUZZ_THERE"])


@schemathesis.hook
def map_path_parameters(_context: schemathesis.HookContext, path_parameters: dict[str, Any] | None) -> Any:
    """Replace each second value, and the same ones each time."""
    for name, value in (path_parameters or {}).items():
        number = zlib.crc32(repr(value).encode())
        if path_parameters and isinstance(value, str) and name in THERE and number % 2:
            path_parameters[name] = THERE[name][number // 2 % len(THERE[name])]
    return path_parameters
