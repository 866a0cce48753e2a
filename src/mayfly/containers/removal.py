"""What must come to its end however often we are cancelled meanwhile, by a time limit, say: nobody else knows of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mayfly.containers.runtime import Container
from mayfly.domain.errors import RuntimeFailed


@asynccontextmanager
async def made_whole(container: Container) -> AsyncIterator[None]:
    """
    Make a container inside; whatever goes wrong, nothing of it is left.

    Raises: RuntimeFailed in place of an OSError; what was raised inside.
    """
    try:
        yield
    except OSError as error:
        await remove_to_the_end(container)
        raise RuntimeFailed(f"The container could not be prepared: {error}.") from error
    except BaseException:
        await remove_to_the_end(container)
        raise


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
