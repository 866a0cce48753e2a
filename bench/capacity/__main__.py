"""
How much an installation can take, simulated, with what a call costs by the bench.

    scripts/simulate --rate-per-s 50 --duration-ms 300 --vary slots=16,20,24,28
    sudo scripts/simulate --validate [--page docs/explanation/capacity.md]

Prints a Markdown table, or JSON. The second form offers two loads to a real `mayfly up` on this machine, and prints
what came of them beside what the model says. What is in the model, and what is not: docs/explanation/capacity.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import uvloop

from bench.capacity.command import parser, simulated
from bench.capacity.compared import conditions, table
from bench.capacity.page import with_measured
from bench.capacity.plan import BadInput
from bench.capacity.validate import validate


def main() -> None:
    """Do what the command line says."""
    made = parser(__doc__)
    made.add_argument("--validate", action="store_true", help="compare the model with a real installation (5 min)")
    made.add_argument("--page", type=Path, help="with --validate, write its table into this page")
    try:
        options = made.parse_args()
        print(_validated(options) if options.validate else simulated(options))
    except BadInput as error:
        sys.exit(f"simulate: {error}")


def _validated(options: argparse.Namespace) -> str:
    if os.geteuid() != 0:
        raise BadInput("validate starts containers and must be run by root: sudo scripts/simulate --validate")
    validation = uvloop.run(validate())
    measured = f"{table(validation)}\n\n{conditions(validation)}"
    if options.page:
        text = options.page.read_text(encoding="utf-8")
        options.page.write_text(with_measured(text, measured), encoding="utf-8")
    return json.dumps(asdict(validation), indent=2) if options.json else measured


if __name__ == "__main__":
    main()
