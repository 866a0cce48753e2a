"""The security rules of the linter are on, and each exception has its reason."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
FOLDERS = ("src", "scripts", "tests", "bench", "examples")
OFF = {"S603", "S607"}  # that a program is started, and by its name: with a list of arguments, never a shell


def is_security(rule: str) -> bool:
    """Whether a rule is one of bandit's."""
    return re.fullmatch(r"S\d*", rule) is not None


def test_the_security_rules_are_on() -> None:
    """All but two, everywhere; the product itself has no exceptions by file."""
    assert "S" in LINT["select"]
    assert {rule for rule in LINT["ignore"] if is_security(rule)} == OFF
    by_file = {files: rules for files, rules in LINT["per-file-ignores"].items() if any(map(is_security, rules))}
    assert set(by_file) <= {"tests/**", "bench/**"}


def test_each_exception_has_its_reason() -> None:
    """Behind each `noqa` of a security rule stands why, and none is for all rules at once."""
    lines = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and (path.suffix == ".py" or folder == "scripts")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"# noqa(?!: [A-Z])|# noqa: .*\bS\d{3}", line) and "re.search" not in line
    ]
    assert len(lines) > 20

    assert [line for line in lines if not re.search(r"# noqa: [A-Z0-9, ]+ - \w", line)] == []
