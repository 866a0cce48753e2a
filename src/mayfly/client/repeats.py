"""
Repeating a call by itself: only one that has an Idempotency-Key, which Mayfly runs once however often it arrives.

It is repeated when its connection was lost, or when Mayfly could not say what became of it. What a function did, and
what the caller did wrong, stays so, and is never asked for again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from mayfly.client.errors import ClientError

T = TypeVar("T")

ATTEMPTS = 6  # some eight seconds in all: an API server has started again by then, or a gateway noticed its loss
RETRY_AFTER_MAX_S = 30.0
REPEATED = frozenset(
    {"unreachable", "queue-unavailable", "no-workers", "bad-gateway", "gateway-unavailable", "gateway-timeout"}
)

_backoff = wait_exponential(multiplier=0.25, max=4) + wait_random(0, 0.5)


async def repeated(send: Callable[[], Awaitable[T]], *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> T:
    """
    Send a call that has a key, again if need be, `ATTEMPTS` times at most.

    Raises: what the last attempt raised; with `ran` unknown if an earlier one may have run.
    """
    in_doubt = False

    async def attempt() -> T:
        nonlocal in_doubt
        try:
            return await send()
        except ClientError as error:
            in_doubt = in_doubt or error.ran == "unknown"
            if in_doubt and error.ran == "no":
                error.ran = "unknown"
            raise

    retrying = AsyncRetrying(
        retry=retry_if_exception(_is_repeated),
        stop=stop_after_attempt(ATTEMPTS),
        wait=_pause,
        sleep=sleep,
        reraise=True,
    )
    return await retrying(attempt)


def _is_repeated(error: BaseException) -> bool:
    return isinstance(error, ClientError) and error.code in REPEATED


def _pause(state: RetryCallState) -> float:
    """At least as long as the answer asked for, and never all callers at the same moment."""
    error = state.outcome.exception() if state.outcome else None
    asked_s: float = getattr(error, "retry_after_s", None) or 0.0
    return min(asked_s, RETRY_AFTER_MAX_S) + _backoff(state)
