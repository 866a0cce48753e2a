"""
The sealed values of functions' secrets, each under a key that is used once.

What a function's record does not name is given to nobody. It is removed at once where it was just replaced or its
function has gone; after a crash at the next change, when it is old enough to be nobody's any more, and where the
function has gone as well, by `orphans`. Rows: F4.
"""

from __future__ import annotations

import time

from mayfly.bus.store import Store
from mayfly.domain.function import Function
from mayfly.domain.ids import UserId, ulid_time
from mayfly.domain.secret import Secret, SecretRef, secret_key

LEFT_S = 600.0
"""So old, a value that no record names is not just about to be named by whoever wrote it."""


class SecretValues:
    """The values of all functions."""

    def __init__(self, store: Store[Secret]) -> None:
        self._store = store

    async def write(self, function: Function, ref: SecretRef, value: Secret) -> None:
        """
        Write the value of a version that nobody has named yet.

        Raises: QueueUnavailable.
        """
        await self._store.create(secret_key(function.user_id, function.id, ref.key, ref.version), value)

    async def remove(self, function: Function, ref: SecretRef) -> None:
        """
        Remove the value of one version, if it is there.

        Raises: QueueUnavailable.
        """
        await self._store.erase(secret_key(function.user_id, function.id, ref.key, ref.version))

    async def sweep(self, function: Function) -> None:
        """
        Remove what a crash has left: old values that the record of *function* does not name.

        Raises: QueueUnavailable.
        """
        named = {ref.version for ref in function.secrets}
        for key in await self._store.keys(f"{function.user_id}.{function.id}"):
            version = key.rpartition(".")[2]
            if version not in named and time.time() - ulid_time(version) > LEFT_S:
                await self._store.erase(key)

    async def forget(self, owner: UserId, function_id: str | None = None) -> None:
        """
        Remove all values of a function that is gone, or of a user who goes.

        Raises: QueueUnavailable.
        """
        for key in await self._store.keys(f"{owner}.{function_id}" if function_id else owner):
            await self._store.erase(key)
