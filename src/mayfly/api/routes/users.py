"""Accounts: registering is open to everybody, the rest is about oneself. Rows: F2, F3."""

from __future__ import annotations

from fastapi import APIRouter, Request
from msgspec.structs import replace
from starlette.responses import Response

from mayfly.api.address import caller_network
from mayfly.api.answers import LOCATION, heads, raises
from mayfly.api.auth import Caller, Login, private_router
from mayfly.api.bodies import read_json, takes_json
from mayfly.api.shapes import NewUser, PasswordChange, UserShape
from mayfly.api.state import State
from mayfly.api.trail import CallersTrail, NobodysTrail
from mayfly.api.write import no_content, write
from mayfly.domain.audit import Action
from mayfly.domain.errors import AlreadyExists, NotAllowed, QueueUnavailable, TooManyAttempts
from mayfly.domain.ids import UserName

public = APIRouter(tags=["Users"])
private = private_router(tags=["Users"])


@public.post(
    "/v1/users",
    status_code=201,
    response_model=UserShape,
    openapi_extra=takes_json(NewUser)
    | raises(NotAllowed, AlreadyExists, TooManyAttempts, QueueUnavailable)
    | heads(LOCATION),
)
async def register(request: Request, state: State, trail: NobodysTrail) -> Response:
    """
    Register a user. Log in with POST /v1/tokens then. Where registration is by invitation it takes the code of one.
    """
    new = await read_json(request, NewUser)
    async with state.attempts.registration(caller_network(request)), trail(Action.USER_REGISTER) as change:
        user = await state.users.register(UserName(new.username), new.password, invitation=new.invitation)
        change.actor = replace(change.actor, by="user", user_id=user.id, user_name=user.name)
        change.subject = user.name
    return write(UserShape.of(user), status=201, headers={"Location": "/v1/users/me"})


@private.get("/v1/users/me", response_model=UserShape, openapi_extra=raises())
async def show_me(state: State, caller: Caller) -> Response:
    """Show the account that the token belongs to."""
    return write(UserShape.of(await state.users.get(caller)))


@private.delete("/v1/users/me", status_code=204, response_class=Response, openapi_extra=raises(NotAllowed))
async def delete_me(state: State, caller: Login, trail: CallersTrail) -> Response:
    """Delete one's account with its logins, keys, functions and records. What runs finishes; nobody can read it."""
    async with trail(Action.USER_DELETE, caller.user_name):
        await state.users.delete(caller)
    return no_content()


@private.put(
    "/v1/users/me/password",
    status_code=204,
    response_class=Response,
    openapi_extra=takes_json(PasswordChange) | raises(NotAllowed, TooManyAttempts),
)
async def change_password(request: Request, state: State, caller: Login, trail: CallersTrail) -> Response:
    """Set a new password. All other logins end; the one that asks goes on, and so do keys unless `end_keys` is set."""
    change = await read_json(request, PasswordChange)
    guess = state.attempts.guess(caller.user_name, caller_network(request))
    async with trail(Action.PASSWORD_CHANGE, caller.user_name), guess:
        await state.users.change_password(
            caller, current=change.current_password, new=change.new_password, end_keys=change.end_keys
        )
    return no_content()
