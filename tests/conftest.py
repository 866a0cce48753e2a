"""
What holds for all tests: none of the machine's settings reach them, those marked `long` run only when asked for, a run
can be given a time, and a process of it that dies is a failure.

MAYFLY_E2E_URL and MAYFLY_E2E_CA are left alone: they are not settings, but say which installation tests/e2e calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import functools
import inspect
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.support.processes import adopt_orphans, end_all_below

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController  # type: ignore[import-untyped]

OUT_OF_TIME = 124  # the exit status, as timeout(1) has it
CLEAN_UP_S = 60
# Of that, for the workers of --numprocesses: the rest is xdist's, which kills what has not ended within 10 s.
WORKERS_CLEAN_UP_S = CLEAN_UP_S - 15

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


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """
    End an asynchronous test that hangs, so that it fails by its name, and says at which line it waited.

    Of what hangs besides, `faulthandler_timeout` says what the threads do, a little later.
    """
    test = getattr(item, "obj", None)
    hangs_after_s = 0.9 * float(item.config.getini("faulthandler_timeout")) or None
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(test) and not item.get_closest_marker("long"):

        @functools.wraps(test)
        async def in_its_time(*args: object, **named: object) -> object:
            async with asyncio.timeout(hangs_after_s):
                return await test(*args, **named)

        item.obj = in_its_time


@pytest.fixture(autouse=True)
def _long_ones_take_long(request: pytest.FixtureRequest) -> None:
    """Only of another test `faulthandler_timeout` would say that it hangs."""
    if request.node.get_closest_marker("long"):
        faulthandler.cancel_dump_traceback_later()


class Budget:
    """
    Interrupts the run when its time is over, as Ctrl-C would: the fixtures still clean up, but not for ever. Processes
    that are left then, such as servers of a test that was interrupted as it started them, are ended.

    With --numprocesses that holds for the fixtures in each of the workers.
    """

    def __init__(self, seconds: float) -> None:
        """Give so much time from the session's start on."""
        self._words = f"Interrupted: its {seconds:g} s are over."
        self._over, self._ended = threading.Event(), threading.Event()
        self._timer = threading.Timer(seconds, self.end)
        self._timer.daemon = True
        self._workers: dict[WorkerController, int] = {}  # with their process ids

    def end(self) -> None:
        """Interrupt the run; if that does not end it, leave it as it is."""
        self._over.set()
        adopt_orphans()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        if not self._ended.wait(CLEAN_UP_S):
            end_all_below(os.getpid())
            os._exit(OUT_OF_TIME)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: WorkerController) -> None:
        """Remember a worker."""
        self._workers[node] = node.gateway.remote_exec("import os; channel.send(os.getpid())").receive()

    def _end_workers(self) -> None:
        """
        Interrupt the workers and wait for them.

        xdist would not: it tells them to end, and they interrupt themselves 5 s later, to be killed another 5 s later.
        """
        # One that has no channel yet, or none any more, has nothing to clean up, and its process id may be another's.
        workers = {node: pid for node, pid in self._workers.items() if hasattr(node, "channel")}
        for node, pid in workers.items():
            if not node.channel.isclosed():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT)
        until = time.monotonic() + WORKERS_CLEAN_UP_S
        for node in workers:
            # It raises what the worker died of, and at the end of the time, after which xdist ends the workers.
            with contextlib.suppress(EOFError, node.channel.RemoteError, node.channel.TimeoutError):
                node.channel.waitclose(max(0, until - time.monotonic()))

    @contextlib.contextmanager
    def _status_if_interrupted(self) -> Iterator[None]:
        """Have the status of a run that is out of time, where pytest has one of its own for an interruption."""
        try:
            yield
        except KeyboardInterrupt:
            if not self._over.is_set():
                raise
            pytest.exit(self._words, returncode=OUT_OF_TIME)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionstart(self) -> Generator[None]:
        """Start the clock; xdist starts its workers here, which takes a while."""
        self._timer.start()
        with self._status_if_interrupted():
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """Stop the clock; a run that was out of time says so by its status."""
        with self._status_if_interrupted():
            if self._over.is_set():
                self._end_workers()
            yield
            self._timer.cancel()
            if self._over.is_set():
                session.exitstatus = OUT_OF_TIME

    def pytest_unconfigure(self) -> None:
        """Everything is cleaned up; of a run that was interrupted, what no fixture came to end as well."""
        if self._over.is_set():
            end_all_below(os.getpid())
        self._ended.set()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say it in words, too."""
        if self._over.is_set():
            terminalreporter.write_line(self._words, red=True)


class Deaths:
    """Makes a worker's death a failure, even where all its tests had passed before, for which xdist has no status."""

    def __init__(self) -> None:
        """None so far."""
        self._errors: list[str] = []

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: WorkerController, error: object | None) -> None:
        """Note a worker that did not come to its end."""
        if error is not None:
            self._errors.append(f"{node.gateway.id}: {error}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run that would pass."""
        if self._errors and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say it in words, too."""
        for error in self._errors:
            terminalreporter.write_line(f"A worker died, {error}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """Give the run its time, and count its deaths."""
    if hasattr(config, "workerinput"):  # one of several processes, which the first ends
        return
    config.pluginmanager.register(Deaths(), "deaths")
    if seconds := config.getoption("--budget-s"):
        config.pluginmanager.register(Budget(seconds), "budget")
