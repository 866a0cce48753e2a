"""scripts/docs-site: what a reader sees of it in a real browser, from the files and from a web server."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.browser import PHONE, Browser
from tests.support.references import References
from website.documents import INDEX, Documents, address

ROOT = Path(__file__).resolve().parent.parent.parent.parent
PAGES = [address(page) for page in Documents(ROOT).pages]
KINDS = {
    "Start": "index.html",
    "Tutorial": "docs/tutorial/first-function.html",
    "How-to": "docs/howto/limit-concurrency.html",
    "Reference": "docs/reference/settings.html",
    "Explanation": "docs/explanation/architecture.html",
    "Decisions": "docs/adr/2026-11-24-own-pull-loop.html",
    "Write-up": "docs/writeup.html",
    "Contributing": "CONTRIBUTING.html",
}
"""The parts of the navigation, each with a page of it."""
SHOWN = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")
WIDEST = [
    *KINDS.values(),
    *(f"docs/reference/{name}.html" for name in ("cli", "configuration", "errors", "performance")),
]
WIDER = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
TAB = "return [...document.querySelectorAll('.md-tabs__link')].find(tab => tab.textContent.trim() == arguments[0])"
LISTED = "return [...document.querySelectorAll('.md-nav--primary a.md-nav__link[href]')].map(link => link.href)"
PICTURES = "return [...document.querySelectorAll('article img')].map(i => [i.src, i.complete && i.naturalWidth])"


@pytest.fixture(params=["files", "server"])
def place(request: pytest.FixtureRequest, site: Path, server: str) -> str:
    """Where the site is read: its folder, or a web server."""
    return site.as_uri() if request.param == "files" else server


def outside(requests: list[str], place: str) -> list[str]:
    """The addresses that are not the site's; what a page carries within itself (data:) is asked of nobody."""
    assert any(each.startswith(place) for each in requests)
    return [each for each in requests if not each.startswith((f"{place}/", "data:"))]


def test_pages_open_without_a_complaint_and_ask_others_for_nothing(reader: Browser, place: str) -> None:
    """A page of each kind opens with an empty console, and requests go to the site only."""
    for page in KINDS.values():
        reader.open(f"{place}/{page}")
        assert reader.find("article h1").text
    assert reader.complaints() == []
    assert outside(reader.requests(), place) == []


@pytest.mark.parametrize("pages", [WIDEST, pytest.param(PAGES, marks=pytest.mark.long)], ids=["some", "all"])
def test_every_page_fits_a_narrow_window(reader: Browser, site: Path, pages: list[str]) -> None:
    """At 390 px no page of the site is wider than the window; what is wider scrolls in its own frame."""
    reader.look(width=PHONE)
    wider = {}
    for page in pages:
        reader.open(f"{site.as_uri()}/{page}")
        if over := reader.run(WIDER):
            wider[page] = over
    assert wider == {}
    assert reader.complaints() == []
    assert outside(reader.requests(), site.as_uri()) == []


def test_search_leads_to_the_page_with_the_word(reader: Browser, place: str) -> None:
    """A word typed letter by letter into the search is answered with a page that has it and opens at a click."""
    reader.open(f"{place}/{KINDS['Start']}")
    reader.find("[data-md-component=search-query]").send_keys("watchdog")
    reader.find("a.md-search-result__link").click()

    reader.until(lambda: urlsplit(reader.driver.current_url).path != f"{urlsplit(place).path}/index.html", "a page")
    assert "watchdog" in reader.find("article").text
    assert reader.complaints() == []
    assert outside(reader.requests(), place) == []


def test_the_navigation_leads_to_each_kind(reader: Browser, server: str) -> None:
    """From the start page each part of the navigation is one click away, and its pages another."""
    for part, page in KINDS.items():
        reader.open(f"{server}/index.html")
        reader.run(TAB, part).click()
        listed = reader.run(LISTED)
        assert f"{server}/{page}" in {reader.driver.current_url, *listed}, part
        assert reader.find(".md-tabs__item--active").text == part


def test_the_drawings_are_shown(reader: Browser, place: str) -> None:
    """Each drawing of each page is there and has been drawn."""
    documents, drawings = Documents(ROOT), 0
    for page in documents.pages:
        if names := [posixpath.basename(target) for target in SHOWN.findall(documents.text(page))]:
            reader.open(f"{place}/{address(page)}")
            shown = reader.run(PICTURES)
            assert [posixpath.basename(urlsplit(source).path) for source, _ in shown] == names
            assert all(width > 0 for _, width in shown), shown
            drawings += len(shown)
    assert drawings > 5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_as_light_as_the_system(reader: Browser, site: Path, scheme: str) -> None:
    """The page is dark for a reader whose system is, else light; its text stands out from it."""
    reader.look(scheme=scheme)
    reader.open(f"{site.as_uri()}/{KINDS['How-to']}")
    back, text = (
        sum(map(int, re.findall(r"\d+", reader.run(f"return getComputedStyle(document.body).{property_}"))[:3]))
        for property_ in ("backgroundColor", "color")
    )
    assert (back < text) == (scheme == "dark")
    assert abs(back - text) > 300


def test_a_block_of_code_is_copied_with_one_click(reader: Browser, server: str) -> None:
    """Each block of code has a button, which says that the code was copied."""
    reader.open(f"{server}/{KINDS['Tutorial']}")
    blocks = reader.all("article pre > code")
    buttons = reader.all("article [data-clipboard-target], article .md-code__button")
    assert len(blocks) == len(buttons) > 3
    reader.run("arguments[0].scrollIntoView({block: 'center'})", buttons[0])
    buttons[0].click()
    reader.until(lambda: "Copied" in reader.run("return document.body.innerText"), "the word that it was copied")


@pytest.fixture(scope="module")
def references(site: Path) -> dict[Path, References]:
    """Of each page of the site."""
    return {page: References(page) for page in site.rglob("*.html")}


def test_what_a_page_loads_is_in_the_site(references: dict[Path, References], site: Path) -> None:
    """No page names a script, style, picture or font elsewhere; links to elsewhere are only for a reader's click."""
    assert {page.relative_to(site).as_posix() for page in references} >= set(PAGES)
    for page, own in references.items():
        loaded = [target for tag, target in own.found if tag != "a"]
        assert len(loaded) > 3
        assert [target for target in loaded if urlsplit(target).scheme or target.startswith("/")] == [], page


def test_every_link_leads_somewhere(references: dict[Path, References], site: Path) -> None:
    """Each link leads to a file of the site or of the project beside it, and to a part that is there."""
    project = 0
    for page, own in references.items():
        for there, part in own.inner():
            assert there.exists(), f"{page.relative_to(site)}: {there}"
            if there in references and part:
                assert part in references[there].ids, f"{page.relative_to(site)}: {there.name}#{part}"
            project += ROOT in there.parents
    assert project > 100


def test_each_folder_of_pages_has_a_list_of_them(references: dict[Path, References], site: Path) -> None:
    """Every page is in the navigation, and the index of the documents leads to it within two clicks."""
    start = site / address(INDEX)
    near = {there for there, _ in references[start].inner()}
    near |= {there for page in near if page in references for there, _ in references[page].inner()}
    assert {site / page for page in PAGES} - near == set()


def test_comments_are_not_shown(site: Path, reader: Browser) -> None:
    """What stands in a page for its writers only is not in the site."""
    assert "<!-- Rows: D6. -->" in (ROOT / "docs/writeup.md").read_text()
    for page in PAGES:
        assert "Rows: D6" not in (site / page).read_text(), page
