"""
The audit trail, as routes write it: one `async with` around what changes something, and before the answer is made.

A route that is no GET asks for a `CallersTrail`, or, where nobody is logged in yet, a `NobodysTrail`; the server does
not start with one that does not and is not in `UNRECORDED`. Rows: F3.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated

import structlog
from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from msgspec.structs import replace

from mayfly.api.address import client_address
from mayfly.api.auth import Caller, RightExceeded
from mayfly.api.envelope import exchange_of
from mayfly.api.state import ApiState, State
from mayfly.domain.audit import OPERATOR, Action, Actor
from mayfly.domain.errors import (
    InternalError,
    MayflyError,
    NotAllowed,
    NotAuthenticated,
    PlatformError,
    QueueUnavailable,
)
from mayfly.domain.ids import UserId
from mayfly.domain.user import Session, User

log = structlog.get_logger()

UNRECORDED = frozenset({("POST", "/v1/functions/{name}/activations")})
"""What changes something and is not in the trail: a call, which has a record of its own."""

RECORDED_REFUSALS = (NotAuthenticated, NotAllowed)
"""Of what was refused, that which somebody was not entitled to. What was merely mistaken changed nothing."""

UNKNOWN_WITHIN_S = 5.0


class Change:
    """What is being done: who does it, to what, and whether anything came of it, as far as its route learns it."""

    def __init__(self, actor: Actor, subject: str | None, about: UserId | None) -> None:
        """Until told otherwise, it is what the route knew before."""
        self.actor = actor
        self.subject = subject
        self.about = about
        self.happened = True


class Trail:
    """Writes down what one request does."""

    def __init__(self, state: ApiState, actor: Actor) -> None:
        """*actor* is who sends the request, as far as that is known."""
        self._state = state
        self._actor = actor

    @asynccontextmanager
    async def __call__(
        self, action: Action, subject: str | None = None, *, about: UserId | None = None
    ) -> AsyncIterator[Change]:
        """
        Do something inside, and have it in the trail afterwards, or an error; also in that of the user whom it is
        *about*, as an operator's doing. Of what fails, that is written down which was not allowed, and that
        of which nobody knows whether it was done.

        Raises: QueueUnavailable where it was done and could not be written down; what is raised inside.
        """
        change = Change(self._actor, subject, about)
        try:
            yield change
        except Exception as error:
            await self._failed(action, change, error)
            raise
        if change.happened:
            await self._state.audit.record(change.actor, action, change.subject)
            if change.about and change.about != change.actor.user_id:
                await self._state.audit.record(OPERATOR, action, change.subject, in_trail_of=change.about)

    async def reused(self, session: Session) -> None:
        """
        Write down that a refresh token was shown again, which has ended this login.

        Raises: QueueUnavailable.
        """
        actor = acting(self._actor, session)
        await self._state.audit.record(
            actor, Action.SESSION_REUSE, outcome="refused", code=NotAuthenticated.code, in_trail_of=session.user_id
        )

    async def exceeded(self, subject: str, error: RightExceeded) -> None:
        """Write down that somebody came where he may not, if that can be done: he is refused in any case."""
        change = Change(acting(self._actor, error.session), subject, None)
        await self._failed(Action.RIGHT_EXCEED, change, error)

    def refused_login(self, user: User | None) -> None:
        """Count a login that was refused; None: there is no such user."""
        self._state.refusals.note(user, address=self._actor.address or "", request_id=self._actor.request_id or "")

    async def _failed(self, action: Action, change: Change, error: Exception) -> None:
        """Write down what came of it, if that can be done; the error itself is what counts."""
        if not change.actor.user_id:
            return
        refused = isinstance(error, RECORDED_REFUSALS)
        if not refused and isinstance(error, MayflyError) and not isinstance(error, PlatformError):
            return
        code = error.code if isinstance(error, MayflyError) else InternalError.code
        try:
            async with asyncio.timeout(UNKNOWN_WITHIN_S):
                await self._state.audit.record(
                    change.actor, action, change.subject, outcome="refused" if refused else "unknown", code=code
                )
        except (QueueUnavailable, TimeoutError):
            log.error("audit.not-written", action=action, user_id=change.actor.user_id, code=code)


def acting(actor: Actor, session: Session) -> Actor:
    """Say who acts, where that was not known before."""
    return replace(actor, by="user", user_id=session.user_id, user_name=session.user_name, session_id=session.id)


async def nobodys_trail(request: Request, state: State) -> Trail:
    """Hand a public route the trail, before anybody knows whose it will be."""
    return Trail(state, _somebody(request))


async def callers_trail(request: Request, state: State, caller: Caller) -> Trail:
    """Hand a route the trail of its caller."""
    return Trail(state, acting(_somebody(request), caller))


async def exceeded(request: Request, error: RightExceeded) -> None:
    """Write down, of a request that was refused before its route saw it, what it was for: no more than its route."""
    route = request.scope["route"]
    await Trail(request.app.state.mayfly, _somebody(request)).exceeded(f"{request.method} {route.path}", error)


def _somebody(request: Request) -> Actor:
    return Actor(by="nobody", address=client_address(request), request_id=exchange_of(request.scope).request_id)


NobodysTrail = Annotated[Trail, Depends(nobodys_trail)]
CallersTrail = Annotated[Trail, Depends(callers_trail)]
TRAILS = frozenset({nobodys_trail, callers_trail})


def check_recorded(routes: Iterable[APIRoute]) -> None:
    """
    Check that each route that changes something writes it down or is in `UNRECORDED`.

    Raises: RuntimeError, which stops the start.
    """
    for route in routes:
        records = any(each.call in TRAILS for each in _dependants(route.dependant))
        for method in (route.methods or set()) - {"GET", "HEAD"}:
            if records == ((method, route.path) in UNRECORDED):
                raise RuntimeError(f"{method} {route.path} is not in the audit trail and should be, or the other way")


def _dependants(of: Dependant) -> Iterator[Dependant]:
    for each in of.dependencies:
        yield each
        yield from _dependants(each)
