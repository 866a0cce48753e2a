"""What must come to its end however often we are cancelled meanwhile, by a time limit, say: nobody else knows of it."""

from __future__ import annotations

import asyncio
from typing import Any

from mayfly.containers.runtime import Container


async def remove_to_the_end(container: Container) -> None:
    """
    Remove a container that could not be made; a cancellation is passed on afterwards.

    Raises: RuntimeFailed when something is left after bounded retries.
    """
    removal = asyncio.create_task(container.remove())
    cancelled = await finish(removal)
    removal.result()
    if cancelled is not None:
        raise cancelled


async def finish(task: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until *task* is done, whatever comes of it; return the cancellation of the waiting, if it was cancelled."""
    cancelled = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled
