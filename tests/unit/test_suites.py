"""scripts/test: what it says and how it ends, tried on projects with a few tests of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
OK, FAILS, SKIPS = (
    "def test_ok(): pass\n",
    "def test_fails(): assert 0\n",
    "import pytest\ndef test_skips(): pytest.skip()\n",
)
GATEWAY = """\
import os, sys, pytest
os.environ["THROUGH_GATEWAY"] = "1"
sys.exit(pytest.main(sys.argv[1:]))
"""  # the one that is ours brings up an installation and a proxy
HALF_A_FILE = """\
import atexit, pathlib
def pytest_configure(config):
    path = pathlib.Path(config.option.xmlpath)
    atexit.register(lambda: path.write_bytes(path.read_bytes()[:100]))
"""
LIGHT = "-p no:schemathesis"  # which takes as long to load as all the rest of pytest
SUITES = ("unit", "contract", "integration", "e2e", "docs", "attacks", "chaos", "bench", "compose")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with our scripts/test and conftest, empty suites, and checks and a set-up that do nothing."""
    for suite in SUITES:
        (tmp_path / "tests" / suite).mkdir(parents=True)
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/test", tmp_path / "scripts/test")
    shutil.copy(ROOT / "tests/conftest.py", tmp_path / "tests/conftest.py")
    (tmp_path / "tests/support").mkdir()
    shutil.copy(ROOT / "tests/support/processes.py", tmp_path / "tests/support/processes.py")  # of the conftest
    (tmp_path / "tests/support/through_gateway.py").write_text(GATEWAY)
    script(tmp_path / "scripts/setup", "exit 0")
    script(tmp_path / "scripts/check", "exit 0")
    script(tmp_path / "scripts/test-compose", 'shift 2; exec .venv/bin/python -m pytest tests/compose "$@"')
    (tmp_path / ".venv/bin").mkdir(parents=True)
    script(tmp_path / ".venv/bin/python", f'exec {sys.executable} "$@"')
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    return tmp_path


def only(project: Path, *suites: str) -> None:
    """Let scripts/test know of these suites only: pytest takes seconds to say that one of the others is empty."""
    line = re.search(r"^SUITES=\(.*?\)", (project / "scripts/test").read_text(), re.MULTILINE)
    assert line is not None
    edit(project, line[0], f"SUITES=({' '.join(suites)})")


def edit(project: Path, old: str, new: str) -> None:
    """Change scripts/test in the one place that has *old*."""
    path = project / "scripts/test"
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))


def script(path: Path, line: str) -> None:
    """Write a program of one line."""
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def run(project: Path, *arguments: str, **tests: str) -> tuple[int, str]:
    """Run scripts/test where the suites hold these tests; return its status and its last line."""
    status, said = whole(project, *arguments, **tests)
    return status, said.splitlines()[-1]


def whole(project: Path, *arguments: str, **tests: str) -> tuple[int, str]:
    """The same, with all that it says."""
    for suite, code in tests.items():
        (project / "tests" / suite / f"test_{suite}.py").write_text(code)
    ended = subprocess.run(
        [project / "scripts/test", *arguments],
        env={"PATH": os.environ["PATH"], "PYTEST_ADDOPTS": LIGHT},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    return ended.returncode, ended.stdout


def test_all_suites_are_added_up(project: Path) -> None:
    """The last line counts the tests of all suites, of which one may be empty; skipping is no failure."""
    assert run(project, unit=OK, integration=SKIPS, contract=OK) == (0, "2 passed, 0 failed, 1 skipped")


def test_one_failure_in_any_suite_fails_the_whole(project: Path) -> None:
    """A failed test does not keep later suites from running, and is not forgotten after them: it is told at the end."""
    only(project, "unit:4", "integration:4")
    status, said = whole(project, unit=FAILS, integration=OK)
    assert (status, said.splitlines()[-1]) == (1, "1 passed, 1 failed, 0 skipped")
    assert said.splitlines()[-5] == "failed: unit: tests.unit.test_unit::test_fails: assert 0"


def test_the_end_to_end_suite_runs_a_second_time_through_a_gateway(project: Path) -> None:
    """What fails only there fails the whole."""
    only(project, "e2e:4", "gateway:4")
    once = "import os\ndef test_it(): assert 'THROUGH_GATEWAY' not in os.environ\n"
    assert run(project, e2e=once) == (1, "1 passed, 1 failed, 0 skipped")
    assert run(project, e2e=OK) == (0, "2 passed, 0 failed, 0 skipped")


def test_what_cannot_be_collected_is_a_failure(project: Path) -> None:
    """A file that cannot be imported counts as a failed test."""
    only(project, "unit:4", "contract:4")
    status, said = whole(project, unit=OK, contract="import nothing_of_this_name")
    assert (status, said.splitlines()[-1]) == (1, "1 passed, 1 failed, 0 skipped")
    assert re.search("^failed: contract: .*No module named 'nothing_of_this_name'$", said, re.MULTILINE)


def test_results_that_cannot_be_read_are_a_failure(project: Path) -> None:
    """A process may die while it writes them; the later suites run."""
    only(project, "attacks:4", "chaos:4")
    (project / "tests/attacks/conftest.py").write_text(HALF_A_FILE)
    status, said = whole(project, attacks=OK, chaos=OK)
    assert (status, said.splitlines()[-1]) == (1, "1 passed, 1 failed, 0 skipped")
    assert "\nfailed: attacks: its results cannot be read\n" in said


def test_a_process_that_dies_is_a_failure(project: Path) -> None:
    """One that a suite's tests ran in counts as a failed test if it dies after them."""
    only(project, "unit:4", "contract:4")
    dies = "import os\ndef pytest_sessionfinish():\n  if os.environ.get('PYTEST_XDIST_WORKER') == 'gw0': os._exit(0)\n"
    (project / "tests/unit/conftest.py").write_text(dies)
    status, said = whole(project, unit=OK, contract=OK)
    assert (status, said.splitlines()[-1]) == (1, "2 passed, 1 failed, 0 skipped")
    assert "\nfailed: unit, though none of its tests did\n" in said


def test_a_failed_check_fails_the_whole(project: Path) -> None:
    """Checks that fail let the tests run; they count as one failure, and the status tells of them."""
    only(project, "unit:4")
    script(project / "scripts/check", "exit 1")
    status, said = whole(project, unit=OK)
    assert (status, said.splitlines()[-1]) == (1, "1 passed, 1 failed, 0 skipped")
    assert "\nfailed: checks: failed\n" in said


def test_the_whole_is_bounded_with_its_set_up(project: Path) -> None:
    """What the set-up took is not given to the suites; long ones have six times as long."""
    only(project, "unit:0", "chaos:1")
    script(project / "scripts/setup", "sleep 3")
    status, said = whole(project, "--long", unit=OK, chaos=OK)
    at_most = [int(seconds) for seconds in re.findall(r" at most (\d+) s$", said, re.MULTILINE)]
    assert status == 0
    assert len(at_most) == 3
    for seconds, later in zip(at_most, (360, 360, 0), strict=True):
        assert 75 * 6 * 60 - later - 60 < seconds <= 75 * 6 * 60 - later - 3


def test_no_test_at_all_is_a_failure(project: Path) -> None:
    """Where nothing was tested, nothing has passed."""
    only(project, "unit:4", "contract:4")
    assert run(project) == (1, "0 passed, 0 failed, 0 skipped")


def test_a_suite_out_of_time_is_a_failure(project: Path) -> None:
    """One that leaves the later ones less than their minutes is ended when it had its own; they run."""
    only(project, "attacks:0", "chaos:4")
    edit(project, "LIMIT_MINUTES=75", "LIMIT_MINUTES=4")
    endless = "import time\ndef test_endless():\n    while True: time.sleep(0.01)\n"
    status, said = whole(project, attacks=endless, chaos=OK)
    assert (status, said.splitlines()[-1]) == (1, "1 passed, 1 failed, 0 skipped")
    assert re.search(r"^attacks .*0 passed, 1 failed, 0 skipped, out of time$", said, re.MULTILINE)
    assert "\nfailed: attacks, out of time\n" in said


def test_a_suite_that_is_late_is_said_to_be_and_goes_on(project: Path) -> None:
    """A slow machine loses nothing of what it has tested."""
    only(project, "unit:0")
    edit(project, "CHECK_MINUTES=1", "CHECK_MINUTES=0")
    status, said = whole(project, unit=OK)
    assert status == 0
    assert re.search(r"^unit .*1 passed, 0 failed, 0 skipped, late$", said, re.MULTILINE)


def test_what_a_suite_leaves_of_its_time_is_the_next_ones(project: Path) -> None:
    """So a slow machine does not fail one suite where the whole has time enough; and the whole takes no longer."""
    only(project, "unit:1", "contract:2")
    script(project / "scripts/check", "sleep 2")
    status, said = whole(project, unit=OK, contract=OK)
    budgets = [int(seconds) for seconds in re.findall(r" s of +(\d+) s ", said)]
    took = [int(seconds) for seconds in re.findall(r" (\d+) s of ", said)]
    assert status == 0
    assert len(budgets) == len(took) == 3
    assert budgets[0] == 60
    assert 60 + 60 - took[0] - 1 <= budgets[1] <= 60 + 60 - took[0] + 1
    assert 240 - took[0] - took[1] - 2 <= budgets[2] <= 240 - took[0] - took[1] + 2


def test_arguments_go_to_pytest(project: Path) -> None:
    """With arguments it is pytest, without checks, and ends as pytest does."""
    script(project / "scripts/check", "exit 1")
    status, line = run(project, "-k", "ok", unit=OK, e2e=FAILS)
    assert (status, line.split(" in ")[0].strip("= ")) == (0, "1 passed, 1 deselected")
    assert run(project, "tests/e2e", e2e=FAILS)[0] == 1
