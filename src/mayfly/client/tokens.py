"""
Where a client has its tokens from, and where it leaves the next ones.

A refresh token is good once, and using it twice ends the login. So whoever keeps tokens that several clients share
must let only one of them exchange at a time: `renewed` is that one place.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

import msgspec

RENEW_BEFORE_S = 30.0

Exchange = Callable[[str], Awaitable["Tokens"]]

T = TypeVar("T")


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """What a login gives. After `fresh_until` (seconds since the epoch, by our clock) they are better renewed."""

    access_token: str
    refresh_token: str | None = None
    fresh_until: float | None = None

    @property
    def is_stale(self) -> bool:
        """The access token ends soon, and there is a refresh token to get the next one."""
        return self.can_renew and self.fresh_until is not None and time.time() >= self.fresh_until

    @property
    def can_renew(self) -> bool:
        """There is a refresh token."""
        return self.refresh_token is not None


class TokenAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of POST /v1/tokens (RFC 6749, section 5.1)."""

    access_token: str
    expires_in: float
    refresh_token: str | None = None

    def kept(self) -> Tokens:
        """Turn the time left into a moment, so that no two clocks need to agree."""
        early = min(RENEW_BEFORE_S, self.expires_in / 4)
        return Tokens(
            access_token=self.access_token,
            refresh_token=self.refresh_token,
            fresh_until=time.time() + self.expires_in - early,
        )


class TokenKeeper(Protocol):
    """Keeps one login's tokens."""

    async def current(self) -> Tokens | None:
        """Return the tokens, if there are any."""

    async def renewed(self, stale: Tokens, exchange: Exchange) -> Tokens:
        """
        Exchange the refresh token of *stale* for the next pair and keep it; if somebody else has done so since,
        return what he got. What was begun is brought `to_its_end`.
        """

    async def keep(self, tokens: Tokens | None) -> None:
        """Keep these from now on; None forgets them."""


class MemoryTokens:
    """Keeps tokens as long as the program runs."""

    def __init__(self, tokens: Tokens | None = None) -> None:
        """Begin with *tokens*, or with none."""
        self._tokens = tokens
        self._lock = asyncio.Lock()

    async def current(self) -> Tokens | None:
        """Return the tokens, if there are any."""
        return self._tokens

    async def renewed(self, stale: Tokens, exchange: Exchange) -> Tokens:
        """Exchange, or take what another task got meanwhile."""
        async with self._lock:
            if self._tokens is None or self._tokens == stale:
                return await to_its_end(self._exchanged(stale, exchange))
            return self._tokens

    async def keep(self, tokens: Tokens | None) -> None:
        """Keep these from now on."""
        self._tokens = tokens

    async def _exchanged(self, stale: Tokens, exchange: Exchange) -> Tokens:
        self._tokens = await exchange(stale.refresh_token or "")
        return self._tokens


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """
    Await *work*, also when cancelled meanwhile, and be cancelled only then.

    Whoever gives a refresh token away and does not wait for the next one has lost both, and the login with them.
    """
    begun = asyncio.create_task(work)
    try:
        return await asyncio.shield(begun)
    except asyncio.CancelledError:
        await asyncio.wait([begun])
        raise


class FixedToken(MemoryTokens):
    """One access token that somebody else looks after."""

    def __init__(self, access_token: str) -> None:
        """There is nothing to renew it with."""
        super().__init__(Tokens(access_token=access_token))
