"""The commands of the write-up's table of requirements, typed at a real installation: each shows what its row says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.page import ROOT, commands
from tests.support.up import PASSWORD, Up, running_up

TAKES_S = 60
ROW = re.compile(r"^\| (?P<id>[FAD]\d[\d.]*) \|.*\| `(?P<command>(?:[^`])+)`(?::[^|]*)? \|$", re.MULTILINE)
ELSEWHERE = {
    "F12": "takes 10 s",
    "F13": "takes 10 s; tests/e2e/test_limits.py races for the limit",
    **dict.fromkeys(
        ("A1", "D1", "D2", "D4", "D5", "D6", "D6.4", "D6.7", "D7"), "a suite, a build or a bench of its own"
    ),
    "D3": "needs no installation",
    "D6.3": "needs no installation",
}
"""Rows whose command is not typed here, and why."""


@dataclass
class Reader:
    """Somebody at a terminal, with the table before him, whose words lead to this installation."""

    up: Up
    registry: str
    directory: Path
    rows: dict[str, str]
    typed: set[str] = field(default_factory=set)

    def types(self, row: str, *, of: str = "ID", status: int = 0) -> str:
        """Type the command of a row, *of* in the place of an id, and return what it printed on stdout and stderr."""
        self.typed.add(row)
        return self.says(self.rows[row].replace("ID", of), status=status)

    def says(self, line: str, *, status: int = 0) -> str:
        """Type a line, and return what it printed."""
        ended = self.ends(line)
        assert ended.returncode == status, f"{line}: status {ended.returncode}\n{ended.stdout}{ended.stderr}"
        return ended.stdout + ended.stderr

    def ends(self, line: str) -> subprocess.CompletedProcess[str]:
        """Type a line, and return how it ended."""
        line = line.replace("https://127.0.0.1:8443", self.up.url)
        line = line.replace("/var/lib/mayfly/ca.crt", str(self.up.ca_file))
        line = line.replace("http://127.0.0.1:8443", self.up.url.replace("https:", "http:"))
        line = re.sub(r"\bbusybox\b", f"{self.registry}/busybox", line)
        line = re.sub(r"(mayfly register \w+)", rf"\1 --password-stdin <<<'{PASSWORD}'", line)
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.directory),
            "COLUMNS": "160",
            "LC_ALL": "C.UTF-8",
            "MAYFLY_URL": self.up.url,
            "MAYFLY_CA_FILE": str(self.up.ca_file),
            "MAYFLY_DATA_DIR": str(self.up.data_dir),
        }
        return subprocess.run(
            ["bash", "-c", line],
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TAKES_S,
            check=False,
        )


@pytest.mark.D6
def test_each_command_shows_what_its_row_says(registry: str, tmp_path: Path) -> None:
    """From the registration to the deregistration, as a reader of the table would type them."""
    page = (ROOT / "docs/writeup.md").read_text(encoding="utf-8")
    rows = {row["id"]: row["command"].replace("\\|", "|") for row in ROW.finditer(page)}

    with running_up(registry, slots=8) as up:
        reader = Reader(up, registry, tmp_path, rows)
        types = reader.types
        assert "Empty reply" in types("F1", status=52)
        for command in ("mayfly register bea", "mayfly functions create others busybox"):
            reader.says(f"MAYFLY_CONFIG_DIR=$HOME/bea {command}")  # whom nothing below may show
        assert "ann is registered" in types("F2")
        assert '"not-authenticated"' in types("F3")
        for line in commands("docs/writeup.md", "Requirements"):
            assert "nap is registered" in reader.says(line)
        assert "sha256:" in types("F6")
        assert re.findall(r"^(\w+) ", types("F4"), re.MULTILINE)[1:] == ["both", "nap", "upper"]
        assert types("F7") == ""
        assert types("F8").strip() == "HELLO"
        assert types("F9") != types("F9")
        last = reader.says("mayfly activations list").splitlines()[1].split()[0]
        assert types("F10", of=last) == "a line for the log\n"
        for name, steps in (
            ("F11", ("exited", "ended", "removed")),
            ("D6.2", ("admitted", "claimed", "ready", "started", "queue took", "run took")),
        ):
            shown = types(name, of=last)
            assert [step for step in steps if not re.search(rf"^{step} ", shown, re.MULTILINE)] == [], shown
        described, _ = json.JSONDecoder().raw_decode(types("A2"))
        assert "/v1/functions" in described["paths"]
        assert len(types("A3").splitlines()) >= 4
        assert re.search(r'"name": "ann".*"password_hash": "\(not shown\)"', types("A4"))
        assert re.search(r"^slots +8, 0 in use$", types("A5"), re.MULTILINE)
        assert len(types("D6.1").splitlines()) == 15
        assert "MAYFLY_MAX_ACTIVATIONS " in types("D6.5")
        shown = types("D6.6")
        assert re.search(r"^network +none$", shown, re.MULTILINE)
        assert re.search(r"^reaches +itself", shown, re.MULTILINE)
        types("F5")
        assert "nap" in reader.says("mayfly invoke nap ''", status=5)

    assert reader.typed | ELSEWHERE.keys() == rows.keys()
    assert not reader.typed & ELSEWHERE.keys()
