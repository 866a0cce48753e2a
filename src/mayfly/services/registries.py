"""
Users' own credentials for registries. A worker opens them for that user's pulls from that host, and for nothing else.

Rows: F4, F6.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from mayfly.bus.store import Conflict
from mayfly.bus.stores import Stores
from mayfly.domain.errors import InvalidRequest, NotFound
from mayfly.domain.ids import UserId
from mayfly.domain.registry import HOSTS_MAX, REGISTRIES_MAX, RegistryCredentials, registry_key, registry_place
from mayfly.services.sealing import Sealer

log = structlog.get_logger()


class Registries:
    """The credentials of all users; each method sees one owner's only."""

    def __init__(self, stores: Stores, sealer: Sealer) -> None:
        """Seal with the key of *sealer*."""
        self._store = stores.registries
        self._sealer = sealer

    async def put(self, owner: UserId, host: str, *, username: str, password: str) -> None:
        """
        Set the credentials for *host*, a registry as `images.reference.registry_host` writes it.

        Raises: InvalidRequest when there would be too many; NotAllowed without a sealing key; QueueUnavailable.
        """
        sealed = self._sealer.seal(password.encode(), registry_place(owner, host, username))
        entry = RegistryCredentials(host=host, username=username, updated_at=time.time(), sealed=sealed)
        others = [other for other in await self.list(owner) if other.host != host]
        if len(others) >= REGISTRIES_MAX:
            raise InvalidRequest(f"You have credentials for {REGISTRIES_MAX} registries, the most that can be kept.")
        key = registry_key(owner, host)
        keys = await self._store.keys(owner)
        if key not in keys and len(keys) >= HOSTS_MAX:
            raise InvalidRequest(
                f"You have named {HOSTS_MAX} registries, those that you have deleted included: the most there can be. "
                "Name one of them."
            )
        while True:
            before = await self._store.get(key)
            try:
                if before is None:
                    await self._store.create(key, entry)
                else:
                    await self._store.update(key, entry, revision=before.revision)
            except Conflict:
                continue  # the other one was here first, so this is the later one
            break
        log.info("registry.set", user_id=owner, host=host)

    async def list(self, owner: UserId) -> list[RegistryCredentials]:
        """
        List a user's registries by host.

        Raises: QueueUnavailable.
        """
        found = await asyncio.gather(*(self._store.get(key) for key in await self._store.keys(owner)))
        return sorted((entry.value for entry in found if entry), key=lambda entry: entry.host)

    async def delete(self, owner: UserId, host: str) -> None:
        """
        Forget the credentials for a host. Images that were pulled with them stay the user's own.

        Raises: NotFound; QueueUnavailable.
        """
        key = registry_key(owner, host)
        while entry := await self._store.get(key):
            try:
                await self._store.delete(key, revision=entry.revision)
            except Conflict:
                continue
            log.info("registry.deleted", user_id=owner, host=host)
            return
        raise NotFound(f"You have no credentials for registry {host!r}. `GET /v1/registries` lists yours.")
