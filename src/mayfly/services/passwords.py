"""
Password hashes: argon2id, computed beside the event loop, by a bounded number of threads with a bounded line.

A hash takes a core for some 50 ms and 32 MiB of memory. So a flood of logins is refused beyond the line (429), and
calls go on as before. Passwords are compared in Unicode's form NFC (RFC 8265 says why), so the same characters
typed on another keyboard are the same password. Rows: F3.
"""

from __future__ import annotations

import asyncio
import math
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from mayfly.domain.errors import TooManyAttempts

HASH_S = 0.06  # about what one takes; for the Retry-After of whom the line has no room for
WAITING_PER_THREAD = 16

HASHER = PasswordHasher(time_cost=3, memory_cost=32 * 1024, parallelism=1)
"""Above OWASP's minimum for argon2id (19 MiB, 2 passes). One lane, so that a hash takes one core and no more."""

T = TypeVar("T")


class Passwords:
    """Makes and checks hashes."""

    def __init__(self, concurrency: int) -> None:
        """*concurrency* hashes are computed at once, and `WAITING_PER_THREAD` times as many may wait."""
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="passwords")
        self._threads = concurrency
        self._most = concurrency * (1 + WAITING_PER_THREAD)
        self._inside = 0
        self._nobody = HASHER.hash("whoever has no account is compared with this")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """
        Hash a password with a salt of its own.

        Raises: TooManyAttempts.
        """
        return await self._run(_hash, password)

    async def matches(self, password: str, password_hash: str | None) -> bool:
        """
        Compare a password; None for the hash means that there is no such user, which takes as long.

        Raises: TooManyAttempts.
        """
        return await self._run(_verify, password_hash or self._nobody, password) and password_hash is not None

    def refuse_beyond_line(self) -> None:
        """
        Do nothing while there is room in the line.

        Raises: TooManyAttempts.
        """
        if self._inside >= self._most:
            wait_s = math.ceil(self._inside * HASH_S / self._threads)
            raise TooManyAttempts("Too many logins at once; try again in a few seconds.", retry_after_s=float(wait_s))

    async def _run(self, work: Callable[..., T], *args: str) -> T:
        self.refuse_beyond_line()
        self._inside += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)
        finally:
            self._inside -= 1


def _hash(password: str) -> str:
    return HASHER.hash(unicodedata.normalize("NFC", password))


def _verify(password_hash: str, password: str) -> bool:
    try:
        return HASHER.verify(password_hash, unicodedata.normalize("NFC", password))
    except (VerifyMismatchError, InvalidHashError):
        return False
