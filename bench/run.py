"""
Mayfly beside what it is compared with, all in one run on one machine, with ratios.

    sudo scripts/bench [--short] [--json FILE] [--page FILE] [--runtime NAME]... [--rounds N] [--also NAME]...
                       [--against FILE]
    scripts/bench --from FILE [--page FILE] [--against FILE]

docs/reference/performance.md, which this makes, says what is measured and how to read it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from bench import also, page
from bench.compare import comparison
from bench.network import enter_own_network
from bench.plan import LONG, SHORT, Plan
from bench.side_by_side import measure


def main() -> None:
    """Measure all, or read what was measured; print the tables, and write what was asked for."""
    options = _options()
    if options.source:
        found = read(options.source)
    else:
        if os.geteuid() != 0:
            sys.exit("bench: needs root, as containers do: sudo scripts/bench")
        enter_own_network()
        found = uvloop.run(measure(_plan(options)))
        found["also"] = also.measure(options.also)
        found = json.loads(json.dumps(found))  # so that what is shown now is what will be read from the file
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(page.markdown(found))
    if options.against:
        print(f"\nAs ratios, beside {options.against}:\n\n{comparison(found, read(options.against))}")
    if options.page:
        page.write(found, options.page)


def read(path: Path) -> dict[str, Any]:
    """Read what --json has written."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _plan(options: argparse.Namespace) -> Plan:
    plan = SHORT if options.short else LONG
    return replace(
        plan,
        rounds=options.rounds or plan.rounds,
        runtimes=tuple(options.runtime or ["auto"]),
        docker=not options.without_docker,
        seed=options.seed,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--short", action="store_true", help="under 90 s, rougher")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write the reference page here, and its plots beside it"
    )
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="do not measure: take these figures")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with these figures, as ratios")
    parser.add_argument(
        "--runtime",
        action="append",
        metavar="NAME",
        help="what starts Mayfly's containers (MAYFLY_RUNTIME); several are measured side by side, the first is quoted",
    )
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        type=also.measurement,
        metavar="NAME",
        help="afterwards, for the same file and page, what bench/NAME.py measures; may be given several times",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="another number of rounds: more, where others are busy")
    parser.add_argument("--without-docker", action="store_true", help="leave Docker out")
    parser.add_argument("--seed", type=int, default=1, help="of the texts, and of the order within a round")
    return parser.parse_args()


if __name__ == "__main__":
    main()
