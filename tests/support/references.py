"""What a page of HTML refers to, and what in it can be referred to."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ADDRESSES = {"href", "src", "data", "srcset"}


class References(HTMLParser):
    """The addresses in a page, each with the tag that has it, and the ids."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.page = page
        self.found: list[tuple[str, str]] = []
        self.ids: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep them."""
        for name, value in attrs:
            if name == "id":
                self.ids.add(value or "")
            elif name in ADDRESSES and value:
                self.found.append((tag, value))

    def inner(self) -> Iterator[tuple[Path, str]]:
        """Those that are paths, as files, with the part of the file that they lead to."""
        for _, target in self.found:
            parts = urlsplit(target)
            if not parts.scheme and not parts.netloc:
                path = posixpath.normpath(self.page.parent / unquote(parts.path)) if parts.path else self.page
                yield Path(path), unquote(parts.fragment)
