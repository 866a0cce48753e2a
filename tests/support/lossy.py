"""
Losing the answers of a real nats-server, without the server's knowing: what is sent may never arrive, arrive late, or
be done without an answer. The client sees the same in each case, a time-out, and does not wait for it in these tests.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, cast

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import PubAck
from nats.js.errors import APIError

from mayfly.bus.connection import Bus

FATES = ("answered", "answered", "answer lost", "request lost", "late")
LOST_AT_MOST = 3
"""In a row, so that a store which repeats what was not answered comes to an end."""


class Died(BaseException):
    """The process that was writing is no more; nothing in it may catch that."""


class Wire:
    """Between the clients and a server: decides by *seed* what becomes of each publication."""

    def __init__(self, bus: Bus, seed: int) -> None:
        """Nothing is under way."""
        self._bus = bus
        self._fates = random.Random(seed)  # noqa: S311 - no secret
        self._late: list[partial[Any]] = []
        self._lost = 0

    def client(self, *, dies: bool = False) -> Bus:
        """Make one end of the wire; one that *dies* does so with its first publication under way."""
        return replace(self._bus, js=cast("JetStreamContext", _Lossy(self, dies=dies)))

    async def publish(self, send: partial[Any]) -> PubAck:
        """
        Send, or lose something of it.

        Raises: TimeoutError, as the client does when no answer comes.
        """
        fate = self._fates.choice(FATES) if self._lost < LOST_AT_MOST else "answered"
        if fate == "answered":
            self._lost = 0
            return cast("PubAck", await send())
        self._lost += 1
        await self._lose(fate, send)
        raise nats.errors.TimeoutError

    async def die(self, send: partial[Any]) -> None:
        """
        Be killed while sending.

        Raises: Died.
        """
        await self._lose(self._fates.choice(FATES[2:]), send)
        raise Died

    async def _lose(self, fate: str, send: partial[Any]) -> None:
        if fate == "answer lost":
            with suppress(APIError):  # a refusal is an answer as well
                await send()
        if fate == "late":
            self._late.append(send)

    async def arrive(self, *, everything: bool = False) -> None:
        """Let some of what is late arrive, or all of it."""
        arriving = [send for send in self._late if everything or self._fates.random() < 0.5]
        self._late = [send for send in self._late if send not in arriving]
        for outcome in await asyncio.gather(*(send() for send in arriving), return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, APIError):
                raise outcome


class _Lossy:
    """A JetStream context of which only `publish` loses anything."""

    def __init__(self, wire: Wire, *, dies: bool) -> None:
        self._wire, self._dies = wire, dies

    async def publish(self, *given: Any, **options: Any) -> PubAck:
        send = partial(self._wire._bus.js.publish, *given, **options)
        if self._dies:
            await self._wire.die(send)
        return await self._wire.publish(send)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wire._bus.js, name)
