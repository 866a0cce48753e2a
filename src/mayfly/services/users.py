"""
Users: registering, changing the password, deleting the account; and what the operator sets and sees.

A user's id is random and never used again; the name is free again after a deletion. Deleting ends the sessions first,
then the functions with their secrets, then the records, and the account itself last, so that a deletion which was
interrupted can be repeated by its owner. An account is made by `Users.register` and in no other way. Rows: F2.
"""

from __future__ import annotations

import asyncio
import time
from typing import Literal, TypeVar

import structlog
from msgspec.structs import replace

from mayfly.bus.codec import Undecodable, Versioned
from mayfly.bus.connection import Bus
from mayfly.bus.responses import purge_responses
from mayfly.bus.store import Conflict, Entry, Store
from mayfly.bus.stores import Stores
from mayfly.domain.activation import Activation
from mayfly.domain.errors import AlreadyExists, NotAllowed, NotAuthenticated, NotFound
from mayfly.domain.ids import USER_NAME, UserId, UserName, new_id
from mayfly.domain.user import Role, Session, User
from mayfly.services.invitations import Invitations
from mayfly.services.passwords import Passwords
from mayfly.services.secret_values import SecretValues
from mayfly.services.sessions import Sessions, tell_sessions

log = structlog.get_logger()

DELETED_AT_ONCE = 16

Registration = Literal["open", "invitation", "closed"]

T = TypeVar("T", bound=Versioned)


class Users:
    """All accounts."""

    def __init__(
        self, bus: Bus, stores: Stores, sessions: Sessions, passwords: Passwords, *, registration: Registration
    ) -> None:
        """*registration* says who may register: anybody, those with an invitation, or nobody."""
        self._bus = bus
        self._store = stores.users
        self._functions = stores.functions
        self._activations = stores.activations
        self._secret_values = SecretValues(stores.secrets)
        self._registries = stores.registries
        self._sessions = sessions
        self._passwords = passwords
        self._registration = registration
        self._invitations = Invitations(stores)

    async def register(self, name: UserName, password: str, *, invitation: str | None = None) -> User:
        """
        Make an account. Where registration is by invitation, *invitation* is the code of one, and used up by this;
        elsewhere it is not looked at.

        Raises: NotAllowed when registration is closed, or the invitation is not good; AlreadyExists; TooManyAttempts;
        QueueUnavailable.
        """
        code = await self._admitted_by(invitation)
        free_at = await self._store.vacancy(name)
        if free_at is None:
            raise _taken(name)
        password_hash = await self._passwords.hash(password)
        claimed = await self._invitations.claim(code, name, revision=free_at) if code else None
        user = User(
            id=claimed.user_id if claimed else UserId(new_id()),
            name=name,
            password_hash=password_hash,
            created_at=time.time(),
            invitation=claimed.invitation_id if claimed else None,
        )
        try:
            await self._store.update(name, user, revision=free_at)
        except Conflict:
            if claimed:
                await self._invitations.release(claimed)
            raise _taken(name) from None
        if claimed:
            await self._invitations.use_up(claimed)
        log.info("user.registered", user_id=user.id)
        return user

    async def get(self, session: Session) -> User:
        """
        Read the account of a session.

        Raises: NotAuthenticated when it is gone; QueueUnavailable.
        """
        return (await self._entry(session)).value

    async def change_password(self, session: Session, *, current: str, new: str, end_keys: bool = False) -> None:
        """
        Set a new password and end all the user's other logins; his keys only if *end_keys*.

        Raises: NotAllowed when *current* is wrong; TooManyAttempts; QueueUnavailable.
        """
        new_hash: str | None = None
        while True:
            entry = await self._entry(session)
            if not await self._passwords.matches(current, entry.value.password_hash):
                raise NotAllowed("The current password is wrong.", field="current_password")
            new_hash = new_hash or await self._passwords.hash(new)
            try:
                await self._store.update(
                    entry.key, replace(entry.value, password_hash=new_hash), revision=entry.revision
                )
            except Conflict:
                continue  # the password changed meanwhile, so the current one is checked again
            break
        await self._sessions.end_all(session.user_id, but=session.id, keys=end_keys)
        log.info("user.password-changed", user_id=session.user_id)

    async def delete(self, session: Session) -> None:
        """
        Delete the account with all that belongs to it. Activations that still run finish, unread by anybody.

        Raises: NotAuthenticated when it is gone already; QueueUnavailable, and then it can be repeated.
        """
        await self.remove((await self._entry(session)).value)

    async def remove(self, user: User) -> None:
        """
        Delete an account as `delete` does, for an operator; nothing happens if it is gone already.

        Raises: QueueUnavailable, and then it can be repeated.
        """
        owner = user.id
        await self._sessions.end_all(owner)
        await self._delete_what_is_kept(owner)
        await _delete_all(self._activations, owner)
        await purge_responses(self._bus, owner)
        if user.invitation:  # before the account: `services.invitations` says why
            await self._invitations.remove(user.invitation)
        while (entry := await self._store.get(user.name)) and entry.value.id == owner:
            try:
                await self._store.delete(entry.key, revision=entry.revision)
            except Conflict:
                continue
        await self._sessions.end_all(owner)  # whoever logged in meanwhile
        await self._delete_what_is_kept(owner)  # and what was being written when the logins ended
        log.info("user.deleted", user_id=owner)

    async def _delete_what_is_kept(self, owner: UserId) -> None:
        """Delete a user's functions with their secrets, and his accounts at registries."""
        await _delete_all(self._functions, owner)
        await self._secret_values.forget(owner)
        await _delete_all(self._registries, owner)

    async def _admitted_by(self, invitation: str | None) -> str | None:
        """
        Let somebody register; return the code of the invitation that it takes, or None if it takes none.

        Raises: NotAllowed; QueueUnavailable.
        """
        if self._registration == "open":
            return None
        if self._registration == "closed":
            raise NotAllowed("Registration is closed here. The operator opens it with MAYFLY_REGISTRATION=open.")
        if invitation is None:
            raise NotAllowed(
                "Registration is by invitation here: send `invitation`, a code that an operator gives you.",
                field="invitation",
            )
        await self._invitations.check(invitation)
        return invitation

    async def _entry(self, session: Session) -> Entry[User]:
        entry = await self._store.get(session.user_name)
        if entry is None or entry.value.id != session.user_id:
            raise NotAuthenticated("This account no longer exists.", error="invalid_token")
        return entry


async def find_user(stores: Stores, name: str) -> Entry[User]:
    """
    Read an account by its name.

    Raises: NotFound; QueueUnavailable.
    """
    entry = await stores.users.get(name) if USER_NAME.fullmatch(name) else None
    if entry is None:
        raise NotFound(f"There is no user {name!r}.")
    return entry


async def all_users(stores: Stores) -> list[User]:
    """
    Read all accounts, by name.

    Raises: QueueUnavailable.
    """
    found = [await stores.users.get(name) for name in await stores.users.keys()]
    return [entry.value for entry in found if entry]


async def limit_user(stores: Stores, name: str, max_activations: int | None) -> User:
    """
    Set how many activations of a user may be in flight, below the limit for all; None lifts that.

    Raises: as `change_user`.
    """
    return await change_user(stores, name, max_activations=max_activations)


async def give_role(stores: Stores, name: str, role: Role) -> User:
    """
    Make a user an operator, or an operator a user.

    Raises: as `change_user`.
    """
    return await change_user(stores, name, role=role)


async def change_user(stores: Stores, name: str, **changes: object) -> User:
    """
    Change what operators set about an account: `role`, `max_activations`, `suspended`. It holds from the next call on,
    whichever login it comes with.

    Raises: NotFound; QueueUnavailable, and then it can be repeated.
    """
    await _set(stores, name, changes)
    while True:  # once, unless somebody else changes the account: all logins get what it says in the end
        entry = await find_user(stores, name)
        await tell_sessions(stores.sessions, entry.value)
        if (await find_user(stores, name)).revision == entry.revision:
            return entry.value


async def _set(stores: Stores, name: str, changes: dict[str, object]) -> None:
    while True:
        entry = await find_user(stores, name)
        user = replace(entry.value, **changes)
        try:
            await stores.users.update(entry.key, user, revision=entry.revision)
        except Conflict:
            continue  # the password has changed meanwhile
        log.info("user.changed", user_id=user.id, **changes)
        return


async def _delete_all(store: Store[T], owner: UserId) -> None:
    """Delete all of a user's entries but records of activations that have not ended; those have their time to live."""
    left = iter(await store.keys(owner))

    async def delete_some() -> None:
        for key in left:  # there may be very many, so there is no task for each
            try:
                while (entry := await store.get(key)) and not _in_flight(entry.value):
                    if await _is_deleted(store, entry):
                        break
            except Undecodable as error:  # it is nobody's any more, and no reason to keep the account
                log.error("user.entry-undecodable", key=key, error=str(error))

    await asyncio.gather(*(delete_some() for _ in range(DELETED_AT_ONCE)))


async def _is_deleted(store: Store[T], entry: Entry[T]) -> bool:
    """Delete an entry; False if it changed meanwhile."""
    try:
        await store.delete(entry.key, revision=entry.revision)
    except Conflict:
        return False
    return True


def _in_flight(value: object) -> bool:
    return isinstance(value, Activation) and not value.state.is_final


def _taken(name: str) -> AlreadyExists:
    return AlreadyExists(f"The user name {name!r} is taken; choose another.")
