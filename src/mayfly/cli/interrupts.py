"""Reading from a person or a pipe: stdin may be closed, and Ctrl-C may come."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from mayfly.cli.exits import Refused


def stdin() -> TextIO:
    """
    Return stdin.

    Raises: Refused when the command was started without one.
    """
    if sys.stdin is None:
        raise Refused("stdin is closed, so nothing can be read from it.")
    return sys.stdin


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end a blocking read at once: asyncio's own handler would wait for the read to end."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
