"""
Opening what is sealed, at the moment and place of its use: a function's secrets for one container, a user's password
for one pull. Nothing is kept. Rows: F4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mayfly.bus.stores import Stores
from mayfly.domain.errors import Gone, SecretUnavailable
from mayfly.domain.function import Function
from mayfly.domain.ids import UserId
from mayfly.domain.registry import OpenedCredentials, registry_key, registry_place
from mayfly.domain.secret import OpenedSecret, Secret, SecretRef, secret_key, secret_place
from mayfly.services.sealing import Opener

READ_AT_MOST = 8  # times, when the secrets are changed between two reads


async def open_secrets(
    stores: Stores, opener: Opener, function: Function, *, admitted: Function | None = None
) -> tuple[OpenedSecret, ...]:
    """
    Open the secrets that are due to a call of *function*, as its record was just read, which was *admitted* when the
    record was so (`_due`). A value that is gone was replaced or deleted meanwhile: then the record says what there is
    now.

    Raises: SecretUnavailable; Gone when the function was deregistered meanwhile; QueueUnavailable.
    """
    for _ in range(READ_AT_MOST):
        due = _due(function, admitted or function)
        values = await asyncio.gather(*(_value(stores, function, ref) for ref in due))
        found = [(ref, value) for ref, value in zip(due, values, strict=True) if value is not None]
        if len(found) == len(due):
            return tuple(_opened(opener, function, ref, value) for ref, value in found)
        entry = await stores.functions.get(function.key)
        if entry is None or entry.value.id != function.id:
            raise deregistered(function)
        if entry.value.secrets == function.secrets:
            missing = {ref.key for ref in due} - {ref.key for ref, _ in found}
            raise SecretUnavailable(
                f"The value of secret {min(missing)!r} is gone. Set it again, or delete it. Nothing was run."
            )
        function = entry.value
    raise SecretUnavailable("The function's secrets are being changed all the time. Nothing was run.")


def _due(function: Function, admitted: Function) -> tuple[SecretRef, ...]:
    """
    Say which secrets a call gets: those that the function has now. But one that was admitted before the function was
    replaced runs what it was: perhaps the very program that was replaced because it cannot be trusted. So it gets those
    that it was admitted with, and does not run when one of them was changed since.

    Raises: SecretUnavailable.
    """
    if function.runs_as(admitted):
        return function.secrets
    changed = {ref.key for ref in set(admitted.secrets) - set(function.secrets)}
    if changed:
        raise SecretUnavailable(
            f"Function {function.name!r} was replaced while this call waited, and its secret {min(changed)!r} was set "
            "anew or deleted. Nothing was run. Call it again."
        )
    return admitted.secrets


def deregistered(function: Function) -> Gone:
    """Say that a function went while its call waited."""
    return Gone(f"Function {function.name!r} was deregistered while this call waited. Nothing was run.")


async def _value(stores: Stores, function: Function, ref: SecretRef) -> Secret | None:
    entry = await stores.secrets.get(secret_key(function.user_id, function.id, ref.key, ref.version))
    return entry.value if entry else None


def _opened(opener: Opener, function: Function, ref: SecretRef, value: Secret) -> OpenedSecret:
    place = secret_place(function.user_id, function.id, ref)
    content = opener.open(value.sealed, place, what=f"Secret {ref.key!r}")
    return OpenedSecret(key=ref.key, delivery=ref.delivery, value=content)


def credentials_finder(stores: Stores, opener: Opener) -> Callable[[UserId, str], Awaitable[OpenedCredentials | None]]:
    """Make what the image store asks for a user's own credentials at a registry, before each pull."""

    async def find(owner: UserId, host: str) -> OpenedCredentials | None:
        entry = await stores.registries.get(registry_key(owner, host))
        if entry is None:
            return None
        username = entry.value.username
        place = registry_place(owner, host, username)
        password = opener.open(entry.value.sealed, place, what=f"Your password for registry {host}")
        return OpenedCredentials(username=username, password=password.decode())

    return find
