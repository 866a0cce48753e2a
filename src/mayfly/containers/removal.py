"""The removal of a container that could not be made: nobody else knows of it, so it must come to its end."""

from __future__ import annotations

import asyncio

from mayfly.containers.runtime import Container


async def remove_to_the_end(container: Container) -> None:
    """
    Remove it, however often we are cancelled meanwhile, by a time limit, say; a cancellation is passed on afterwards.

    Raises: RuntimeFailed when something is left after bounded retries.
    """
    removal = asyncio.create_task(container.remove())
    cancelled: asyncio.CancelledError | None = None
    while not removal.done():
        try:
            await asyncio.shield(removal)
        except asyncio.CancelledError as error:
            cancelled = error
    removal.result()
    if cancelled is not None:
        raise cancelled
