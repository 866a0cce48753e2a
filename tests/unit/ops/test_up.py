"""What `mayfly up` gives its parts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mayfly.__main__ import compose
from mayfly.ops.layout import Layout
from mayfly.ops.up import System
from mayfly.settings import UpSettings

pytestmark = [pytest.mark.A3]


@pytest.mark.parametrize(("cores", "threads"), [(1, "1"), (2, "1"), (3, "1"), (8, "4")])
def test_nats_server_leaves_half_of_the_machine_to_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, threads: str
) -> None:
    """Of the cores that this process may use, and never less than one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))

    spec = System(UpSettings(), Layout(tmp_path))._nats_server()

    assert spec.environment["GOMAXPROCS"] == threads


@pytest.mark.parametrize(
    ("started_as", "typed"),
    [("/srv/ann/mayfly/.venv/bin/mayfly", "sudo /srv/ann/mayfly/.venv/bin/mayfly"), ("__main__.py", "sudo mayfly")],
)
@pytest.mark.parametrize("command", [["up"], ["images", "import", "mean.tar", "mean"]])
def test_without_root_it_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch, started_as: str, typed: str, command: list[str]
) -> None:
    """With the whole path, as sudo does not look for programs where a virtual environment has them."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", [started_as])

    said = CliRunner().invoke(compose(), command)

    assert said.exit_code == 2
    assert f"which needs root. Run `{typed} {' '.join(command[:2])}`." in said.stderr


def test_what_it_says_in_the_end_can_be_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines to try name URL and CA; and where `mayfly` is, if that is a virtual environment."""
    system = System(UpSettings(listen="127.0.0.1:8449"), Layout(tmp_path))
    exports = f"export MAYFLY_URL=https://127.0.0.1:8449 MAYFLY_CA_FILE={tmp_path}/ca.crt"
    monkeypatch.setattr(sys, "prefix", "/srv/ann b/.venv")

    assert f"  {exports}\n  export PATH='/srv/ann b/.venv/bin':$PATH\n  mayfly register ann\n" in system.welcome()
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    assert f"  {exports}\n  mayfly register ann\n" in system.welcome()
