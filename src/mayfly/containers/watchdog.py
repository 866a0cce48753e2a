"""
The watchdog: the process outside the worker's, which kills it with all its containers when it proves nothing any more.

The worker feeds it through a pipe, with the time as of which it has proved that it may go on (`worker.lease` says what
a proof is). The first feed arms it, and comes before the first claim: a start takes as long as it takes, and until then
nothing runs whose slot could be given to another.

Guarantees:
- When `t` is the latest time that was fed, the kill comes at `t + LEASE_S`, whatever the worker does: frozen, in a
  loop, or late, for what counts is the time in the feed and not its arrival. With the worker (and process 1 of its
  namespaces) the kernel kills everything inside; a Docker daemon ends containers as their connections close.
- The clock goes on while the machine sleeps. One that wakes up after its lease kills within `TICK_S`.
- Frozen itself, as with all processes of a container, it kills when it goes on.
- It does no more than this, so nothing keeps it from it: it has no memory to fill, and opens no file or connection.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Iterator

from mayfly.domain.worker import LEASE_S

PR_SET_PDEATHSIG = 1
AWAITED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)
TICK_S = 0.25  # a wait does not count the time that the machine sleeps, so none is longer
FEED = struct.Struct("=d")
FEEDS_AT_ONCE = 512

_libc = ctypes.CDLL(None, use_errno=True)


def now() -> float:
    """Seconds since the machine was started, those included that it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Feed:
    """The worker's end of the pipe. Without a watchdog, as in a test that has a worker in its own process, a no-op."""

    def __init__(self, descriptor: int | None = None) -> None:
        """*descriptor* is the pipe's."""
        self._descriptor = descriptor
        if descriptor is not None:
            os.set_blocking(descriptor, False)  # a watchdog that does not read must not hold up the worker

    def prove(self, at: float) -> None:
        """
        Say that as of *at* (of `now`) the worker may go on.

        Raises: OSError when the watchdog is gone or has not read for hours: then the worker has to end.
        """
        if self._descriptor is not None:
            os.write(self._descriptor, FEED.pack(at))

    def release(self) -> None:
        """
        Say that there will be no container any more: from now on nothing is awaited.

        Raises: OSError, as `prove`.
        """
        self.prove(math.inf)


class Watchdog:
    """The other end."""

    def __init__(self, feeds: int) -> None:
        """*feeds* is the pipe's descriptor."""
        self._feeds = feeds
        self._proved_at: float | None = None
        os.set_blocking(feeds, False)

    def left_s(self) -> float:
        """How long the worker may go on without another proof; not a moment when this is not above zero."""
        for at in self._take():
            self._proved_at = max(self._proved_at or 0, at if at == math.inf else min(at, now()))
        return math.inf if self._proved_at is None else self._proved_at + LEASE_S - now()

    def _take(self) -> Iterator[float]:
        with contextlib.suppress(BlockingIOError):  # a write this small comes whole
            while fed := os.read(self._feeds, FEEDS_AT_ONCE * FEED.size):
                for (at,) in FEED.iter_unpack(fed):
                    yield at


def watched() -> Feed:
    """
    Go on in a child that is watched: for a worker without namespaces of its own, whose containers a daemon has.

    Must be called from a process with one thread. The calling process forwards signals, and exits with the status of
    the child (128+n for signal n); it takes the child along when it dies.
    """
    alive, ours = os.pipe()  # open as long as this process lives
    feeds, feed = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    flush()
    child = os.fork()
    if child:
        os.close(feed)
        os._exit(forward_until_end(child, Watchdog(feeds)))
    os.close(ours)
    os.close(feeds)
    die_with_parent(alive)
    os.close(alive)
    os.setsid()  # a terminal's Ctrl-C reaches the outer process only, which forwards it once
    signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED)
    return Feed(feed)


def forward_until_end(child: int, watchdog: Watchdog | None = None) -> int:
    """
    Pass signals on to *child* and reap, until it ends; return its exit status as a shell counts.

    The signals are blocked and taken one by one, as one that comes between a handler and a wait would be lost.
    """
    while True:
        left_s = watchdog.left_s() if watchdog else math.inf
        if left_s <= 0:
            _kill(child)
            watchdog = None
            continue
        received = signal.sigtimedwait(AWAITED, min(left_s, TICK_S)) if watchdog else signal.sigwaitinfo(AWAITED)
        if received is None:
            continue
        if received.si_signo != signal.SIGCHLD:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, received.si_signo)
            continue
        for ended, code in _reaped():
            if ended == child:
                return code if code >= 0 else 128 - code


def _kill(child: int) -> None:
    """Kill first, and say so afterwards: whoever reads may not."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    words = f"mayfly: the worker has proved nothing for {LEASE_S:g} s (frozen, or cut off): killed with its containers"
    print(words, file=sys.stderr, flush=True)  # noqa: T201


def _reaped() -> Iterator[tuple[int, int]]:
    """The children that have ended, by now: process id and exit code, or minus the signal."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended[0], os.waitstatus_to_exitcode(ended[1])


def die_with_parent(alive: int) -> None:
    """
    Be killed when the parent ends; *alive* is the end of a pipe that only the parent holds open.

    Raises: OSError.
    """
    if _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "prctl(PR_SET_PDEATHSIG)")
    readable, _, _ = select.select([alive], [], [], 0)
    if readable:  # end of file: it died before we asked
        os._exit(1)


def flush() -> None:
    """Write what is buffered, before a fork: two processes must not."""
    sys.stdout.flush()
    sys.stderr.flush()
