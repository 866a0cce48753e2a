"""
What operators do about other people's accounts and calls, and about workers: look, limit, suspend, delete, end, drain.

Nothing here shows a parameter, a result, a log, an environment or a secret. An operator cannot take the role from
himself, nor suspend or delete himself here: whoever has the machine could give it back, nobody else. Rows: F2, F13, A5.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from mayfly.bus.codec import Undecodable
from mayfly.bus.connection import Bus
from mayfly.bus.queue import in_flight, walk
from mayfly.bus.requests import ask_to_drain
from mayfly.bus.stores import Stores
from mayfly.domain.activation import Activation
from mayfly.domain.errors import NotAllowed, NotFound, NoWorkers
from mayfly.domain.ids import ID
from mayfly.domain.user import Session, User
from mayfly.domain.worker import WorkerBeat
from mayfly.services.cancel import Canceller
from mayfly.services.users import Users, change_user, find_user

log = structlog.get_logger()

ENDED_AT_ONCE = 256  # each is a wait for a worker


@dataclass(frozen=True, slots=True)
class Account:
    """An account, and what it uses now."""

    user: User
    in_flight: int


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a user's activations that were to be ended."""

    ended: int
    going_on: int  # their workers need longer; they were told. Or nobody can read what they are


class Operators:
    """All that operators can do, through one API server."""

    def __init__(self, bus: Bus, stores: Stores, users: Users, canceller: Canceller) -> None:
        """Accounts and records are those of everybody."""
        self._bus = bus
        self._stores = stores
        self._users = users
        self._canceller = canceller

    async def list(self, *, limit: int, after: str | None = None) -> tuple[list[User], str | None]:
        """
        List the accounts by name, *limit* at a time; the second value continues the list. A page can have fewer.

        Raises: QueueUnavailable.
        """
        names = [name for name in await self._stores.users.keys() if after is None or name > after]
        page = names[:limit]
        entries = await asyncio.gather(*(self._stores.users.get(name) for name in page))
        return [entry.value for entry in entries if entry], page[-1] if len(names) > limit else None

    async def show(self, name: str) -> Account:
        """
        Read an account.

        Raises: NotFound; QueueUnavailable.
        """
        user = (await find_user(self._stores, name)).value
        return Account(user, await in_flight(self._bus, user.id))

    async def change(self, name: str, by: Session, **changes: object) -> User:
        """
        Change `role`, `max_activations` or `suspended` of an account. It holds from the next call on.

        Raises: NotFound; NotAllowed; QueueUnavailable, and then it can be repeated.
        """
        if name == by.user_name and set(changes) & {"role", "suspended"}:
            raise _not_oneself()
        return await change_user(self._stores, name, **changes)

    async def delete(self, name: str, by: Session) -> None:
        """
        Delete an account with all that belongs to it, and end what it has in flight. It is suspended first, so that
        nothing comes while it goes.

        Raises: NotFound; NotAllowed; QueueUnavailable, and then it can be repeated.
        """
        if name == by.user_name:
            raise _not_oneself()
        user = await change_user(self._stores, name, suspended=True)
        await self._end_all(user)
        await self._users.remove(user)

    async def end(self, record: Activation) -> Activation:
        """
        End one activation of a user, and return its record: cancelled, or as it ended before; not final if its worker
        needs longer.

        Raises: NotFound when the record goes meanwhile; QueueUnavailable.
        """
        return await self._canceller.cancel(record, by_operator=True)

    async def end_all(self, name: str) -> Ended:
        """
        End all that a user has in flight at this moment.

        Raises: NotFound; QueueUnavailable.
        """
        return await self._end_all((await find_user(self._stores, name)).value)

    async def drain(self, worker_id: str, *, drained: bool) -> WorkerBeat:
        """
        Have a worker claim nothing more, give back what it has not started, and stay; or claim again.

        Raises: NotFound when there is none; NoWorkers when it does not answer; QueueUnavailable.
        """
        found = await self._stores.workers.get(worker_id) if ID.fullmatch(worker_id) else None
        if found is None or found.value.gone:
            raise NotFound(f"There is no worker {worker_id[:32]!r}. An id is new with each start of a worker.")
        if not await ask_to_drain(self._bus, found.value.id, drained=drained):
            raise NoWorkers("The worker does not answer; try again, and see by the list whether it did.")
        beat = await self._stores.workers.get(worker_id)
        return beat.value if beat else found.value

    async def _end_all(self, user: User) -> Ended:
        room = asyncio.Semaphore(ENDED_AT_ONCE)

        async def end(key: str) -> bool:
            async with room:
                try:
                    entry = await self._stores.activations.get(key)
                    return entry is None or (await self._canceller.cancel(entry.value, by_operator=True)).state.is_final
                except NotFound:  # its record has gone meanwhile
                    return True
                except Undecodable as error:  # nobody can end it, nor may it keep the others or the account
                    log.error("user.activation-undecodable", key=key, error=str(error))
                    return False

        keys = {queued.key async for queued in walk(self._bus, of=user.id)}
        ended = await asyncio.gather(*map(end, keys))
        log.info("user.activations-ended", user_id=user.id, activations=len(ended))
        return Ended(ended=sum(ended), going_on=len(ended) - sum(ended))


def _not_oneself() -> NotAllowed:
    return NotAllowed(
        "Nobody changes his own role, or suspends or deletes himself, here: ask another operator, or whoever has the "
        "machine (`mayfly users role`)."
    )
