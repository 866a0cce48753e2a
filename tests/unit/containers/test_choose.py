"""Which runtime is taken, and the reason given, on machines that have one, the other, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from mayfly.containers import choose
from mayfly.containers.choose import explain_runtime
from mayfly.containers.oci import Driver
from mayfly.domain.errors import RuntimeFailed


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all there is to find programs in."""
    monkeypatch.setattr(choose, "SEARCH_PATH", str(tmp_path))
    return tmp_path


def install(programs: Path, name: str, version: str) -> None:
    """A program that says its version."""
    (programs / name).write_text(f"#!/bin/sh\necho '{name} version {version}'\n")
    (programs / name).chmod(0o755)


def test_crun_comes_first(programs: Path) -> None:
    """With both there, auto is crun."""
    install(programs, "crun", "1.8.1")
    install(programs, "runc", "1.1.5+ds1")
    assert explain_runtime("auto") == ("crun", "1.8.1", "auto: the first choice")
    assert explain_runtime("runc") == ("runc", "1.1.5+ds1", "set by the operator")


def test_runc_where_there_is_no_crun(programs: Path) -> None:
    """And the reason says so."""
    install(programs, "runc", "1.1.5")
    assert explain_runtime("auto") == ("runc", "1.1.5", "auto: crun is not installed; the next choice")


def test_a_crun_too_old_is_passed_over(programs: Path) -> None:
    """It could not be told to leave cgroups alone."""
    install(programs, "crun", "0.17")
    install(programs, "runc", "1.1.5")
    assert explain_runtime("auto").reason == "auto: crun 0.17 is older than 1.0; the next choice"
    with pytest.raises(RuntimeFailed, match="older than"):
        explain_runtime("crun")


def test_with_neither_the_remedy_is_named(programs: Path) -> None:
    """One sentence with what to install."""
    with pytest.raises(RuntimeFailed, match=r"crun is not installed; runc is not installed.*apt-get install crun"):
        explain_runtime("auto")
    (programs / "crun").write_text("#!/bin/sh\nexit 1\n")
    (programs / "crun").chmod(0o755)
    with pytest.raises(RuntimeFailed, match="crun does not work"):
        explain_runtime("crun")


def test_unknown_names_are_refused() -> None:
    """With those that are known."""
    with pytest.raises(RuntimeFailed, match="auto, native, crun, runc, docker and confined"):
        explain_runtime("podman")


def test_command_lines_are_these() -> None:
    """Compared literally."""
    place = {"state": Path("/s"), "bundle_dir": Path("/b"), "container_id": "id"}
    crun = Driver(name="crun", program=Path("/usr/bin/crun"), version="1")
    runc = Driver(name="runc", program=Path("/usr/sbin/runc"), version="1")
    assert crun.command(**place) == [  # type: ignore[arg-type]
        "/usr/bin/crun",
        "--root=/s",
        "--cgroup-manager=disabled",
        "run",
        "--preserve-fds=1",
        "--bundle=/b",
        "--no-new-keyring",
        "id",
    ]
    assert runc.command(**place) == [  # type: ignore[arg-type]
        "/usr/sbin/runc",
        "--root=/s",
        "--rootless=true",
        "run",
        "--preserve-fds=1",
        "--bundle=/b",
        "--no-new-keyring",
        "id",
    ]
