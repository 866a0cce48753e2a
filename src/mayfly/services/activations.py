"""Reading activations afterwards: the record, the result, the logs. Rows: F4, F10, F12."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from mayfly.bus.connection import Bus
from mayfly.bus.responses import read_response
from mayfly.bus.stores import Stores
from mayfly.domain.activation import Activation
from mayfly.domain.errors import Gone, MayflyError, NotFound
from mayfly.domain.ids import UserId, split_activation_id
from mayfly.services.outcome import Succeeded, outcome_of


@dataclass(frozen=True, slots=True)
class Logs:
    """What a function wrote to stderr: all of it, or its end."""

    stderr: bytes
    truncated: bool


class Activations:
    """The records of all users; each method sees one owner's only."""

    def __init__(self, bus: Bus, stores: Stores) -> None:
        """Work on an open bus."""
        self._bus = bus
        self._store = stores.activations

    async def get(self, owner: UserId, activation_id: str) -> Activation:
        """
        Read a record.

        Raises: NotFound; QueueUnavailable.
        """
        parts = split_activation_id(activation_id)
        entry = await self._store.get(f"{owner}.{parts[0]}.{parts[1]}") if parts else None
        if entry is None:
            raise NotFound(
                f"You have no activation {activation_id!r}. Records are kept for some time only; "
                "`GET /v1/activations` lists yours."
            )
        return entry.value

    async def list(
        self, owner: UserId, *, limit: int, after: str | None = None, function: str | None = None
    ) -> tuple[list[Activation], str | None]:
        """
        List an owner's activations, the newest first, *limit* at a time; the second value continues the list.

        Raises: QueueUnavailable.
        """
        keys = sorted(await self._store.keys(owner), key=_by_time, reverse=True)
        found: list[Activation] = []
        for start in range(0, len(keys), limit):
            chunk = [key for key in keys[start : start + limit] if after is None or _by_time(key) < after]
            entries = await asyncio.gather(*(self._store.get(key) for key in chunk))
            found += [e.value for e in entries if e and (function is None or e.value.function == function)]
            if len(found) > limit:
                break
        more = _cursor(found[limit - 1]) if len(found) > limit else None
        return found[:limit], more

    async def outcome(self, owner: UserId, activation_id: str) -> Succeeded | MayflyError | None:
        """
        Say how an activation ended; None while it has not.

        Raises: NotFound; QueueUnavailable.
        """
        record = await self.get(owner, activation_id)
        return await outcome_of(self._bus, record) if record.state.is_final else None

    async def logs(self, owner: UserId, activation_id: str) -> Logs:
        """
        Read what the function wrote to stderr; empty while it runs.

        Raises: NotFound; Gone when it is no longer kept; QueueUnavailable.
        """
        record = await self.get(owner, activation_id)
        if not record.attempt or not record.response_seq:
            return Logs(b"", truncated=False)
        response = await read_response(self._bus, record.key, attempt=record.attempt)
        if response is None:
            raise Gone("The logs are no longer kept.", ran=record.ran)
        return Logs(response.stderr, response.stderr_truncated)


def _by_time(key: str) -> str:
    """A ULID sorts by time; the rest of the key makes the order whole."""
    _, instance, ulid = key.split(".")
    return f"{ulid}.{instance}"


def _cursor(record: Activation) -> str:
    return f"{record.ulid}.{record.instance}"
