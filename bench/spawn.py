"""Running a program as cheaply as Python can: posix_spawn (which is vfork), two pipes, a thread for each at once."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable

from bench import cpu
from bench.figures import Block

PARAMETER = b"hello"


def run(argv: tuple[str, ...]) -> None:
    """
    Run a program that gives its stdin back.

    Raises: RuntimeError when it does anything else. What it says about that goes to our stderr.
    """
    stdin, parameter = os.pipe()
    result, stdout = os.pipe()
    moves = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=moves)
    os.close(stdin)
    os.close(stdout)
    with contextlib.suppress(BrokenPipeError):  # it has ended without reading: its output and its status tell
        os.write(parameter, PARAMETER)
    os.close(parameter)
    found = _read_all(result)
    os.close(result)
    _, status = os.waitpid(pid, 0)
    if status or found != PARAMETER:
        raise RuntimeError(f"{argv[0]} ended with {os.waitstatus_to_exitcode(status)} and wrote {found!r}")


def block(command: Callable[[], tuple[str, ...]], at_once: int, seconds: float) -> Block:
    """Run what *command* gives, so many at once and each again as soon as it has ended, for so long."""
    times: list[float] = []
    failures: list[Exception] = []
    children, ours = cpu.of_ended_children(), cpu.of_this_process()
    began = time.perf_counter()

    def caller() -> None:
        at = time.perf_counter()
        try:
            while True:
                run(command())
                ended = time.perf_counter()
                times.append((ended - at) * 1e3)
                at = ended
                if at >= began + seconds:
                    return
        except Exception as error:  # noqa: BLE001 - raised below, where somebody hears of it
            failures.append(error)

    threads = [threading.Thread(target=caller) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    if failures:
        raise failures[0]
    whose = {"programs": cpu.of_ended_children() - children, "client": cpu.of_this_process() - ours}
    return Block(times, took, whose)


def _read_all(descriptor: int) -> bytes:
    parts = []
    while part := os.read(descriptor, 65_536):
        parts.append(part)
    return b"".join(parts)
