"""The spawner, and how it enters cgroups: directories that are none show what it writes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mayfly.containers.native import build as native
from mayfly.containers.programs import SPAWN


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The spawner, compiled from its source."""
    built = native.build(tmp_path_factory.mktemp("bin"))
    return next(each for each in built if each.name == SPAWN)


def enter(program: Path, cgroup: Path) -> None:
    """Have a process entered there."""
    subprocess.run([program, str(os.getpid()), cgroup, "--", "/bin/true"], check=True)


def test_where_threads_can_move_alone_nobody_is_kept_from_forking(program: Path, tmp_path: Path) -> None:
    """Version 1 is entered by `tasks`: for `cgroup.procs` the kernel waits for a grace period, up to 30 ms."""
    for name in ("tasks", "cgroup.procs"):
        (tmp_path / name).touch()

    enter(program, tmp_path)

    assert [(tmp_path / name).read_text() for name in ("tasks", "cgroup.procs")] == ["0", ""]


def test_where_they_cannot_the_whole_process_moves(program: Path, tmp_path: Path) -> None:
    """Version 2 has no `tasks`."""
    (tmp_path / "cgroup.procs").touch()

    enter(program, tmp_path)

    assert (tmp_path / "cgroup.procs").read_text() == "0"
