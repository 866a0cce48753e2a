"""What `mayfly up` gives its parts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
