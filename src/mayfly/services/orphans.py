"""
Sealed values whose function is gone: whoever deregistered it crashed before they were removed. Nobody is given them,
but they are to go. Every API server looks once an hour, beside the calls.

Guarantee: no value of a function that is there is removed. A function's id is never used again, so one that is not
among its owner's functions is gone; it must not be there twice, an hour apart, as a backup that is being restored has
values before their function. An owner of whose functions one cannot be read keeps all. Rows: F4.
"""

from __future__ import annotations

import asyncio

import structlog

from mayfly.bus.codec import Undecodable
from mayfly.bus.stores import Stores
from mayfly.domain.errors import QueueUnavailable

log = structlog.get_logger()

EVERY_S = 3600.0


class Orphans:
    """The look of one API server."""

    def __init__(self, stores: Stores) -> None:
        """Nothing was seen yet."""
        self._secrets = stores.secrets
        self._functions = stores.functions
        self._seen: set[str] = set()  # keys of values without a function, at the last look

    async def run(self) -> None:
        """Look for ever."""
        while True:
            try:
                await self.sweep()
            except QueueUnavailable as error:
                log.warning("secrets.not-swept", reason=error.detail)
            await asyncio.sleep(EVERY_S)

    async def sweep(self) -> None:
        """
        Remove what had no function at the look before, and has none now.

        Raises: QueueUnavailable.
        """
        found = await self._without_function()
        for key in found & self._seen:
            await self._secrets.erase(key)
            log.info("secret.orphan-removed", key=key)
        self._seen = found - self._seen

    async def _without_function(self) -> set[str]:
        by_owner: dict[str, list[str]] = {}
        for key in await self._secrets.keys():
            by_owner.setdefault(key.partition(".")[0], []).append(key)
        found: set[str] = set()
        for owner, keys in by_owner.items():
            ids = await self._ids(owner)
            found.update(key for key in keys if ids is not None and _function_id(key) not in ids)
        return found

    async def _ids(self, owner: str) -> set[str] | None:
        """The ids of a user's functions; None if one of them cannot be read."""
        try:
            entries = [await self._functions.get(key) for key in await self._functions.keys(owner)]
        except Undecodable:
            return None
        return {entry.value.id for entry in entries if entry}


def _function_id(key: str) -> str:
    """Of which function a value is; of none, where the key is not one that we write."""
    return key.partition(".")[2].partition(".")[0]
