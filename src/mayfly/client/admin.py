"""What only operators may do, as `Client.admin`: one method for each call below /v1/admin."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any

import httpx
import msgspec

from mayfly.client.bodies import as_json, as_utf8, read, segment
from mayfly.client.shapes import Worker

PAGE = 200

USERS, INVITATIONS, WORKERS = "/v1/admin/users", "/v1/admin/invitations", "/v1/admin/workers"

Send = Callable[..., Awaitable[httpx.Response]]


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody's account. `in_flight` is known where one account was asked for."""

    id: str
    username: str
    role: str
    created_at: datetime
    max_activations: int | None
    suspended: bool
    invitation: str | None
    in_flight: int | None = None


class _AccountPage(msgspec.Struct, frozen=True, kw_only=True):
    users: list[Account]
    next: str | None


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody's activation, as operators see it."""

    id: str
    function: str
    image: str
    state: str
    ran: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    worker: str | None
    code: str | None
    run_s: float | None
    cpu_s: float | None
    memory_peak_bytes: int | None


class _CallPage(msgspec.Struct, frozen=True, kw_only=True):
    activations: list[Call]
    next: str | None


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What became of activations that were to be ended; the workers of those that go on were told."""

    ended: int
    going_on: int


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """An invitation. `code` is known where it was just made."""

    id: str
    note: str
    created_by: str
    created_at: datetime
    expires_at: datetime
    code: str | None = None


class _InvitationPage(msgspec.Struct, frozen=True, kw_only=True):
    invitations: list[Invitation]
    next: str | None


class _Workers(msgspec.Struct, frozen=True, kw_only=True):
    workers: list[Worker]


class Admin:
    """One operator's calls; everybody else is refused with 403 `not-allowed`."""

    def __init__(self, send: Send) -> None:
        """*send* sends with the operator's token."""
        self._send = send

    # Users

    async def users(self) -> AsyncIterator[Account]:
        """List all accounts by name, fetching page after page."""
        after: str | None = None
        while True:
            page = read(await self._page(USERS, after), _AccountPage)
            for account in page.users:
                yield account
            after = page.next
            if after is None:
                return

    async def user(self, name: str) -> Account:
        """Show an account, and how many activations it has in flight."""
        return read(await self._send("GET", f"{USERS}/{segment(name)}"), Account)

    async def change_user(self, name: str, **changes: object) -> Account:
        """Set `role`, `max_activations` (None for no limit of its own) or `suspended`; the rest stays."""
        return read(await self._send("PATCH", f"{USERS}/{segment(name)}", **as_json(changes)), Account)

    async def delete_user(self, name: str) -> None:
        """Delete an account with all that belongs to it, and end what it has in flight."""
        await self._send("DELETE", f"{USERS}/{segment(name)}")

    # Activations

    async def activations(self, name: str, *, state: str | None = None) -> AsyncIterator[Call]:
        """List a user's activations, the newest first, fetching page after page."""
        after: str | None = None
        while True:
            page = read(await self._page(f"{USERS}/{segment(name)}/activations", after, state=state), _CallPage)
            for call in page.activations:
                yield call
            after = page.next
            if after is None:
                return

    async def end(self, name: str, activation_id: str) -> Call:
        """End an activation of a user; not final yet if its worker needs longer than the API waits."""
        path = f"{USERS}/{segment(name)}/activations/{segment(activation_id)}"
        return read(await self._send("DELETE", path), Call)

    async def end_all(self, name: str) -> Ended:
        """End all that a user has in flight."""
        return read(await self._send("DELETE", f"{USERS}/{segment(name)}/activations"), Ended)

    # Invitations

    async def invite(self, *, expires_in_s: int | None = None, note: str = "") -> Invitation:
        """Make an invitation. Its `code` is shown once."""
        body = {"note": note, **({} if expires_in_s is None else {"expires_in_s": expires_in_s})}
        return read(await self._send("POST", INVITATIONS, **as_json(body)), Invitation)

    async def invitations(self) -> AsyncIterator[Invitation]:
        """List the invitations that can still be used, the newest first, fetching page after page."""
        after: str | None = None
        while True:
            page = read(await self._page(INVITATIONS, after), _InvitationPage)
            for invitation in page.invitations:
                yield invitation
            after = page.next
            if after is None:
                return

    async def revoke_invitation(self, invitation_id: str) -> None:
        """Revoke an invitation."""
        await self._send("DELETE", f"{INVITATIONS}/{segment(invitation_id)}")

    # Workers

    async def workers(self) -> list[Worker]:
        """List the workers that live."""
        return read(await self._send("GET", WORKERS), _Workers).workers

    async def drain(self, worker_id: str) -> Worker:
        """Have a worker claim nothing more, and stay."""
        return read(await self._send("POST", f"{WORKERS}/{segment(worker_id)}/drain"), Worker)

    async def undrain(self, worker_id: str) -> Worker:
        """Have a drained worker claim again."""
        return read(await self._send("DELETE", f"{WORKERS}/{segment(worker_id)}/drain"), Worker)

    async def _page(self, path: str, after: str | None, **query: str | None) -> httpx.Response:
        given: dict[str, Any] = {"limit": PAGE, "after": after, **query}
        params = {name: as_utf8(str(value), name).decode() for name, value in given.items() if value is not None}
        return await self._send("GET", path, params=params)
