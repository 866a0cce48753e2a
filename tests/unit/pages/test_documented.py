"""
All that a user or an operator can meet is documented, and nothing else is: each kind of thing, on the page that has it.

The names are taken from the pages as they are committed and from the code, not from what makes the pages.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import msgspec
import pytest

import mayfly.bus
import mayfly.domain
from mayfly.__main__ import compose
from mayfly.api.app import ROUTES
from mayfly.api.errors import MEANINGS
from mayfly.api.metrics import ApiMetrics
from mayfly.bus import subjects
from mayfly.cli.exits import EXITS
from mayfly.cli.reference import commands
from mayfly.domain.audit import Action
from mayfly.domain.function import OWN_VARIABLES
from mayfly.settings import ROLES, known_names
from mayfly.worker.metrics import WorkerMetrics
from pages import nats
from pages.cli import own_errors

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = ROOT / "docs/reference"
PAGES = [page for folder in ("docs", "deploy", "examples") for page in sorted((ROOT / folder).rglob("*.md"))]
ENDPOINT = re.compile(r"\b(GET|POST|PUT|PATCH|DELETE) (/(?:v1/[\w/{}.*-]+|healthz|readyz|docs|openapi\.json))")


def options_of_the_page(text: str) -> set[str]:
    """Each option of each command, with those that all users' commands have."""
    found = set()
    for section in text.split("\n## ")[1:]:
        name = section.partition("\n")[0].removeprefix("Options of every user's command").strip() or "mayfly whoami"
        items = re.findall(r"^- (`-.*?)(?:: |$)", section, re.MULTILINE)
        found |= {f"{name} {option}" for item in items for option in re.findall(r"(--?[a-z][a-z-]*)", item)}
    return found


def options_of_the_code() -> set[str]:
    """Likewise, from the commands."""
    common = {"--url", "--ca", "--json", "--verbose", "-v"}
    found = set()
    for name, command in commands(compose()):
        for option in command.params:
            if option.param_type_name == "option" and not getattr(option, "hidden", False):
                of_all = option.opts and set(option.opts) <= common and option.rich_help_panel
                found |= {f"{'mayfly whoami' if of_all else name} {each}" for each in option.opts}
    return found


def codes_with_statuses(text: str) -> set[str]:
    """The codes of the part of the command line's page on errors, and no others."""
    part = text.split("\n## Which error ends with which status\n")[1].split("\n## ", maxsplit=1)[0]
    return set(re.findall(r"\[`([a-z-]+)`\]\(errors", part)) | rows(r"\| `([a-z-]+)` \|")(part)


def rows(pattern: str) -> Callable[[str], set[str]]:
    """Find names at the beginning of lines."""
    return lambda text: set(re.findall(f"^{pattern}", text, re.MULTILINE))


@dataclass(frozen=True)
class Kind:
    """A kind of thing: the page that has it, the names on a page, and those in the code."""

    page: Path
    on: Callable[[str], set[str]]
    there: Callable[[], set[str]]


KINDS = {
    "settings": Kind(REFERENCE / "settings.md", rows(r"\| `(MAYFLY_\w+)` \|"), known_names),
    "settings, on the page of all configuration": Kind(
        REFERENCE / "configuration.md",
        lambda text: rows(r"\| `(MAYFLY_\w+)` \|")(text.split("\n## Fixed limits")[0]),
        known_names,
    ),
    "error codes": Kind(REFERENCE / "errors.md", rows(r"## ([a-z-]+)$"), lambda: {kind.code for kind in MEANINGS}),
    "metrics": Kind(
        REFERENCE / "metrics.md",
        rows(r"\| `(mayfly_\w+)` \|"),
        lambda: {each.name for role in (ApiMetrics(), WorkerMetrics()) for each in role.described},
    ),
    "commands": Kind(REFERENCE / "cli.md", rows(r"## (mayfly .*)$"), lambda: {name for name, _ in commands(compose())}),
    "options": Kind(REFERENCE / "cli.md", options_of_the_page, options_of_the_code),
    "exit statuses": Kind(
        REFERENCE / "cli.md",
        lambda text: rows(r"\| (\d+) \|")(text.split("\n## Which error")[0]),
        lambda: set(map(str, EXITS)),
    ),
    "codes with their exit statuses": Kind(
        REFERENCE / "cli.md",
        codes_with_statuses,
        lambda: {kind.code for kind in MEANINGS} | set(own_errors()) | {"refused"},
    ),
    "endpoints": Kind(
        REFERENCE / "api.md",
        rows(r"(?:### |\| )((?:GET|POST|PUT|PATCH|DELETE) /\S+)(?: \||$)"),
        lambda: {f"{method} {route.path}" for route in ROUTES for method in route.methods or ()},
    ),
    "streams and buckets": Kind(
        REFERENCE / "nats.md",
        lambda text: rows(r"### (\w+)$")(text.split("\n## Values")[0]),
        lambda: {subjects.ACT, subjects.RESPONSES, subjects.AUDIT, *subjects.BUCKETS},
    ),
    "subjects": Kind(
        REFERENCE / "nats.md",
        lambda text: rows(r"\| `([a-z]+\.[^`$]*)` \|")(text.split("\n## Subjects")[1].split("\n## ")[0]),
        lambda: {nats.SUBJECTS[name].subject for name in nats.subjects_in_the_code()},
    ),
    "stored structs": Kind(
        REFERENCE / "nats.md",
        lambda text: rows(r"### (\w+)$")(text.split("\n## Values")[1]),
        lambda: {struct.__name__ for struct in nats.structs()},
    ),
    "audit actions": Kind(
        ROOT / "docs/howto/see-who-did-what.md", rows(r"\| `([a-z]+\.[a-z-]+)` \|"), lambda: set(map(str, Action))
    ),
    "runtimes": Kind(
        REFERENCE / "runtimes.md",
        lambda text: rows(r"\| ([a-z]+) \|")(text.split("\n## ")[0]),
        lambda: set(get_args(ROLES["worker"].model_fields["runtime"].annotation)) - {"auto"},
    ),
    "variables of functions": Kind(
        REFERENCE / "functions.md", rows(r"\| `(MAYFLY_\w+)` \|"), lambda: set(OWN_VARIABLES)
    ),
    "scripts": Kind(
        REFERENCE / "scripts.md",
        rows(r"\| `(scripts/[\w-]+)` \|"),
        lambda: {f"scripts/{path.name}" for path in (ROOT / "scripts").iterdir() if path.is_file()},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_documented_and_no_other(kind: str) -> None:
    """What is added to the code and not documented fails here, and so does what a page has and the code does not."""
    each = KINDS[kind]
    documented, there = each.on(each.page.read_text()), each.there()

    assert there
    assert documented - there == set(), "documented, and not there"
    assert there - documented == set(), "there, and not documented"


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_page_is_noticed(kind: str) -> None:
    """Of a page without one of the names, or with another one, the test above would not be true."""
    each = KINDS[kind]
    text = each.page.read_text()
    for name in each.there():
        last = name.rpartition(" ")[2]
        changed = re.sub(rf"(?<![\w-]){re.escape(last)}(?![\w-])", f"{last}x" if last.isalnum() else f"{last}-x", text)
        assert each.on(changed) != each.there(), name


def test_every_struct_with_a_version_is_documented() -> None:
    """Whatever the rooms that speak of NATS give a version, so that another program can read it, is on its page."""
    for room in (mayfly.domain, mayfly.bus):
        for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
            importlib.import_module(module.name)
    there = {
        kind.__name__
        for kind in structs_below(msgspec.Struct)
        if kind.__module__.startswith(("mayfly.domain.", "mayfly.bus.")) and "v" in kind.__struct_fields__
    }

    assert len(there) > 15
    assert there - KINDS["stored structs"].on((REFERENCE / "nats.md").read_text()) == set()


def structs_below(kind: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    """All classes below one."""
    for below in kind.__subclasses__():
        yield below
        yield from structs_below(below)


def test_what_a_function_is_given_is_what_is_documented() -> None:
    """The worker sets these variables and no others of ours."""
    source = (ROOT / "src/mayfly/worker/call.py").read_text()

    assert set(re.findall(r'"(MAYFLY_\w+)"', source)) == set(OWN_VARIABLES)


def endpoints(text: str) -> Iterator[tuple[str, str]]:
    """Each method with a path that a page names."""
    for method, path in ENDPOINT.findall(text):
        yield method, path.rstrip(".").rstrip("/")


def test_every_endpoint_in_the_pages_exists() -> None:
    """A method and path that any page names is a route, whatever stands in the places of its parameters."""
    routes = [(method, re.sub(r"\{\w+\}", "[^/]+", route.path)) for route in ROUTES for method in route.methods or ()]
    seen = 0
    for page in PAGES:
        for method, path in endpoints(page.read_text()):
            seen += 1
            found = [form for known, form in routes if known == method and re.fullmatch(form, path)]
            assert found, f"{page}: {method} {path}"
    assert seen > 100


def test_an_endpoint_that_is_not_there_is_found_in_a_page() -> None:
    """The pattern finds what somebody would write, in a sentence, in code, with a query."""
    text = "Ask `GET /v1/colours?limit=2`, or POST /v1/colours/{name}/paint. PUT it."

    assert list(endpoints(text)) == [("GET", "/v1/colours"), ("POST", "/v1/colours/{name}/paint")]


KUMORIS = {"mayfly_api", "mayfly_gateway"}
"""Secrets of Kumori, which are called so."""


def test_every_metric_in_the_pages_exists() -> None:
    """A `mayfly_...` that a page names is a metric, or one of the series that a histogram makes."""
    known = KINDS["metrics"].there()
    series = {f"{name}{end}" for name in known for end in ("", "_bucket", "_sum", "_count")}
    seen = 0
    for page in PAGES:
        if page.name not in {
            "configuration.md",
            "gateway-checks.md",
        }:  # which have variables of nginx that are called so
            found = set(re.findall(r"`(mayfly_[a-z_]*[a-z])(?![a-z_])", page.read_text()))
            seen += len(found)
            assert found - KUMORIS <= series, page
    assert seen > 50


def test_every_script_in_the_pages_exists() -> None:
    """A `scripts/...` that a page names is there."""
    seen = 0
    for page in [*PAGES, *ROOT.glob("*.md")]:
        if page.name != "CHANGELOG.md":
            found = set(re.findall(r"(?<![\w/])scripts/([a-z][a-z0-9-]*)", page.read_text()))
            seen += len(found)
            assert {name for name in found if not (ROOT / "scripts" / name).exists()} == set(), page
    assert seen > 50


def test_every_code_that_a_page_names_with_its_status_exists() -> None:
    """A status and a code together, such as 429 `concurrency-limit`, are those of the table."""
    known = {(str(meaning.status), kind.code) for kind, meaning in MEANINGS.items()}
    seen = 0
    for page in PAGES:
        for status, code in re.findall(r"\b([45]\d\d),? `([a-z]+(?:-[a-z]+)+)`", page.read_text()):
            seen += 1
            assert (status, code) in known, f"{page}: {status} {code}"
    assert seen > 5


VERBS = """
    admin bootstrap cancel check create delete import inspect install invite invoke kill list login logout mayfly
    register render reseal restore resume rotate set show suspend undrain unpack up update whoami
"""
"""What commands do, and `admin`, below which operators' commands are."""

UNITS = """
    actions after build bytes connected created current duration info left lost messages not reconnects removed seconds
    timestamp total use
"""
"""What a metric's name says beside the noun that it is of."""

PATHS = "v1 admin me current docs openapi.json healthz readyz"


def nouns() -> set[str]:
    """Each noun of the API's paths, of the commands, and of the metrics and their labels, as it stands there."""
    described = [each for role in (ApiMetrics(), WorkerMetrics()) for each in role.described]
    paths = {part for route in ROUTES for part in route.path.split("/") if part and "{" not in part}
    words = {word for name, _ in commands(compose()) for word in name.split()}
    metrics = {part for each in described for part in each.name.removeprefix("mayfly_").split("_")}
    labels = {label for each in described for label in each.labels}
    known = {*PATHS.split(), *VERBS.split(), *UNITS.split()}
    return (paths | words | metrics | labels) - known


def entries(glossary: str) -> set[str]:
    """The words of the glossary's first column, each in the forms in which it may stand."""
    columns = " ".join(re.findall(r"^\| (.*?) \|", glossary, re.MULTILINE)).lower()
    words = set(re.findall(r"[a-z]+", columns))
    return words | {f"{word}s" for word in words} | {word[:-1] + "ies" for word in words if word.endswith("y")}


def test_every_noun_is_in_the_glossary() -> None:
    """One word for one thing: what the API, the commands and the metrics speak of is explained in one place."""
    missing = nouns() - entries((REFERENCE / "glossary.md").read_text())

    assert len(nouns()) > 40
    assert missing == set()


def test_a_noun_that_is_not_in_the_glossary_is_noticed() -> None:
    """Without the row of a noun the test above would fail."""
    without = re.sub(r"^\| (slot|invitation) \|.*\n", "", (REFERENCE / "glossary.md").read_text(), flags=re.MULTILINE)

    assert nouns() - entries(without) == {"slots", "invitations"}
