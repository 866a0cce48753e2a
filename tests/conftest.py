"""
What holds for all tests: none of the machine's settings reach them, those marked `long` run only when asked for, and a
run can be given a time.

MAYFLY_E2E_URL and MAYFLY_E2E_CA are left alone: they are not settings, but say which installation tests/e2e calls.
"""

from __future__ import annotations

import os
import signal
import threading

import hypothesis
import pytest

OUT_OF_TIME = 124  # the exit status, as timeout(1) has it
CLEAN_UP_S = 60

for name in [name for name in os.environ if name.startswith("MAYFLY_") and not name.startswith("MAYFLY_E2E_")]:
    del os.environ[name]

# A slow machine is no failure. In CI each run tries the same examples; elsewhere a failure prints how to have it again.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("laptop", deadline=None, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "laptop")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --long and --budget-s."""
    parser.addoption("--long", action="store_true", help="also run the tests marked `long`")
    parser.addoption("--budget-s", type=float, help="end the run after so many seconds, with status 124")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long tests out, unless asked for them."""
    if config.getoption("--long"):
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


class Budget:
    """Interrupts the run when its time is over, as Ctrl-C would: the fixtures still clean up, but not for ever."""

    def __init__(self, seconds: float) -> None:
        """Give so much time from the session's start on."""
        self._seconds = seconds
        self._over, self._ended = threading.Event(), threading.Event()
        self._timer = threading.Timer(seconds, self.end)
        self._timer.daemon = True

    def end(self) -> None:
        """Interrupt the run; if that does not end it, leave it as it is."""
        self._over.set()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        if not self._ended.wait(CLEAN_UP_S):
            os._exit(OUT_OF_TIME)

    def pytest_sessionstart(self) -> None:
        """Start the clock."""
        self._timer.start()

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Stop the clock; a run that was out of time says so by its status."""
        self._timer.cancel()
        if self._over.is_set():
            session.exitstatus = OUT_OF_TIME

    def pytest_unconfigure(self) -> None:
        """Everything is cleaned up."""
        self._ended.set()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say it in words, too."""
        if self._over.is_set():
            terminalreporter.write_line(f"Interrupted: its {self._seconds:g} s are over.", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """Give the run its time."""
    is_helper = hasattr(config, "workerinput")  # one of several processes, which the first ends
    if (seconds := config.getoption("--budget-s")) and not is_helper:
        config.pluginmanager.register(Budget(seconds), "budget")
