"""
Markdown to HTML, by CommonMark with tables: what a page of the repository looks like here is what it looks like there.

Python-Markdown, which MkDocs uses, reads nested lists, lists below a paragraph, and comments above a block otherwise.
So `CommonMark` replaces its parser, and leaves it the rest: ids, the table of contents, MkDocs's checks of all links.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from xml.etree.ElementTree import Element, ElementTree, ParseError, SubElement, fromstring, tostring

from markdown import Markdown
from markdown.blockparser import BlockParser
from markdown.extensions import Extension
from markdown.util import Registry
from markdown_it import MarkdownIt
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

LINKS = {"a": "href", "img": "src"}
PLAIN = ("", "output", "text", "mermaid")
"""The languages of blocks without colours."""
LONG_NAME = 24
_ENDS = re.compile(r"(?<=[/_=,@])(?=\w)|(?<=::)")
_TITLE = re.compile(r'title="([^"]*)"')
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_FORMATTER: HtmlFormatter[str] = HtmlFormatter(nowrap=True)


def tree(text: str) -> Element:
    """
    Return a page as the contents of one <div>, its headings with ids.

    Raises: ValueError when HTML in the page is not well-formed.
    """
    markdown = MarkdownIt("commonmark", {"xhtmlOut": True}).enable(["table", "strikethrough"])
    for name, rule in (("fence", _fence), ("html_block", _html), ("html_inline", _html)):
        markdown.add_render_rule(name, rule)
    tokens = markdown.parse(text)
    used: Counter[str] = Counter()
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", _unique(anchor(_words(tokens[at + 1])), used))
    body = markdown.renderer.render(tokens, markdown.options, {})
    try:
        page = fromstring(f"<div>{body}</div>")  # noqa: S314 - our own documents, in our own repository
    except ParseError as error:
        raise ValueError(f"HTML in the page is not well-formed: {error}") from error
    for code in page.iterfind(".//td//code"):
        _let_break(code)
    return page


def anchor(heading: str) -> str:
    """What links call a heading, in the way of the sites that show repositories."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links(page: Element) -> Iterator[tuple[Element, str]]:
    """Every link and image of a page, with the name of the attribute that says where it leads."""
    return ((element, LINKS[element.tag]) for element in page.iter() if LINKS.get(element.tag, "") in element.attrib)


def as_html(element: Element) -> str:
    """Write a tree as HTML."""
    return tostring(element, encoding="unicode", method="html")


def colours() -> str:
    """The style sheet of highlighted blocks, where no theme brings one."""
    return str(_FORMATTER.get_style_defs(".highlight"))  # type: ignore[no-untyped-call]


class CommonMark(Extension):
    """Python-Markdown with another parser. *see* may change the tree of each page before links are checked."""

    def __init__(self, see: Callable[[Element], None]) -> None:
        super().__init__()
        self.see = see

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 - Python-Markdown's name
        """Take its parser's place."""
        md.preprocessors = Registry()  # MkDocs has some more added, whether asked or not
        for name in ("inline", "prettify", "unescape"):
            md.treeprocessors.deregister(name)
        md.parser = _Parser(md, self.see)
        md.serializer = as_html


class _Parser(BlockParser):
    def __init__(self, md: Markdown, see: Callable[[Element], None]) -> None:
        super().__init__(md)
        self.see = see

    def parseDocument(self, lines: Iterable[str]) -> ElementTree:  # noqa: N802 - Python-Markdown's name
        page = tree("\n".join(lines))
        self.see(page)
        return ElementTree(page)


def _words(heading: Token) -> str:
    return "".join(child.content for child in heading.children or [])


def _let_break(code: Element) -> None:
    """Let a long name in a table break where its parts end, so that the table needs no more room than a page has."""
    first, *parts = _ENDS.split(code.text or "")
    if len(code.text or "") > LONG_NAME and not len(code):
        code.text = first
        for part in parts:
            SubElement(code, "wbr").tail = part


def _unique(name: str, used: Counter[str]) -> str:
    used[name] += 1
    return name if used[name] == 1 else f"{name}-{used[name] - 1}"


def _fence(_self: Any, tokens: Sequence[Token], at: int, _options: Any, _env: Any) -> str:
    language, _, rest = tokens[at].info.strip().partition(" ")
    title = _TITLE.search(rest)
    name = f'<span class="filename">{html.escape(title[1])}</span>' if title else ""
    return f'<div class="highlight">{name}<pre><code>{_coloured(tokens[at].content, language)}</code></pre></div>\n'


def _coloured(code: str, language: str) -> str:
    if language in PLAIN:
        return html.escape(code, quote=False)
    try:
        return highlight(code, get_lexer_by_name(language, stripnl=False), _FORMATTER)
    except ClassNotFound as error:
        raise ValueError(f"no language of blocks is called {language}") from error


def _html(_self: Any, tokens: Sequence[Token], at: int, _options: Any, _env: Any) -> str:
    return _COMMENT.sub("", tokens[at].content)
