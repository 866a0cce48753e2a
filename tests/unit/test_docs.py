"""The docs name what is there."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from mayfly.__main__ import compose
from mayfly.cli.reference import commands
from mayfly.domain.activation import TRANSITIONS, State
from mayfly.domain.function import OWN_VARIABLES
from mayfly.settings import READ_ELSEWHERE, known_names
from pages import settings, transitions

ROOT = Path(__file__).parent.parent.parent
LIFE = (ROOT / "docs/explanation/life-of-an-activation.md").read_text()
FOLDERS = ("docs", "deploy", "examples", "changes")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).glob("**/*.md"))])


@pytest.mark.D6
def test_a_call_is_followed_in_under_ten_hops() -> None:
    """The page names fewer than ten functions, in order, and each exists."""
    hops = re.findall(r"^\| (\d+) \| `(mayfly[\w.]+)` \|", LIFE, re.MULTILINE)

    assert [int(number) for number, _ in hops] == list(range(1, len(hops) + 1))
    assert 5 < len(hops) < 10
    for _, name in hops:
        assert callable(resolve(name)), name


def test_every_name_of_the_code_in_the_docs_exists() -> None:
    """What the pages call by its full name can be imported; a domain of Kubernetes (`mayfly.svc...`) is no name."""
    for page in PAGES:
        for name in re.findall(r"`(mayfly(?!\.svc\.)(?:\.\w+){2,})`", page.read_text()):
            resolve(name)


def test_the_transitions_are_those_of_the_code() -> None:
    """The table of states in the docs is the table in the code."""
    rows = re.findall(r"^\| `([a-z-]+)` \| ((?:`[a-z-]+`(?:, )?)+) \|$", LIFE, re.MULTILINE)
    documented = {state: set(re.findall(r"`([a-z-]+)`", after)) for state, after in rows}

    assert documented == {str(state): {str(one) for one in after} for state, after in TRANSITIONS.items() if after}


def test_the_transitions_are_drawn_from_the_code() -> None:
    """The page's drawing is mended where it was changed by hand, and has each step of the code once."""
    assert transitions.page(LIFE.replace("─> worker-lost", "─> lost")) == LIFE
    states = [re.sub(r"[^a-z-]", "", line).lstrip("-") for line in transitions.drawing()]
    assert Counter(states) == Counter(
        map(str, [State.QUEUED, *(one for after in TRANSITIONS.values() for one in after)])
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link of a page leads to a file or folder of the project."""
    for target in links(page):
        assert (page.parent / target).exists(), target


def test_the_index_leads_to_every_page() -> None:
    """Each page below docs/ is linked by the index itself, or is in a folder that the index links."""
    docs = ROOT / "docs"
    targets = {(docs / target).resolve() for target in links(docs / "index.md")}
    assert len(targets) > 10

    lost = [path for path in docs.rglob("*.md") if not targets & {path, path.parent}]
    assert [str(path.relative_to(docs)) for path in lost] == ["index.md"]


def test_links_into_a_page_lead_to_a_heading() -> None:
    """A link to a part of a page names a heading that this page has."""
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]*)\)", page.read_text()):
            there = (page.parent / target).resolve() if target else page
            if there.suffix == ".md":
                assert anchor in anchors(there), f"{page.relative_to(ROOT)}: {target}#{anchor}"


def links(page: Path) -> list[str]:
    """The relative links of a page, without the part of the page that they lead to."""
    return re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in a link."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_command_in_the_pages_exists() -> None:
    """Each `mayfly ...` that a page names or has a reader type is a command, with the options that it has."""
    known = dict(commands(compose()))
    seen = 0
    for page in PAGES:
        for line in typed(page.read_text()):
            seen += 1
            name = next((name for name in known if f"{line} ".startswith(f"{name} ")), None)
            assert name, f"{page.relative_to(ROOT)}: {line}"
            given = re.findall(r"(?<=\s)--[a-z][a-z-]*", line.partition(" -- ")[0])
            options = {option for each in known[name].params for option in (*each.opts, *each.secondary_opts)}
            assert set(given) <= options | {"--help"}, f"{page.relative_to(ROOT)}: {line}"
    assert seen > 100


def test_every_variable_in_the_pages_exists() -> None:
    """Each MAYFLY_... that a page names is a setting, a variable that a function gets, or one that carries secrets."""
    mistaken = {name for _, name, _ in settings.MISTAKES}  # shown with what is said of them
    known = (
        known_names()
        | mistaken
        | READ_ELSEWHERE
        | set(OWN_VARIABLES)
        | {"MAYFLY_SECRETS_BUNDLE", "MAYFLY_SECRETS_ARCHIVE"}
    )
    for page in PAGES:
        found = set(re.findall(r"\bMAYFLY_[A-Z0-9_]*[A-Z0-9]\b(?!\.\.\.|_)", page.read_text()))
        assert found <= known, page


def typed(text: str) -> Iterator[str]:
    """The command lines of `mayfly` in a page, in blocks and within sentences."""
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    for line in [*blocks.splitlines(), *re.findall(r"`([^`\n]+)`", text)]:
        command = re.match(r"\s*(?:\$ )?(?:sudo )?(?:[A-Z_]+=\S+ +)*(?:\.venv/bin/)?(mayfly [a-z].*)", line)
        if command:
            yield command[1]


def resolve(name: str) -> object:
    """Import what a dotted name means: a module, or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"{name} is not there")


def test_each_sentence_of_the_promise_has_its_tests() -> None:
    """The page has the promise, a section for each of its sentences, and in each section tests that are there."""
    page = (ROOT / "docs/reference/promise.md").read_text()
    promise = " ".join(line.removeprefix("> ") for line in page.splitlines() if line.startswith("> "))
    sections = page.split("\n## ")[1:]

    assert len(sections) == 9
    for section in sections:
        clause = section.splitlines()[0]
        assert clause.lower() in promise.lower(), clause
        tests = re.findall(r"\[(test_\w+)\]\(\.\./\.\./(tests/[\w/]+\.py)\)", section)
        assert tests, clause
        for name, file in tests:
            assert re.search(rf"def {name}\(", (ROOT / file).read_text()), name
