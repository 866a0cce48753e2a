"""Pages are read as the viewers of repositories read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from website.commonmark import anchor, as_html, tree
from website.documents import Documents

DOCUMENTS = Documents(Path(__file__).resolve().parent.parent.parent.parent)


def shown(text: str) -> str:
    """A page's HTML without the line breaks between elements."""
    return as_html(tree(text)).replace("\n", "")


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("- a\n  - b\n", "<ul><li>a<ul><li>b</li></ul></li></ul>"),
        ("text\n- a\n", "<p>text</p><ul><li>a</li></ul>"),
        ("3. a\n", '<ol start="3"><li>a</li></ol>'),
        ("|a|\n|-|\n|`b \\| c`|\n", "<tbody><tr><td><code>b | c</code></td></tr></tbody>"),
        ("`&amp;` & <https://example.org>\n", "<code>&amp;amp;</code> &amp; <a "),
        ("a <!-- b --> c\n", "<p>a  c</p>"),
        ("snake_case_name and ~~gone~~\n", "snake_case_name and <s>gone</s>"),
    ],
    ids=["nested-list", "list-below-text", "numbers", "bar-in-table", "entities", "comment", "emphasis"],
)
def test_markdown_means_what_commonmark_says(text: str, html: str) -> None:
    """Where dialects differ, it is CommonMark's reading, with tables."""
    assert html in shown(text)


def test_a_comment_above_a_block_leaves_the_block() -> None:
    """What a comment says to a page's checks, dashes included, is not shown, and the block below it is."""
    page = shown("<!-- not typed: needs --force -->\n```sh\nls -l\n```\n")

    assert page.startswith('<div><div class="highlight"><pre>')


def test_a_block_shows_its_file_and_language() -> None:
    """A block's title stands above it, its code is coloured by its language, and output is left as it is."""
    page = shown('```python title="function.py"\nimport sys\n```\n\n```output\nimport sys\n```\n')

    assert '<span class="filename">function.py</span><pre><code><span class="kn">import</span>' in page
    assert "<pre><code>import sys</code></pre>" in page


def test_headings_are_called_as_elsewhere() -> None:
    """Headings have the ids that links in the repository use; a second one of the same words gets a number."""
    page = shown("# What `x` is: not a Y\n\n## Again\n\n## Again\n")

    assert anchor("What x is: not a Y") == "what-x-is-not-a-y"
    for each in ("what-x-is-not-a-y", "again", "again-1"):
        assert f' id="{each}"' in page


def test_long_names_in_tables_can_break() -> None:
    """A long name in a table may break after its parts; a short one, and any outside of tables, may not."""
    long = "`tests/unit/test_names.py::test_x`"

    assert "tests/<wbr>unit/<wbr>test_<wbr>names.py::<wbr>test_<wbr>x" in shown(f"|a|\n|-|\n|{long}|\n")
    assert "<wbr>" not in shown(f"{long}\n\n|a|\n|-|\n|`a_b`|\n")


@pytest.mark.parametrize("page", DOCUMENTS.pages)
def test_every_page_can_be_read(page: str) -> None:
    """Each page of the project has one first heading, and no list or table that is shown as text."""
    body = tree(DOCUMENTS.text(page))

    assert len(body.findall("h1")) == 1
    for paragraph in body.iterfind(".//p"):
        lines = "".join(paragraph.itertext()).splitlines()
        assert not [line for line in lines if line.startswith(("|", "- ", "* ", "#"))], lines
