"""
Write the pages that are made from the code.

    scripts/docs                     all of them
    scripts/docs docs/reference/api.md ...
    scripts/docs --check             change nothing; status 1 when one is out of date, with the command that mends it
    scripts/docs --record            call a real installation, which it starts (root), and keep what it answered for
                                     the examples of docs/reference/api.md
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pages.all import PAGES
from pages.page import ROOT


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        prog="scripts/docs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="only these (default: all)")
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 when a page is out of date")
    parser.add_argument("--record", action="store_true", help="first ask a real installation for the examples' answers")
    parser.add_argument("--root", type=Path, default=ROOT, help="the project whose pages it is about (default: this)")
    options = parser.parse_args()
    known = {page.path: page for page in PAGES}
    if unknown := [path for path in options.pages if path not in known]:
        parser.error(f"{unknown[0]} is not made from the code; these are: {', '.join(known)}")
    chosen = [known[path] for path in options.pages or known]
    if options.record:
        from pages.record import record  # noqa: PLC0415 - the tests' own parts, which nothing else here needs

        record()
    if options.check:
        stale = [page.path for page in chosen if not page.is_current(options.root)]
        for path in stale:
            print(f"{path} is not what the code says: run scripts/docs {path}", file=sys.stderr)
        sys.exit(1 if stale else 0)
    for page in chosen:
        if page.write(options.root):
            print(f"{page.path}: written")


if __name__ == "__main__":
    main()
