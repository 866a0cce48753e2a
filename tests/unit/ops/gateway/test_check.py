"""`mayfly gateway check`: the good files have no problem, and each planted mistake has exactly its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mayfly.ops.certificates import ensure_certificates
from mayfly.ops.gateway.check import FORMS, RULES, problems, problems_of_files
from mayfly.ops.gateway.checks.nginx import lua_blocks
from mayfly.ops.gateway.checks.plugin_forms import PLUGINS
from mayfly.ops.gateway.checks.problem import CONFIG, ROUTES, Problem
from mayfly.ops.gateway.checks.read import SIZE_MAX_BYTES, parse
from mayfly.ops.gateway.checks.rule import Gateway
from mayfly.ops.gateway.checks.shape import Shape, demands
from mayfly.ops.gateway.checks.words import form_problems
from mayfly.ops.gateway.material import Material
from mayfly.ops.gateway.render import Rendered, render
from mayfly.ops.gateway.static import PLUGINS as LOADED
from mayfly.settings import GatewaySettings
from tests.unit.ops.gateway.planted import BETWEEN_VALUES, DELETED, FORM, MISTAKES, Files, Mistake, public_key

pytestmark = [pytest.mark.A1, pytest.mark.D3]

ROOT = Path(__file__).resolve().parents[4]
SECRET = "S" * 43


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """A real certificate with its key, two token keys, and a secret."""
    directory = tmp_path_factory.mktemp("gateway")
    ensure_certificates(directory, hosts=("localhost",))
    certificate, key = ((directory / name).read_text() for name in ("server.crt", "server.key"))
    return Material(certificate, key, SECRET, {"k1": public_key(), "k2": public_key()})


@pytest.fixture(scope="module")
def good(material: Material) -> Rendered:
    """What is rendered by default."""
    return render(GatewaySettings(), material)


# The good files


def test_the_committed_files_are_good() -> None:
    """deploy/apisix has no problem, as a template."""
    texts = [(ROOT / "deploy/apisix" / name).read_text() for name in (CONFIG, ROUTES)]
    assert problems(*texts, template=True) == []


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="default"),
        pytest.param({"gateway_api": ("api.mayfly:8443",), "gateway_api_discovery": "dns"}, id="dns"),
        pytest.param({"gateway_hosts": ("faas.example", "10.0.0.1")}, id="hosts"),
        pytest.param({"gateway_clear_text": True, "gateway_trusted_proxies": ("10.0.0.0/8",)}, id="behind-a-proxy"),
        pytest.param({"gateway_profile": "test"}, id="test"),
        pytest.param({"max_activations_per_user": 1000, "max_activations": "none"}, id="large-u"),
        pytest.param({"max_activations_per_user": "none", "max_activations": "none"}, id="no-u"),
    ],
)
def test_what_is_rendered_is_good(settings: dict[str, Any], material: Material) -> None:
    """Whatever the settings are, what the gateway's own commands write has no problem."""
    given = GatewaySettings(**settings)
    files = render(given, material)
    assert problems(files.config, files.routes, settings=given) == []


# Planted mistakes


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_has_its_problem(mistake: Mistake, good: Rendered, material: Material) -> None:
    """One problem, at the place of the edit, in words that say what is wrong, and without a secret."""
    files = edited(mistake, good)
    found = problems(*files.texts, settings=mistake.made_for)

    assert [problem.where for problem in found] == [mistake.where], found
    assert [word for word in mistake.words if word not in found[0].message] == []
    assert not shows_a_secret(found, material)


def test_mistakes_have_names_of_their_own() -> None:
    """A failing test's name says which mistake it is."""
    assert len({mistake.name for mistake in MISTAKES}) == len(MISTAKES)


def test_each_rule_finds_a_planted_mistake(good: Rendered) -> None:
    """No rule is there that nothing planted is found by, and each planted one is found by one rule."""
    finders = set()
    for mistake in BETWEEN_VALUES:
        gateway = Gateway(*edited(mistake, good).trees, mistake.made_for)
        by = [rule.name for rule in RULES if list(rule.find(gateway))]
        assert len(by) == 1, (mistake.name, by)
        finders.add(by[0])

    assert {rule.name for rule in RULES} == finders


def test_the_form_comes_before_the_rules(good: Rendered) -> None:
    """With a wrong form rules are not asked: they may rely on what is there."""
    files = edited(FORM[0], good)
    files.put("upstreams[api].timeout.read", 60)
    assert [problem.where for problem in problems(*files.texts)] == [FORM[0].where]


def test_all_mistakes_are_told_at_once(good: Rendered) -> None:
    """Whoever corrects files sees everything that one step finds, in both files."""
    files = Files(good.config, good.routes)
    files.put("apisix.enable_http2", True)
    files.put("upstreams[api].retries", 3)
    assert [(found.file, found.where) for found in problems(*files.texts)] == [
        (CONFIG, "apisix.enable_http2"),
        (ROUTES, "upstreams[api].retries"),
    ]


def test_a_problem_is_one_line() -> None:
    """File, place and message."""
    assert str(Problem(ROUTES, "routes[api].id", "is missing.")) == "apisix.yaml: routes[api].id: is missing."
    assert str(Problem(CONFIG, "", "is empty.")) == "config.yaml: is empty."


def test_a_problem_is_one_line_whatever_names_are() -> None:
    """A key from a file can neither begin a line of a log nor fill it."""
    said = str(Problem(CONFIG, "a\nERROR all is lost\x1b[2J" + "x" * 5000, "is no key."))
    assert said.startswith("config.yaml: a?ERROR")
    assert said.isprintable()
    assert len(said) == 1000


# Every fixed value, every needed key, every mapping


@pytest.mark.parametrize("name", [CONFIG, ROUTES])
def test_no_key_can_be_misspelt(name: str, good: Rendered) -> None:
    """Wherever there is a mapping of ours, a key that nobody knows is found there."""
    content = parsed(good, name)
    closed = [(at, value) for at, value, shape in shaped(content, FORMS[name]) if shape.get("x-kind")]
    assert len(closed) > 10
    for at, value in closed:
        value["zzz"] = 1
        found = list(form_problems(content, FORMS[name], name))
        del value["zzz"]
        assert [problem.where for problem in found] == [f"{at}.zzz".lstrip(".")]


@pytest.mark.parametrize("name", [CONFIG, ROUTES])
def test_no_needed_key_can_be_lost(name: str, good: Rendered) -> None:
    """Each key that a form needs is missed where it is taken away."""
    content, count = parsed(good, name), 0
    for at, value, shape in shaped(content, FORMS[name]):
        for key in shape.get("required", ()):
            kept = value.pop(key)
            found = list(form_problems(content, FORMS[name], name))
            value[key] = kept
            count += 1
            assert [problem.message.split(":")[0] for problem in found] == ["is missing"], (at, key)
    assert count > 30


@pytest.mark.parametrize("name", [CONFIG, ROUTES])
def test_no_fixed_value_can_change(name: str, good: Rendered) -> None:
    """Each value that is fixed is missed where another one stands in its place, with the reason."""
    content, count = parsed(good, name), 0
    for _, value, shape in shaped(content, FORMS[name]):
        for key, inner in shape.get("properties", {}).items():
            if "const" in inner and key in value:
                kept, value[key] = value[key], "something else"
                found = list(form_problems(content, FORMS[name], name))
                value[key] = kept
                count += 1
                assert [problem.message.endswith(inner["description"]) for problem in found] == [True], key
    assert count > 5


def test_no_edit_is_too_much(good: Rendered) -> None:
    """Whatever is deleted, or becomes another text, is either found or harmless, and never breaks the check."""
    files, found = Files(good.config, good.routes), 0
    for owner, key, value in [edge for tree in files.trees for edge in edges(tree)]:
        for instead in (DELETED, "x"):
            if instead is not DELETED:
                owner[key] = instead
            elif isinstance(owner, dict):
                del owner[key]
            found += not is_good(files)
            owner[key] = value
    assert found > 400, found


def test_reasons_are_sentences() -> None:
    """What is demanded has a reason that ends as a sentence does."""
    for name, form in FORMS.items():
        for where, shape in demands(form):
            assert shape["description"].endswith("."), (name, where)
    assert [rule.name for rule in RULES if not rule.promise.endswith(".")] == []


def test_lua_ends_at_its_own_brace() -> None:
    """Braces in texts and comments of a snippet's Lua do not count, as for nginx."""
    snippet = "location / { # it's Lua\n content_by_lua_block { local a = '{' --}\n return {} } }\n"
    assert list(lua_blocks(snippet)) == [" local a = '{' --}\n return {} "]


def test_the_plugins_are_those_that_are_loaded() -> None:
    """The form knows exactly the plugins that the gateway's config.yaml names."""
    assert set(LOADED) == PLUGINS


# Files that cannot be read


BOMB = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [*{before}, *{before}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)

UNREADABLE = [
    ("no-end", lambda text: text.removesuffix("#END\n"), "end", "#END is missing"),
    ("end-not-last", lambda text: text + "# more than ten characters\n", "end", "something follows #END"),
    ("no-yaml", lambda text: "routes: [s3cr3t\n#END\n", "line 3", "is not YAML"),
    ("tab", lambda text: "routes:\n\t- s3cr3t\n#END\n", "line 2", "is not YAML"),
    (
        "key-twice",
        lambda text: text.replace("  retries: 0\n", "  retries: 0\n  retries: 0\n"),
        "upstreams[0].retries",
        "is there twice",
    ),
    ("key-of-the-top-twice", lambda text: "routes: []\n" + text, "routes", "is there twice"),
    ("bomb", lambda text: BOMB + "#END\n", "line 1", "anchor"),
    ("huge", lambda text: "#" * (SIZE_MAX_BYTES + 1), "", "the most that is read"),
    ("huge-in-bytes", lambda text: "#" + "ü" * (SIZE_MAX_BYTES // 2) + "\n#END\n", "", "the most that is read"),
    ("many", lambda text: "routes: [" + "x," * 30_000 + "]\n#END\n", "line 1", "more than 10,000 values"),
    ("deep", lambda text: "routes: " + "[" * 100_000 + "\n#END\n", "line 1", "deeper than 24 levels"),
    ("python", lambda text: "routes: !!python/object/apply:os.system [s3cr3t]\n#END\n", "line 1", "YAML tag"),
    ("binary", lambda text: "routes: !!binary AAAA\n#END\n", "line 1", "YAML tag"),
    ("two-documents", lambda text: "---\nroutes: []\n---\nroutes: []\n#END\n", "line 3", "is not YAML"),
    ("merged", lambda text: "routes: {<<: {a: 1}}\n#END\n", "routes", "merges another mapping"),
    ("number-as-key", lambda text: "1: s3cr3t\n#END\n", "", "not a text"),
    ("endless-number", lambda text: f"routes: {'9' * 5000}\n#END\n", "", "cannot be read"),
    ("no-date", lambda text: "routes: 2020-99-99\n#END\n", "", "cannot be read"),
    ("nul", lambda text: "routes: \0\n#END\n", "", "is not YAML"),
    ("list", lambda text: "- routes\n#END\n", "", "must be a mapping"),
    ("empty", lambda text: "#END\n", "", "must be a mapping"),
    ("placeholder", lambda text: text.replace(SECRET, "${{GATEWAY_SECRET}}"), None, "a placeholder was left"),
    ("placeholder-in-a-comment", lambda text: "# ${{GATEWAY_SECRET:=x}}\n" + text, "line 1", "in a comment counts"),
]


@pytest.mark.parametrize(("name", "edit", "where", "words"), UNREADABLE, ids=[case[0] for case in UNREADABLE])
def test_an_unreadable_file_is_refused(
    name: str, edit: Callable[[str], str], where: str | None, words: str, good: Rendered, material: Material
) -> None:
    """One problem, within two seconds of one core, and without what is in the file."""
    begin = time.process_time()
    found = problems(good.config, edit(good.routes))

    assert time.process_time() - begin < 2.0
    assert [words in problem.message for problem in found] == [True], found
    assert where is None or found[0].where == where
    assert not shows_a_secret(found, material)


def test_both_files_are_read_so() -> None:
    """A wrong config.yaml does not hide a wrong apisix.yaml."""
    assert [found.file for found in problems("a: [", "b: [\n#END\n")] == [CONFIG, ROUTES]


def test_a_file_that_is_no_text(tmp_path: Path, good: Rendered) -> None:
    """Bytes that are not UTF-8 are named by their place."""
    config, routes = tmp_path / CONFIG, tmp_path / ROUTES
    config.write_text(good.config)
    routes.write_bytes(b"routes: \xff\xfe\n#END\n")
    assert [str(found) for found in problems_of_files(config, routes)] == [
        "apisix.yaml: byte 8: is not UTF-8; render the file again."
    ]


def test_a_file_that_is_not_there_or_too_large(tmp_path: Path) -> None:
    """Said of each, and no more is read than is allowed."""
    routes = tmp_path / ROUTES
    routes.write_bytes(b"#" * (SIZE_MAX_BYTES + 1))
    missing, large = problems_of_files(tmp_path / CONFIG, routes)
    assert (missing.file, large.file) == (CONFIG, ROUTES)
    assert "cannot be read: No such file" in missing.message
    assert "the most that is read" in large.message


def test_good_files_are_read_from_their_places(tmp_path: Path, good: Rendered) -> None:
    """The same answer as for texts."""
    config, routes = tmp_path / CONFIG, tmp_path / ROUTES
    config.write_text(good.config)
    routes.write_text(good.routes)
    assert problems_of_files(config, routes) == []


def edited(mistake: Mistake, good: Rendered) -> Files:
    """Good files with one mistake."""
    files = Files(good.config, good.routes)
    mistake.edit(files)
    return files


def parsed(good: Rendered, name: str) -> dict[str, Any]:
    """One of the good files, as a tree."""
    return parse({CONFIG: good.config, ROUTES: good.routes}[name], name)


def shaped(value: Any, shape: Shape, at: str = "") -> Iterator[tuple[str, Any, Shape]]:
    """Go through a tree and its form side by side, mapping by mapping."""
    if isinstance(value, list) and "items" in shape:
        for index, item in enumerate(value):
            name = item.get("id", index) if isinstance(item, dict) else index
            yield from shaped(item, shape["items"], f"{at}[{name}]")
    elif isinstance(value, dict):
        yield at, value, shape
        for key, inner in list(value.items()):
            if key in shape.get("properties", {}):
                yield from shaped(inner, shape["properties"][key], f"{at}.{key}" if at else key)


def edges(value: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Go through a tree: whatever has something, under which key, and what."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key, inner
        if isinstance(inner, dict | list):
            yield from edges(inner)


def is_good(files: Files) -> bool:
    """Whether forms and rules find nothing."""
    for name, tree in zip((CONFIG, ROUTES), files.trees, strict=True):
        if any(form_problems(tree, FORMS[name], name)):
            return False
    return not any(list(rule.find(Gateway(*files.trees, GatewaySettings()))) for rule in RULES)


def shows_a_secret(found: list[Problem], material: Material) -> bool:
    """Whether a message has a piece of what may not be told."""
    said = " ".join(map(str, found))
    pieces = [line for line in material.key.splitlines() if "KEY" not in line]
    return any(piece in said for piece in [*pieces, SECRET[:8], "s3cr3t", "-----"])
