"""
`mayfly secrets reseal`: what is sealed with an older key is sealed with the newest, so that the older can be removed.

It holds private keys and the admin's access to NATS at the same time, which no role does: an operator runs it, for a
moment. Run again it goes on where it stopped. Rows: D7.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from mayfly.bus.codec import Undecodable, Versioned
from mayfly.bus.connection import Bus
from mayfly.bus.store import Conflict, Entry, Store
from mayfly.bus.stores import Stores
from mayfly.domain.errors import SecretUnavailable
from mayfly.domain.function import Function
from mayfly.domain.ids import UserId
from mayfly.domain.registry import RegistryCredentials, registry_place
from mayfly.domain.secret import Secret, secret_key, secret_place
from mayfly.services.sealing import Keyring, Place

T = TypeVar("T", Secret, RegistryCredentials)
V = TypeVar("V", bound=Versioned)


async def reseal(bus: Bus, directory: Path) -> list[str]:
    """
    Seal everything with the newest of the private keys in *directory*; return what was done, one sentence each.

    Raises: SealingKeyUnusable; QueueUnavailable; OSError.
    """
    resealing = Resealing(Stores.on(bus), Keyring.load(directory))
    await resealing.secrets()
    await resealing.passwords()
    return resealing.report()


class Resealing:
    """One run over all that is sealed."""

    def __init__(self, stores: Stores, keyring: Keyring) -> None:
        self._stores = stores
        self._keyring = keyring
        self._done = 0
        self._lost: list[str] = []
        self._changed: list[str] = []
        self._unreadable: list[str] = []

    async def secrets(self) -> None:
        """Seal the secrets of all functions, as their records name them."""
        for name in await self._stores.functions.keys():
            if function := await self._read(self._stores.functions, name):
                await self._secrets_of(function.value)

    async def _secrets_of(self, function: Function) -> None:
        for ref in function.secrets:
            key = secret_key(function.user_id, function.id, ref.key, ref.version)
            if entry := await self._read(self._stores.secrets, key):
                place = secret_place(function.user_id, function.id, ref)
                what = f"secret {ref.key} of function {function.name} of user {function.user_id}"
                await self._reseal(self._stores.secrets, entry, place, what)

    async def passwords(self) -> None:
        """Seal all users' passwords for registries."""
        for key in await self._stores.registries.keys():
            if entry := await self._read(self._stores.registries, key):
                owner, account = UserId(key.partition(".")[0]), entry.value
                place = registry_place(owner, account.host, account.username)
                what = f"the password of user {owner} for {account.host}"
                await self._reseal(self._stores.registries, entry, place, what)

    async def _read(self, store: Store[V], key: str) -> Entry[V] | None:
        """Read an entry; one that cannot be read is said, and no reason to leave the others."""
        try:
            return await store.get(key)
        except Undecodable:
            self._unreadable.append(key)
            return None

    async def _reseal(self, store: Store[T], entry: Entry[T], place: Place, what: str) -> None:
        if entry.value.sealed.kid == self._keyring.newest:
            return
        try:
            content = self._keyring.opener.open(entry.value.sealed, place, what=what)
        except SecretUnavailable:
            self._lost.append(what)
            return
        anew = replace(entry.value, sealed=self._keyring.sealer.seal(content, place))
        try:
            await store.update(entry.key, anew, revision=entry.revision)
        except Conflict:  # set anew or deleted meanwhile: with which key, the next run says
            self._changed.append(what)
            return
        self._done += 1

    def report(self) -> list[str]:
        """Say what was done, and what can be removed now."""
        lines = [f"sealed {self._done} anew with {self._keyring.newest}"]
        lines += [f"NOT DONE {what}: nobody here can open it, so its owner has to set it again" for what in self._lost]
        lines += [f"NOT DONE {what}: it was just being changed, so run this again" for what in self._changed]
        lines += [f"NOT DONE {key}: what lies there is damaged, or of a later version" for key in self._unreadable]
        older = ", ".join(f"{kid}.pem" for kid in self._keyring.older)
        if older and not (self._lost or self._changed or self._unreadable):
            lines.append(
                f"NEXT remove {older} from the workers' sealing-keys, if all API servers were restarted before this, "
                "and run `mayfly secrets create`. A backup that was made before still needs them."
            )
        return lines
