"""
What MkDocs is told about this repository: which files are pages, the navigation, and what else links lead to.

A link to something of the project that is no page is made `project:PATH` before MkDocs checks the links, as it knows
pages only, and becomes the path or address from that page afterwards.
"""

from __future__ import annotations

import posixpath
import re
from xml.etree.ElementTree import Element

from mkdocs.config.base import Config
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import BasePlugin
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from website.commonmark import CommonMark, links
from website.documents import Documents, is_relative

_SCHEME = "project:"
_OF_NO_USE = re.compile(r"\.map$|/lunr/|^sitemap\.xml$")
"""What the theme brings for its own developers, other languages, and sites with a known address."""


class NoOptions(Config):
    """mkdocs.yml says nothing about this plugin; scripts/docs-site makes it."""


class RepositoryPages(BasePlugin[NoOptions]):
    """The pages of one build; *project* leads from the site's folder to the project's, or is its address."""

    def __init__(self, documents: Documents, project: str) -> None:
        self.documents = documents
        self.project = project
        self._page = ""

    def on_config(self, config: MkDocsConfig) -> MkDocsConfig:
        """Have pages read by CommonMark, and leave out what only a site with a known address has a use for."""
        config.markdown_extensions.append(CommonMark(self.see))  # type: ignore[arg-type] # may be an object
        config.theme.static_templates.clear()
        return config

    def on_files(self, files: Files, *, config: MkDocsConfig) -> Files:
        """Take the repository's pages in place of those in docs/ alone, by the paths that they have there."""
        theme = [file for file in files if file.src_dir != config.docs_dir and not _OF_NO_USE.search(file.src_uri)]
        source = str(self.documents.source)
        known = [
            File(path, source, config.site_dir, use_directory_urls=False)
            for path in (*self.documents.pages, *self.documents.files)
        ]
        listings = [
            File.generated(config, path, content=text) for path, text in sorted(self.documents.listings.items())
        ]
        config.nav = self.documents.navigation()
        return Files([*theme, *known, *listings])

    def on_page_markdown(self, markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
        """Remember which page comes next."""
        self._page = page.file.src_uri
        return markdown

    def see(self, tree: Element) -> None:
        """Lead its links to what MkDocs knows, and past it to what it does not."""
        for element, attribute in links(tree):
            path, mark, part = element.get(attribute, "").partition("#")
            if is_relative(path):
                kind, target = self.documents.target(path, self._page)
                if kind == "project":
                    element.set(attribute, f"{_SCHEME}{target}{mark}{part}")
                elif kind != "unknown":
                    here = posixpath.dirname(self._page) or "."
                    element.set(attribute, f"{posixpath.relpath(target, here)}{mark}{part}")

    def on_page_content(self, html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
        """Lead what is in the project to where the project is."""
        if "://" in self.project:
            place = self.project.rstrip("/")
        else:
            here = posixpath.dirname(page.file.dest_uri) or "."
            place = posixpath.normpath(posixpath.join(posixpath.relpath(".", here), self.project))
        return html.replace(f'="{_SCHEME}', f'="{place}/')
