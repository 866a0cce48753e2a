"""A real nats-server for the steps of a hypothesis machine, which know no `await`: one loop, run as each step needs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, TypeVar

from mayfly.bus.connection import Bus
from tests.support.bus import Installation, installation

T = TypeVar("T")


class Walked:
    """The server, with a connection of each role, and the loop that they live on."""

    def __init__(self, runner: asyncio.Runner, nats: Installation, buses: dict[str, Bus]) -> None:
        """See `walked`."""
        self._runner = runner
        self.nats = nats
        self.admin, self.api, self.worker = (buses[role] for role in ("admin", "api", "worker"))

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        """Do a step; what else is under way on the loop goes on meanwhile."""
        return self._runner.run(step)


@contextmanager
def walked(**limits: Any) -> Iterator[Walked]:
    """Start it; *limits* are settings of `bootstrap`."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            nats = runner.run(stack.enter_async_context(installation(**limits)))
            roles = ("admin", "api", "worker")
            buses = {role: runner.run(stack.enter_async_context(nats.connect(role))) for role in roles}
            yield Walked(runner, nats, buses)
        finally:
            runner.run(stack.aclose())
