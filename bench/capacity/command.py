"""What a command line asks to simulate, and what it prints of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import NoReturn

from bench.capacity.costs import Costs
from bench.capacity.model import simulate
from bench.capacity.plan import BadInput, Plan
from bench.capacity.table import Row, costs_table, table

FIGURES = Path(__file__).resolve().parents[1] / "figures.json"


def parser(description: str | None = None) -> argparse.ArgumentParser:
    """Make an option of each field of a plan; what cannot be understood raises BadInput."""
    made = _Parser(
        prog="scripts/simulate", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for each in fields(Plan):
        option, meaning = f"--{each.name.replace('_', '-')}", each.metadata["meaning"]
        if each.default is False:
            made.add_argument(option, action="store_true", help=meaning)
        else:
            shown = "none" if each.default is None else each.default
            made.add_argument(option, metavar="X", help=f"{meaning} (default: {shown})")
    made.add_argument(
        "--vary", action="append", default=[], metavar="FIELD=X,Y", help="a row for each value; several go on together"
    )
    made.add_argument("--costs", type=Path, default=FIGURES, help="what `scripts/bench --json FILE` wrote")
    made.add_argument("--show-costs", action="store_true", help="only print what a call costs by it")
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def simulated(options: argparse.Namespace) -> str:
    """
    Simulate what the options say; return a table, or JSON.

    Raises: BadInput.
    """
    costs = Costs.of_bench(options.costs)
    if options.show_costs:
        return json.dumps(asdict(costs), indent=2) if options.json else costs_table(costs)
    given = {each.name: word for each in fields(Plan) if (word := getattr(options, each.name)) is not None}
    rows = []
    for varied in _variations(options.vary):
        plan = Plan.read(given | varied)
        rows.append(Row({name: getattr(plan, name) for name in varied}, simulate(plan, costs)))
    return json.dumps([asdict(row) for row in rows], indent=2) if options.json else table(rows)


def _variations(lists: Sequence[str]) -> list[dict[str, str]]:
    """Read `slots=8,16`: what is given to each row."""
    varied = {}
    for each in lists:
        name, _, values = each.replace("-", "_").partition("=")
        if not values or name not in {field.name for field in fields(Plan)}:
            raise BadInput(f"vary is {each!r} and must be FIELD=VALUE,VALUE with a field of a plan: see --help")
        varied[name] = values.split(",")
    if len({len(values) for values in varied.values()}) > 1:
        raise BadInput("vary has lists of different lengths and must have a value in each for each row: complete them")
    return [dict(zip(varied, row, strict=True)) for row in zip(*varied.values(), strict=True)] or [{}]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}: see --help")
