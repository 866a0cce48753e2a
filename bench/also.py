"""
Further measurements in the same run, and on the same page: `--also NAME` stands for the module `bench.NAME`.

Such a module has `measure()`, which returns what it has found as JSON can hold it, and `markdown(found)`, which makes
what people read of it; its docstring begins with what it is about. `scripts/bench NAME` runs its `main()` alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any


def measurement(name: str) -> ModuleType:
    """
    Find the module of a measurement.

    Raises: argparse.ArgumentTypeError when there is none of this name.
    """
    try:
        found = import_module(f"bench.{name}")
    except ModuleNotFoundError as error:
        raise argparse.ArgumentTypeError(f"there is no measurement {name}: {error}") from None
    if not hasattr(found, "measure") or not hasattr(found, "markdown"):
        raise argparse.ArgumentTypeError(f"bench.{name} is no measurement: it has no measure() and markdown()")
    return found


def measure(modules: Iterable[ModuleType]) -> dict[str, Any]:
    """Measure one after the other; they have the machine for themselves."""
    found = {}
    for module in modules:
        name = module.__name__.rpartition(".")[2]
        print(f"bench: {name}", file=sys.stderr, flush=True)
        found[name] = module.measure()
    return found


def show(found: Mapping[str, Any], text: str, *, write: Path | None) -> None:
    """Print what a measurement that was made alone has found, and *write* all of it to a file, if there is one."""
    print(text)
    if write:
        write.write_text(json.dumps(found, indent=2) + "\n")


def sections(found: Mapping[str, Any]) -> str:
    """A part of the page for each measurement that was made."""
    return "".join(_section(name, each) for name, each in found["also"].items())


def _section(name: str, found: Any) -> str:
    module = measurement(name)
    about = (module.__doc__ or "").strip().split("\n\n")[0]
    return f"## {name.capitalize()}\n\n{about}\n\n{module.markdown(found)}\n\n"
