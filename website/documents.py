"""Which files of the project are documents, in which order and groups, and where their links lead."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

HOME, INDEX, WRITEUP = "README.md", "docs/index.md", "docs/writeup.md"
PAGES = ("*.md", "docs/**/*.md", "deploy/**/*.md", "examples/**/*.md", "changes/README.md")
BESIDE = ("docs/**/*.svg", "docs/**/*.json")
FOLDERS = {
    "docs/tutorial": "Tutorial",
    "docs/howto": "How-to",
    "deploy": "Deployments",
    "examples": "Examples",
    "docs/reference": "Reference",
    "docs/explanation": "Explanation",
    "docs/adr": "Decisions",
}
"""Those with pages, and what they are called. A page in any other one is in no part of the navigation: an error."""
LAST = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "changes/README.md")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_LINK = re.compile(r"\]\(([^)#:]+)")


@dataclass(frozen=True)
class Documents:
    """The documents of the project in the folder *source*, by their paths below it."""

    source: Path

    @cached_property
    def pages(self) -> list[str]:
        """All pages, those of a folder in the order in which the index names them."""
        found = {path.relative_to(self.source).as_posix() for pattern in PAGES for path in self.source.glob(pattern)}
        named = [posixpath.normpath(posixpath.join("docs", link)) for link in _LINK.findall(self.text(INDEX))]
        places = {name: place for place, name in reversed(list(enumerate(named)))}
        return sorted(found, key=lambda page: (places.get(page, len(places) + len(named)), page))

    @cached_property
    def files(self) -> list[str]:
        """What pages show or offer beside themselves: pictures, the API's description."""
        return sorted(path.relative_to(self.source).as_posix() for each in BESIDE for path in self.source.glob(each))

    @cached_property
    def listings(self) -> dict[str, str]:
        """The page that a folder of pages has here and not in the repository, whose viewers list folders themselves."""
        return {f"{folder}/index.md": self._listing(folder, title) for folder, title in FOLDERS.items()}

    def text(self, page: str) -> str:
        """Return a page's Markdown."""
        return (self.source / page).read_text(encoding="utf-8")

    def within(self, folder: str) -> list[str]:
        """The pages in a folder and those below it, in order."""
        return [page for page in self.pages if page.startswith(f"{folder}/")]

    def title(self, page: str) -> str:
        """What a page calls itself."""
        return next((line[2:] for line in self.text(page).splitlines() if line.startswith("# ")), page)

    def _listing(self, folder: str, title: str) -> str:
        lines = [self._listed(page, posixpath.relpath(page, folder)) for page in self.within(folder)]
        return "\n".join([f"# {title}", "", *lines, ""])

    def _listed(self, page: str, link: str) -> str:
        dated = _DATE.match(posixpath.basename(page))
        return f"- {f'{dated[0]}: ' if dated else ''}[{self.title(page)}]({link})"

    def navigation(self) -> list[object]:
        """The pages in the groups in which readers look for them, as MkDocs has it."""
        howto = self._section("docs/howto", *(self._section(folder) for folder in ("deploy", "examples")))
        return [
            {"Start": [{"Mayfly": HOME}, {"All documents": INDEX}]},
            self._section("docs/tutorial"),
            howto,
            *(self._section(folder) for folder in ("docs/reference", "docs/explanation", "docs/adr")),
            {"Write-up": WRITEUP},
            {"Contributing": [page for page in LAST if page in self.pages]},
        ]

    def _section(self, folder: str, *below: object) -> object:
        return {FOLDERS[folder]: [f"{folder}/index.md", *self.within(folder), *below]}

    def target(self, link: str, page: str) -> tuple[str, str]:
        """
        Where a relative link of a page leads: `page` or `file` with a path of the site's, `project` with the path of
        something else in the project, or `unknown`.
        """
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
        for name in (wanted, f"{wanted}/README.md", f"{wanted}/index.md"):
            if name in self.pages or name in self.listings:
                return "page", name
        if wanted in self.files:
            return "file", wanted
        inside = not wanted.startswith("../") and (self.source / wanted).exists()
        return ("project", wanted) if inside else ("unknown", link)


def address(page: str) -> str:
    """The path of a page's HTML below the site's folder."""
    folder, name = posixpath.split(page)
    name = "index.html" if name == "README.md" else f"{name.removesuffix('.md')}.html"
    return posixpath.join(folder, name)


def is_relative(link: str) -> bool:
    """Whether a link is a path, not an address or a part of the page itself."""
    return bool(link) and not re.match(r"[a-z][a-z0-9+.-]*:|//|/|#", link, re.IGNORECASE)
