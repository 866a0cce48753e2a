"""The project's own rules, as far as a program can tell: names, docstrings, locks, versions, what may be committed."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mayfly
from tests.support.need import need
from tests.support.rows import claims, implemented

ROOT = Path(__file__).resolve().parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
ROWS = [*(f"F{n}" for n in range(1, 14)), *(f"A{n}" for n in range(1, 6)), *(f"D{n}" for n in range(1, 8))]
LOCKED = re.compile(r"^([a-z0-9][a-z0-9-]*)==(\S+)", re.MULTILINE)

# Addresses of package indexes, and places of somebody's own machine. As they are written here, they do not match.
INDEXES = re.compile(r"https?://[^\s/]+/(?:simple|packages|debian|ubuntu)\b")
PLACES = re.compile(r"""(?:^|[\s"'=(`:,])/(?:root|work|Users|home/[a-z]\w*)/""", re.MULTILINE)


def relative(path: Path) -> str:
    """Return the path as one writes it in the project."""
    return str(path.relative_to(ROOT))


def tracked() -> Iterator[tuple[str, str]]:
    """Return the text files in git with their text."""
    need((ROOT / ".git").exists(), "a git checkout")
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            yield name, (ROOT / name).read_text(encoding="utf-8", errors="replace")


def locked(name: str) -> dict[str, str]:
    """Return the versions that a lock file names."""
    return dict(LOCKED.findall((ROOT / name).read_text(encoding="utf-8")))


def unmet(requirements: list[str], versions: dict[str, str]) -> list[str]:
    """Return those of *requirements* that *versions* do not meet."""
    wanted = map(Requirement, requirements)
    return [str(each) for each in wanted if versions.get(canonicalize_name(each.name), "none") not in each.specifier]


def test_the_package_says_the_version_of_the_project() -> None:
    """`mayfly --version` is the version in pyproject.toml."""
    assert mayfly.__version__ == PROJECT["project"]["version"]


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_every_locked_file_has_its_hash_and_no_address(name: str) -> None:
    """Everything in a lock file has hashes, and nothing in it says where to fetch it."""
    text = (ROOT / name).read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[a-z0-9])", text[text.index("\nannotated") :].strip())
    assert len(entries) > 30
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert re.findall(r"://|@ |--(?:extra-)?index|--find-links|--trusted", text) == []


def test_what_runs_is_locked_at_the_version_it_asks_for() -> None:
    """requirements.lock meets every dependency of pyproject.toml: after a change there, scripts/lock was run."""
    assert unmet(PROJECT["project"]["dependencies"], locked("requirements.lock")) == []


def test_what_tests_and_builds_is_locked_beside_the_very_same_versions() -> None:
    """requirements-dev.lock meets the dev group and the build backend, and repeats requirements.lock exactly."""
    develop = locked("requirements-dev.lock")
    assert unmet(PROJECT["dependency-groups"]["dev"] + PROJECT["build-system"]["requires"], develop) == []
    assert locked("requirements.lock").items() <= develop.items()


def test_every_dependency_and_package_has_its_reason() -> None:
    """Beside each dependency in pyproject.toml and each apt package in scripts/packages stands what needs it."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = text[text.index("\ndependencies = [") : text.index("[project.scripts]")]
    lines = [line for line in block.splitlines() if line.strip().startswith('"')]
    lines += [line for line in (ROOT / "scripts/packages").read_text(encoding="utf-8").splitlines() if line]
    assert len(lines) > 25
    assert [line for line in lines if "# " not in line] == []


def test_no_address_of_an_index_and_no_place_of_a_machine_is_committed() -> None:
    """No tracked file names a package index or a path that only one machine has."""
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0].strip()}"
        for name, text in tracked()
        for match in (*INDEXES.finditer(text), *PLACES.finditer(text))
    ]
    assert found == []


@pytest.mark.parametrize("place", ["cd /{}/a", '"/{}/a"', "HOME=/{}/x", "PATH=/bin:/{}/bin"])
def test_a_place_of_a_machine_is_noticed(place: str) -> None:
    """The rule above sees a private directory wherever it may stand, and passes an image's own."""
    assert PLACES.search(place.format("root"))
    assert not PLACES.search(place.format("usr"))
    assert not PLACES.search("root:x:0:0::/root:/bin/sh and /proc/1/root/etc")


def test_no_file_is_named_for_nothing() -> None:
    """No module is called utils, helpers, common or misc: it is named for the one thing it holds."""
    vague = {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "misc.py"}
    assert [relative(path) for path in SOURCES + TESTS if path.name in vague] == []


def test_every_module_of_the_source_says_what_it_is_for() -> None:
    """Each module in src/mayfly has a docstring."""
    assert [relative(path) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text("utf-8")))] == []


def test_every_test_is_one_promise() -> None:
    """Each test has a docstring."""
    lacking = [
        f"{relative(path)}:{node.lineno} {node.name}"
        for path in TESTS
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert lacking == []


def test_every_test_lies_in_a_suite() -> None:
    """scripts/test finds every test: there is none outside the nine suites."""
    suites = {"unit", "contract", "integration", "e2e", "docs", "attacks", "chaos", "bench", "compose"}
    files = [path.relative_to(ROOT / "tests") for path in TESTS if path.name.startswith("test_")]
    assert [str(path) for path in files if path.parts[0] not in suites] == []


def test_only_the_settings_read_the_environment() -> None:
    """No other module of src/mayfly reads a variable, except PATH for the programs it starts."""
    found = [
        f"{relative(path)}:{line}"
        for path in SOURCES
        if path != ROOT / "src/mayfly/settings.py"
        for line in environment_reads(ast.parse(path.read_text("utf-8")))
    ]
    assert found == []


def environment_reads(module: ast.Module) -> list[int]:
    """Return the lines where a module reads a variable other than PATH."""
    harmless = {id(use) for node in ast.walk(module) for use in harmless_uses(node)}
    names = {"environ", "environb", "getenv", "getenvb"}
    used = [n for n in ast.walk(module) if isinstance(n, ast.Attribute) and n.attr in names and id(n) not in harmless]
    imported = [n for n in ast.walk(module) if isinstance(n, ast.ImportFrom) and names & {a.name for a in n.names}]
    return sorted([node.lineno for node in used] + [node.lineno for node in imported])


def harmless_uses(node: ast.AST) -> Iterator[ast.AST]:
    """Find `os.environ.get("PATH", ...)` and `os.environ["X"] = ...`."""
    match node:
        case ast.Call(func=ast.Attribute(value=environ, attr="get"), args=[ast.Constant(value="PATH"), *_]):
            yield environ
        case ast.Subscript(value=environ, ctx=ast.Store()):
            yield environ


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("import os\nos.environ['A']", [2]),
        ("import os\nos.getenv('A')", [2]),
        ("import os\nf(os.environ)", [2]),
        ("from os import environ", [1]),
        ("import os\nos.environ.get('PATH', 'x')\nos.environ['HOME'] = '/'", []),
    ],
)
def test_reading_the_environment_is_noticed(code: str, lines: list[int]) -> None:
    """The rule above sees every way to read a variable, and lets PATH and assignments pass."""
    assert environment_reads(ast.parse(code)) == lines


def test_every_row_of_the_mission_is_a_marker() -> None:
    """F1 to F13, A1 to A5 and D1 to D7 can be given to `pytest -m`."""
    registered = [line.partition(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]]
    assert [row for row in ROWS if row not in registered] == []


def test_a_file_claims_rows_in_one_form_only() -> None:
    """`Rows: F1, F2.` claims two, also over a line's end; another form claims none and is therefore refused."""
    assert claims("It does much. Rows: F1, F12,\nA3.") == ["F1", "F12", "A3"]
    assert [
        relative(path) for path in SOURCES if "Rows:" in (text := path.read_text("utf-8")) and not claims(text)
    ] == []
    assert set(implemented()) <= set(ROWS)


def test_the_time_budgets_fit_into_30_minutes() -> None:
    """Checks and suites of scripts/test may take 30 minutes together, no more."""
    text = (ROOT / "scripts/test").read_text(encoding="utf-8")
    budgets = [int(minutes) for minutes in re.findall(r"\w+:(\d+)", text.partition("SUITES=(")[2].partition(")")[0])]
    checks = re.search(r"^CHECK_MINUTES=(\d+)$", text, re.MULTILINE)
    assert checks
    assert len(budgets) == 10
    assert sum(budgets) + int(checks[1]) <= 30


def test_continuous_integration_runs_the_command_of_the_readme() -> None:
    """.ci/run ends in scripts/test, which the README names."""
    assert (ROOT / ".ci/run").read_text(encoding="utf-8").rstrip().endswith("exec scripts/test")
    assert "scripts/test" in (ROOT / "README.md").read_text(encoding="utf-8")
