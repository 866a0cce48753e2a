"""Something that moves while one waits: on stderr, at a terminal only, and not before the wait is a wait."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

SHOW_AFTER_S = 0.4


@asynccontextmanager
async def waiting(for_what: str) -> AsyncIterator[None]:
    """Show *for_what* as long as the block takes; nothing is left of it afterwards."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    spinning = asyncio.create_task(_spin(for_what), name="spin")
    try:
        yield
    finally:
        spinning.cancel()
        await asyncio.wait([spinning])


async def _spin(for_what: str) -> None:
    await asyncio.sleep(SHOW_AFTER_S)
    from rich.console import Console  # only now: a quick answer does not pay for it
    from rich.text import Text

    with Console(stderr=True).status(Text(for_what)):
        await asyncio.Event().wait()
