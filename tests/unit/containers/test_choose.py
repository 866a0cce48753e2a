"""Which runtime is taken, and the reason given, on machines that have one, the other, or none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mayfly import __version__
from mayfly.containers import choose
from mayfly.containers.choose import explain_runtime
from mayfly.containers.oci import Driver
from mayfly.domain.errors import RuntimeFailed


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all there is to find programs in, on a kernel too old for our own launcher."""
    monkeypatch.setattr(choose, "SEARCH_PATH", str(tmp_path))
    on_linux("5.10.0-33-amd64", monkeypatch)
    return tmp_path


def on_linux(release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this kernel."""
    monkeypatch.setattr("mayfly.containers.choose.os.uname", lambda: SimpleNamespace(release=release))


OLD = "native needs Linux 5.12, and this is 5.10.0-33-amd64"


@pytest.mark.parametrize("release", ["5.12.0", "6.1.0-18-amd64", "10.0"])
def test_native_comes_first(programs: Path, monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    """Whatever is installed, where the kernel is new enough."""
    install(programs, "crun", "1.8.1")
    on_linux(release, monkeypatch)
    assert explain_runtime("auto") == ("native", __version__, "auto: the first choice")
    assert explain_runtime("crun") == ("crun", "1.8.1", "set by the operator")


@pytest.mark.parametrize("release", ["5.11.99", "4.18.0-553.el8_10.x86_64", "five"])
def test_native_is_refused_by_an_old_kernel(programs: Path, monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    """With the version it needs."""
    on_linux(release, monkeypatch)
    with pytest.raises(RuntimeFailed, match=r"native needs Linux 5\.12"):
        explain_runtime("native")


def install(programs: Path, name: str, version: str) -> None:
    """A program that says its version."""
    (programs / name).write_text(f"#!/bin/sh\necho '{name} version {version}'\n")
    (programs / name).chmod(0o755)


def test_crun_comes_next(programs: Path) -> None:
    """With both there, auto is crun where it cannot be native."""
    install(programs, "crun", "1.8.1")
    install(programs, "runc", "1.1.5+ds1")
    assert explain_runtime("auto") == ("crun", "1.8.1", f"auto: {OLD}; the next choice")
    assert explain_runtime("runc") == ("runc", "1.1.5+ds1", "set by the operator")


def test_runc_where_there_is_no_crun(programs: Path) -> None:
    """And the reason says so."""
    install(programs, "runc", "1.1.5")
    assert explain_runtime("auto") == ("runc", "1.1.5", f"auto: {OLD}; crun is not installed; the next choice")


def test_a_crun_too_old_is_passed_over(programs: Path) -> None:
    """It could not be told to leave cgroups alone."""
    install(programs, "crun", "0.17")
    install(programs, "runc", "1.1.5")
    assert explain_runtime("auto").reason == f"auto: {OLD}; crun 0.17 is older than 1.0; the next choice"
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
