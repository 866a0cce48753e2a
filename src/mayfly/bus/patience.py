"""
Sitting out a change of leader, and asking again where a limit has just refused.

When a node of a cluster dies, the streams that it led have no leader until another is elected: 5 to 8 seconds after a
kill -9, as measured. Whoever may repeat what it asks waits that long before it gives up, so that the loss of a node
costs callers time and not errors.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import nats.errors
import structlog
from nats.js.errors import APIError, NoStreamResponseError
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

log = structlog.get_logger()

R = TypeVar("R")

FAILOVER_S = 9.0
"""How long a leader is waited for."""

NOT_STORED = (
    NoStreamResponseError,
    nats.errors.NoRespondersError,
    nats.errors.OutboundBufferLimitError,
    nats.errors.ConnectionReconnectingError,
)
"""Errors that say that nobody has taken what was sent."""

NOT_YET = frozenset({10005, 10008})
"""nats-server's error codes of a cluster that is not all there, and has done nothing: no peers for a stream's copies,
since it has just started or lost its leader and takes servers for offline that it has not heard from; and JetStream
without a leader of its own."""

ASKED_AGAIN_S = 0.005
"""The pause before a question that was refused is asked again; each further one is twice as long."""

UNANSWERED = (nats.errors.TimeoutError, asyncio.TimeoutError)
"""Errors after which nobody knows."""


async def patiently(
    action: Callable[[], Awaitable[R]], *, also: tuple[type[Exception], ...] = (), for_s: float = FAILOVER_S
) -> R:
    """
    Do *action*, again and again for up to *for_s* while nobody takes it; *also* names further errors to repeat after.
    The first time costs nothing extra.

    Raises: what the last attempt raised.
    """

    def is_transient(error: BaseException) -> bool:
        return isinstance(error, (*NOT_STORED, *also)) or (isinstance(error, APIError) and error.err_code in NOT_YET)

    try:
        return await action()
    except Exception as error:
        if not is_transient(error):
            raise
        log.info("nats.awaited", error=repr(error), for_s=for_s)
    async for attempt in AsyncRetrying(
        retry=retry_if_exception(is_transient),
        wait=wait_random_exponential(multiplier=0.05, max=0.5),
        stop=stop_after_delay(for_s),
        reraise=True,
    ):
        with attempt:
            return await action()
    raise AssertionError("unreachable: the last attempt returns or raises")


async def insistently(action: Callable[[], Awaitable[R]], *, refusal: type[Exception], for_s: float) -> R:
    """
    Do *action*, again and again for *for_s* while it raises *refusal*, the last time when all of that is over.

    Raises: what the last attempt raised.
    """
    give_up_at, pause_s = time.monotonic() + for_s, ASKED_AGAIN_S
    while True:
        is_last = time.monotonic() >= give_up_at
        try:
            return await action()
        except refusal:
            if is_last:
                raise
        await asyncio.sleep(max(0.0, min(pause_s, give_up_at - time.monotonic())))
        pause_s *= 2
