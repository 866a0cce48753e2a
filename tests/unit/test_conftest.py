"""What tests/conftest.py and tests/support/need.py give to all tests, tried on runs of pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import is_alive

ROOT = Path(__file__).resolve().parent.parent.parent


def pytest_run(code: str, directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run pytest with our conftest on a file with this code."""
    (directory / "test_it.py").write_text(code)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.conftest",
        "-p",
        "no:schemathesis",  # which takes as long to load as all the rest of pytest
        "-c",
        "/dev/null",
        f"--rootdir={directory}",
    ]
    return subprocess.run(
        [*command, *arguments, str(directory)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


NEVER_ENDS = """
import os, select, signal
def never_ends():
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)  # a signal that comes just before the wait ends it too; `pause` would miss that one
    select.select([woken], [], [])
"""
END_WHILE_THE_TEST_RUNS = """
import pathlib, threading
def pytest_sessionstart(session):
    if budget := session.config.pluginmanager.get_plugin("budget"):
        def end():
            pathlib.Path(__file__).with_name("running").read_bytes()  # the test is the only writer of this pipe
            budget.end()
        threading.Thread(target=end, daemon=True).start()
"""
XDIST_GIVES_S = 5  # execnet, by itself, interrupts a worker 5 s after it was told to end, and kills it 5 s later
PROCESSES = pytest.mark.parametrize(
    "processes",
    [pytest.param((), id="one process", marks=pytest.mark.long), pytest.param(("--numprocesses=2",), id="several")],
)


@PROCESSES
def test_a_run_out_of_time_ends(tmp_path: Path, processes: tuple[str, ...]) -> None:
    """Past its budget a run ends with status 124 and says so."""
    code = NEVER_ENDS + "def test_never_ends(): never_ends()"
    ended = pytest_run(code, tmp_path, "--budget-s=1", *processes)
    assert ended.returncode == 124
    assert "Interrupted: its 1 s are over." in ended.stdout


@pytest.mark.parametrize("hook", ["pytest_sessionstart", pytest.param("pytest_sessionfinish", marks=pytest.mark.long)])
def test_a_run_out_of_time_between_tests_ends(tmp_path: Path, hook: str) -> None:
    """It does so, too, where no test runs yet, as while xdist starts its workers, or any more."""
    (tmp_path / "conftest.py").write_text(f"{NEVER_ENDS}def {hook}(): never_ends()")
    ended = pytest_run("def test_it(): pass", tmp_path, "--budget-s=5")  # longer than pytest takes to come to its end
    assert ended.returncode == 124
    assert "Interrupted: its 5 s are over." in ended.stdout + ended.stderr


@PROCESSES
def test_a_run_out_of_time_cleans_up(tmp_path: Path, processes: tuple[str, ...]) -> None:
    """The fixtures of a test that is interrupted so are closed, and have longer for it than xdist would give them."""
    closing_s = XDIST_GIVES_S + 2 if processes else 0
    code = f"""{NEVER_ENDS}
import pathlib, pytest, time
@pytest.fixture
def thing():
    yield
    time.sleep({closing_s})  # what it takes to close it: nothing is waited for
    pathlib.Path(__file__).with_name("closed").touch()
def test_never_ends(thing):
    pathlib.Path(__file__).with_name("running").write_bytes(b"")
    never_ends()
"""
    (tmp_path / "conftest.py").write_text(END_WHILE_THE_TEST_RUNS)
    os.mkfifo(tmp_path / "running")
    assert pytest_run(code, tmp_path, "--budget-s=50", *processes).returncode == 124
    assert (tmp_path / "closed").exists()


@pytest.mark.parametrize(
    ("processes", "cleans_up"),
    [
        pytest.param((), True, id="one process", marks=pytest.mark.long),
        pytest.param(("--numprocesses=2",), True, id="several"),
        pytest.param((), False, id="never cleaned up", marks=pytest.mark.long),
    ],
)
def test_a_run_out_of_time_leaves_no_process(tmp_path: Path, processes: tuple[str, ...], cleans_up: bool) -> None:
    """Neither what a test has started, in a session of its own, nor what that one has, though nobody ends them."""
    at_most = "" if cleans_up else "import tests.conftest\ntests.conftest.CLEAN_UP_S = 1\n"
    (tmp_path / "conftest.py").write_text(at_most + END_WHILE_THE_TEST_RUNS)
    os.mkfifo(tmp_path / "running")
    code = f"""{NEVER_ENDS}
import pathlib, signal, subprocess
def test_never_ends():
    {"pass" if cleans_up else "signal.signal(signal.SIGINT, signal.SIG_IGN)"}
    script = "sleep 1000 & echo $! $$; exec sleep 1000"
    started = subprocess.Popen(["sh", "-c", script], start_new_session=True, stdout=subprocess.PIPE, text=True)
    pathlib.Path(__file__).with_name("pids").write_text(started.stdout.readline())
    pathlib.Path(__file__).with_name("running").write_bytes(b"")
    while True: never_ends()
"""
    assert pytest_run(code, tmp_path, "--budget-s=50", *processes).returncode == 124
    pids = list(map(int, (tmp_path / "pids").read_text().split()))
    assert len(pids) == 2
    assert not [pid for pid in pids if is_alive(pid)]


def test_a_worker_that_dies_after_its_tests_is_a_failure(tmp_path: Path) -> None:
    """Tests that have passed do not make up for a process that did not come to its end."""
    (tmp_path / "conftest.py").write_text("""
import os
def pytest_sessionfinish():
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw0":
        os._exit(0)
""")
    ended = pytest_run("def test_it(): pass", tmp_path, "--numprocesses=2")
    assert "1 passed" in ended.stdout
    assert ended.returncode == 1
    assert "A worker died, gw0: Not properly terminated" in ended.stdout


def test_a_run_in_time_keeps_its_status(tmp_path: Path) -> None:
    """A budget that suffices changes nothing, be it success or failure."""
    assert pytest_run("def test_it(): pass", tmp_path, "--budget-s=50").returncode == 0
    assert pytest_run("def test_it(): assert 0", tmp_path, "--budget-s=50").returncode == 1


def test_long_tests_run_only_when_asked_for(tmp_path: Path) -> None:
    """A test marked `long` is left out, unless --long is given."""
    code = "import pytest\n@pytest.mark.long\ndef test_long(): pass\ndef test_short(): pass"
    assert "1 passed, 1 deselected" in pytest_run(code, tmp_path).stdout
    assert "2 passed" in pytest_run(code, tmp_path, "--long").stdout


@pytest.mark.parametrize(("mark", "is_timed"), [("", True), ("@pytest.mark.long\n", False)])
def test_a_long_test_is_not_told_to_hang(tmp_path: Path, mark: str, is_timed: bool) -> None:
    """The stacks of all threads are to be printed of a test that takes too long, but not of one that is known to."""
    code = f"""
import faulthandler, pytest
timers, start, cancel = [], faulthandler.dump_traceback_later, faulthandler.cancel_dump_traceback_later
faulthandler.dump_traceback_later = lambda *given, **options: (timers.append(given), start(*given, **options))
faulthandler.cancel_dump_traceback_later = lambda: (timers.clear(), cancel())
{mark}def test_it(): assert bool(timers) is {is_timed}
"""
    ended = pytest_run(code, tmp_path, "--long", "--override-ini=faulthandler_timeout=60")
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize(("mark", "outcome"), [("", "1 failed"), ("@pytest.mark.long\n", "1 passed")])
def test_a_test_that_hangs_fails_and_says_where(tmp_path: Path, mark: str, outcome: str) -> None:
    """Of a coroutine the threads' stacks show nothing. One that is known to take long has its time."""
    code = f"import asyncio, pytest\nasync def wait(): await asyncio.sleep(2)\n{mark}async def test_it(): await wait()"
    ended = pytest_run(code, tmp_path, "--long", "--asyncio-mode=auto", "--override-ini=faulthandler_timeout=1")
    assert outcome in ended.stdout
    assert ("async def wait(): await asyncio.sleep(2)" in ended.stdout) is ("failed" in outcome)


def test_no_setting_of_the_machine_reaches_a_test(tmp_path: Path) -> None:
    """Variables of Mayfly are gone, but for those that say which installation to test."""
    code = "import os\ndef test_it(): assert [n for n in os.environ if n.startswith('MAYFLY_')] == ['MAYFLY_E2E_URL']"
    ended = pytest_run(code, tmp_path, MAYFLY_SLOTS="7", MAYFLY_E2E_URL="https://127.0.0.1:1")
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize(("where", "outcome"), [({}, "1 passed, 1 skipped"), ({"CI": "true"}, "1 failed, 1 passed")])
def test_what_is_missing_skips_on_a_laptop_and_fails_in_ci(tmp_path: Path, where: dict[str, str], outcome: str) -> None:
    """`need` skips a test where the machine lacks something, and fails it with CI=true."""
    code = """
from tests.support.need import need
def test_has(): need(True, "nothing")
def test_lacks(): need(False, "a thing")
"""
    ended = pytest_run(code, tmp_path, **where)
    assert outcome in ended.stdout
