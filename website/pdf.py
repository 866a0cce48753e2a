"""
Make the PDF of the write-up: python -m website.pdf --out FILE. With a table of contents, and with the links to other
documents as paths from the folder in which the file lies.
"""

from __future__ import annotations

import argparse
import html
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

from weasyprint import CSS, HTML

from website import commonmark
from website.documents import WRITEUP, Documents, address, is_relative

ROOT = Path(__file__).resolve().parent.parent
STYLE = Path(__file__).parent / "print.css"
WIDE = 150
"""A table with so many characters in a row is set smaller."""
SHORT = 9
SHORT_WIDE = 5
"""A table of no more rows is not divided between pages."""
PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Mayfly: the write-up</title></head>
<body>
<header><h1>Mayfly {version}</h1><p>The write-up</p></header>
<nav><h2>Contents</h2>{contents}</nav>
{body}
</body>
</html>
"""


@dataclass(frozen=True)
class Folders:
    """Where the site and the project are, as paths from the folder of the PDF."""

    site: str
    project: str


def page(documents: Documents, folders: Folders) -> str:
    """Return the write-up as one page of HTML."""
    tree = commonmark.tree(documents.text(WRITEUP))
    for element, attribute in commonmark.links(tree):
        path, mark, part = element.get(attribute, "").partition("#")
        if is_relative(path):
            kind, target = documents.target(path, WRITEUP)
            if element.tag == "img":
                place = (documents.source / target).as_uri()
            elif kind == "project":
                place = f"{folders.project}/{target}"
            else:
                place = f"{folders.site}/{address(target) if kind == 'page' else target}"
            element.set(attribute, place + mark + part)
    for table in tree.iterfind(".//table"):
        rows = ["".join(row.itertext()) for row in table.iterfind(".//tr")]
        wide = max(map(len, rows)) >= WIDE
        short = len(rows) <= (SHORT_WIDE if wide else SHORT)
        table.set("class", f"{'wide' if wide else 'narrow'} {'short' if short else 'long'}")
    first = tree.find("h1")
    if first is not None:
        tree.remove(first)  # it is on the title page
    version = tomllib.loads((documents.source / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    contents = _contents(tree.findall("h2"))
    return PAGE.format(version=html.escape(version), contents=contents, body=commonmark.as_html(tree))


def _contents(headings: Iterable[Element]) -> str:
    lines = [
        f'<li><a href="#{html.escape(heading.get("id", ""))}">{html.escape("".join(heading.itertext()))}</a></li>'
        for heading in headings
    ]
    return f"<ul>{''.join(lines)}</ul>"


def write(documents: Documents, out: Path, folders: Folders) -> None:
    """Write the PDF."""
    styles = [CSS(filename=str(STYLE)), CSS(string=commonmark.colours())]
    HTML(string=page(documents, folders)).write_pdf(str(out), stylesheets=styles)


def main() -> None:
    """Write it."""
    parser = argparse.ArgumentParser("python -m website.pdf", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--source", type=Path, default=ROOT, metavar="DIR", help="the project (this one)")
    parser.add_argument("--site", default=".", metavar="PATH", help="from FILE's folder to the site")
    parser.add_argument("--project", default="..", metavar="PATH", help="from FILE's folder to the project")
    given = parser.parse_args()
    write(Documents(given.source.resolve()), given.out, Folders(given.site, given.project))


if __name__ == "__main__":
    main()
