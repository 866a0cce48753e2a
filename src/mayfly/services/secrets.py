"""
Setting, listing and deleting a function's secrets.

A new value is written under a new key; then the function's record is made to name it, by compare-and-set, and that is
the moment from which calls get it; then the value before is removed. A crash between any two leaves a value that no
record names (`secret_values`), and never a name without its value. Rows: F4.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog
from msgspec.structs import replace

from mayfly.bus.store import Conflict
from mayfly.bus.stores import Stores
from mayfly.domain.errors import InvalidRequest, NotFound, PreconditionFailed, QueueUnavailable, RequestError
from mayfly.domain.function import RESERVED_ENV_PREFIX, Function
from mayfly.domain.ids import FunctionName, UserId, new_ulid
from mayfly.domain.secret import (
    ENVIRONMENT_MAX_BYTES,
    FILES_MAX_BYTES,
    SECRETS_MAX,
    Delivery,
    Secret,
    SecretRef,
    secret_place,
)
from mayfly.services.functions import CHANGE_ATTEMPTS, Functions
from mayfly.services.sealing import Sealer
from mayfly.services.secret_values import SecretValues

log = structlog.get_logger()


class Secrets:
    """The secrets of all functions; each method sees one owner's only."""

    def __init__(self, stores: Stores, functions: Functions, sealer: Sealer) -> None:
        """Seal with the key of *sealer*."""
        self._store = stores.functions
        self._functions = functions
        self._values = SecretValues(stores.secrets)
        self._sealer = sealer

    async def put(self, owner: UserId, name: FunctionName, key: str, value: bytes, delivery: Delivery) -> None:
        """
        Set a secret. When this returns, the next call has it.

        Raises: NotFound; InvalidRequest with the limit that it would exceed; NotAllowed without a sealing key;
        PreconditionFailed; QueueUnavailable.
        """
        _check_variable(key, value, delivery)
        function = (await self._functions.get(owner, name)).value
        ref = SecretRef(key=key, version=new_ulid(), delivery=delivery, size_bytes=len(value), updated_at=time.time())
        _with(function, ref)
        sealed = self._sealer.seal(value, secret_place(owner, function.id, ref))
        await self._values.write(function, ref, Secret(sealed=sealed))
        try:
            await self._change(function, key, lambda present: _with(present, ref))
        except RequestError:
            await self._withdraw(function, ref)
            raise
        log.info("secret.set", user_id=owner, function=name, key=key, delivery=str(delivery))

    async def list(self, owner: UserId, name: FunctionName) -> list[SecretRef]:
        """
        List a function's secrets by key, without their values.

        Raises: NotFound; QueueUnavailable.
        """
        return sorted((await self._functions.get(owner, name)).value.secrets, key=lambda ref: ref.key)

    async def get(self, owner: UserId, name: FunctionName, key: str) -> SecretRef:
        """
        Say of one secret all but its value.

        Raises: NotFound; QueueUnavailable.
        """
        return _named((await self._functions.get(owner, name)).value, key)

    async def delete(self, owner: UserId, name: FunctionName, key: str) -> None:
        """
        Delete a secret. When this returns, the next call does not have it.

        Raises: NotFound; PreconditionFailed; QueueUnavailable.
        """
        function = (await self._functions.get(owner, name)).value
        await self._change(function, key, lambda present: _without(present, key))
        log.info("secret.deleted", user_id=owner, function=name, key=key)

    async def _change(self, function: Function, key: str, change: Callable[[Function], Function]) -> None:
        """Change what the function's record names, and remove the value of *key* that it named before."""
        for _ in range(CHANGE_ATTEMPTS):
            present = await self._functions.get(function.user_id, function.name)
            if present.value.id != function.id:
                raise NotFound(f"Function {function.name!r} was deregistered meanwhile, and registered anew.")
            changed = replace(change(present.value), updated_at=time.time())
            try:
                await self._store.update(present.key, changed, revision=present.revision)
            except Conflict:
                continue
            # An attempt whose answer was lost, and upon which somebody else has built, has named the new one already.
            replaced = set(present.value.secrets) - set(changed.secrets)
            await self._tidy(changed, [ref for ref in replaced if ref.key == key])
            return
        raise PreconditionFailed(f"Function {function.name!r} is being changed all the time; try again.")

    async def _withdraw(self, function: Function, ref: SecretRef) -> None:
        """Remove the value of a version that could not be named; an attempt whose answer was lost may have named it."""
        present = await self._store.get(function.key)
        if present is None or present.value.id != function.id or ref not in present.value.secrets:
            await self._values.remove(function, ref)

    async def _tidy(self, function: Function, replaced: Sequence[SecretRef]) -> None:
        """Remove values that no call gets any more. The change is made: if this fails, the next change does it."""
        try:
            for ref in replaced:
                await self._values.remove(function, ref)
            await self._values.sweep(function)
        except QueueUnavailable as error:
            log.warning("secret.left", function=function.name, reason=error.detail)


def _check_variable(key: str, value: bytes, delivery: Delivery) -> None:
    if delivery is not Delivery.ENVIRONMENT:
        return
    if key.startswith(RESERVED_ENV_PREFIX):
        raise InvalidRequest(
            f"Variables that begin with {RESERVED_ENV_PREFIX} are Mayfly's own: choose another name, or `as=file`.",
            field="key",
        )
    if b"\0" in value:
        raise InvalidRequest(
            f"The secret has a NUL character at byte {value.index(0)}, which no variable can have: use `as=file`.",
            field="value",
        )


def _with(function: Function, ref: SecretRef) -> Function:
    """
    Return the function with a secret more, or another value of one.

    Raises: InvalidRequest when it has too many, or too much of them.
    """
    secrets = (*(other for other in function.secrets if other.key != ref.key), ref)
    if len(secrets) > SECRETS_MAX:
        raise InvalidRequest(f"A function has at most {SECRETS_MAX} secrets; delete one first.", field="key")
    most = ENVIRONMENT_MAX_BYTES if ref.delivery is Delivery.ENVIRONMENT else FILES_MAX_BYTES
    size = sum(len(other.key) + other.size_bytes + 2 for other in secrets if other.delivery is ref.delivery)
    if size > most:
        raise InvalidRequest(
            f"A function's secrets that are given as `{ref.delivery}` may have {most} bytes in all, names included, "
            f"and would have {size}. Nothing was changed.",
            field="value",
        )
    return replace(function, secrets=secrets)


def _without(function: Function, key: str) -> Function:
    gone = _named(function, key)
    return replace(function, secrets=tuple(ref for ref in function.secrets if ref is not gone))


def _named(function: Function, key: str) -> SecretRef:
    for ref in function.secrets:
        if ref.key == key:
            return ref
    raise NotFound(
        f"Function {function.name!r} has no secret {key!r}. `GET /v1/functions/{function.name}/secrets` lists them."
    )
