"""
Build the documentation site: scripts/docs-site --out DIR. Needs no internet, and neither does who reads it, from a web
server or from the files. A link that leads nowhere, or a page in no part of the navigation, is an error.
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

os.environ["NO_MKDOCS_2_WARNING"] = "true"  # Material's word about a MkDocs to come; read when it is imported

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort, MkDocsException

from website.documents import Documents
from website.plugin import RepositoryPages

ROOT = Path(__file__).resolve().parent.parent
SEARCH = "search/search_index.js"
"""What every site has."""


def write(source: Path, out: Path, project: str) -> int:
    """
    Write the site of *source* into *out*, in place of an older one; return how many pages it has.

    Raises: SystemExit with what is wrong.
    """
    if out.exists() and any(out.iterdir()) and not (out / SEARCH).exists():
        raise SystemExit(f"docs-site: {out} holds something that is no site; it would be lost")
    documents = Documents(source)
    said = logging.StreamHandler()
    logging.getLogger("mkdocs").addHandler(said)
    try:
        config = load_config(str(ROOT / "mkdocs.yml"), docs_dir=str(source / "docs"), site_dir=str(out), strict=True)
        config.plugins["repository-pages"] = RepositoryPages(documents, project)
        build(config)
    except (MkDocsException, Abort, ValueError) as error:
        raise SystemExit(f"docs-site: {error}") from error
    return len(documents.pages)


def main() -> None:
    """Build it."""
    parser = argparse.ArgumentParser("scripts/docs-site", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new, empty, or with an older site")
    parser.add_argument("--source", type=Path, default=ROOT, metavar="DIR", help="the project (this one)")
    parser.add_argument(
        "--project", metavar="PATH_OR_URL", help="where the project's other files are: a path from DIR, or an address"
    )
    given = parser.parse_args()
    source, out = given.source.resolve(), given.out.resolve()
    project = given.project or Path(os.path.relpath(source, out)).as_posix()
    print(f"{write(source, out, project)} pages in {given.out}")


if __name__ == "__main__":
    main()
