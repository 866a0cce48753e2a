"""The watchdog without namespaces, as a worker with docker has it; with them: tests/contract/test_runtime_host.py."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mayfly.containers import watchdog
from mayfly.containers.watchdog import Feed, Watchdog
from mayfly.domain.worker import LEASE_S

pytestmark = [pytest.mark.A5, pytest.mark.F11]

SOURCE = Path(__file__).parent.parent.parent.parent / "src"
WATCHED = """
import os, signal, sys
from mayfly.containers import watchdog
watchdog.LEASE_S = {lease_s}
feed = watchdog.watched()
print(os.getpid(), flush=True)
"""
OUTLIVE = "signal.sigtimedwait(set(), 3 * watchdog.LEASE_S)\n"  # nothing comes: that this time passes is what is tried
FED = "feed.prove(watchdog.now())\n"


@contextmanager
def watched(script: str, *, lease_s: float = 0.5) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A watched process that runs this script; the watchdog, and the process id inside."""
    environment = {"PYTHONPATH": str(SOURCE) + ":" + ":".join(sys.path), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", WATCHED.format(lease_s=lease_s) + script]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process, int(line(process))
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """The next line that it prints."""
    assert process.stdout
    return process.stdout.readline().strip()


def test_a_process_that_feeds_no_more_is_killed_and_said_to_be() -> None:
    """Frozen, it cannot do it itself."""
    with watched(FED + "os.kill(os.getpid(), signal.SIGSTOP)") as (process, inside):
        assert process.wait(20) == 128 + signal.SIGKILL
        assert not Path(f"/proc/{inside}").exists()
        assert process.stderr
        assert "the worker has proved nothing for" in process.stderr.read()


def test_before_the_first_feed_nothing_is_awaited() -> None:
    """A start takes as long as it takes."""
    with watched(OUTLIVE + "sys.exit(7)") as (process, _):
        assert process.wait(20) == 7


def test_after_its_release_nothing_is_awaited() -> None:
    """Nor does an end, when nothing runs any more."""
    with watched(FED + "feed.release()\n" + OUTLIVE + "sys.exit(7)") as (process, _):
        assert process.wait(20) == 7


def test_one_that_feeds_lives_and_gets_its_signals() -> None:
    """A signal goes in once, and the exit status comes out; while it ends in order it goes on feeding."""
    script = """
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
def told():
    feed.prove(watchdog.now())
    return signal.sigtimedwait({signal.SIGTERM}, watchdog.LEASE_S / 20) is not None
while not told():
    print("fed", flush=True)
sys.exit(3 + sum(told() for _ in range(40)))  # for two leases
"""
    with watched(script, lease_s=2) as (process, _):  # long enough for a machine that stands still for a moment
        for _ in range(10):
            assert line(process) == "fed"
        process.terminate()
        assert process.wait(20) == 3


def test_it_dies_with_its_watchdog() -> None:
    """Nobody would watch it."""
    with watched("signal.pause()") as (process, _):
        process.kill()
        process.wait(20)
        assert process.stdout
        assert process.stdout.read() == ""  # the end of file comes when the last one that holds the pipe is dead


class Pair:
    """Both ends in this process, with a clock of the test's."""

    def __init__(self) -> None:
        """Not armed."""
        self.read, self.write = os.pipe()
        self.watchdog, self.feed = Watchdog(self.read), Feed(self.write)
        self.now = 1000.0


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    """An open pipe."""
    pair = Pair()
    monkeypatch.setattr(watchdog, "now", lambda: pair.now)
    yield pair
    os.close(pair.read)
    os.close(pair.write)


def test_what_counts_is_when_it_was_proved(pair: Pair) -> None:
    """A feed that comes late, or after a later one, or from the future, extends nothing."""
    assert pair.watchdog.left_s() == math.inf
    pair.feed.prove(1000.0)
    pair.now = 1008.0
    assert pair.watchdog.left_s() == LEASE_S - 8
    for at in (1006.0, 1005.0):
        pair.feed.prove(at)
    assert pair.watchdog.left_s() == LEASE_S - 2
    pair.feed.prove(9999.0)
    assert pair.watchdog.left_s() == LEASE_S
    pair.now = 1008.0 + LEASE_S
    assert pair.watchdog.left_s() == 0


def test_the_clock_goes_on_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease is measured on the one clock of Linux that does, and looked at often, as no wait counts the sleep."""
    asked: list[int] = []
    monkeypatch.setattr(time, "clock_gettime", asked.append)
    watchdog.now()
    assert asked == [time.CLOCK_BOOTTIME]
    assert watchdog.TICK_S < 1


def test_a_watchdog_that_does_not_read_holds_nobody_up(pair: Pair) -> None:
    """A full pipe is an error, which ends the worker."""
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pair.write, bytes(4096))
    with pytest.raises(BlockingIOError):
        pair.feed.prove(1.0)


def test_without_a_watchdog_feeding_does_nothing() -> None:
    """As in a test that has a worker in its own process."""
    Feed().prove(1.0)
    Feed().release()
