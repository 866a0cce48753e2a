"""Keys for machines: made and ended by who is logged in, never by a key. Rows: F3."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from mayfly.api.answers import LOCATION, heads, raises
from mayfly.api.auth import Caller, Login, private_router
from mayfly.api.bodies import read_json, takes_json
from mayfly.api.shapes import KeyList, KeyShape, MadeKey, NewKey
from mayfly.api.state import State
from mayfly.api.trail import CallersTrail
from mayfly.api.write import no_content, write
from mayfly.domain.audit import Action
from mayfly.domain.errors import AlreadyExists, NotAllowed, NotFound

private: APIRouter = private_router(tags=["Keys"])

KeyInPath = Annotated[str, Path(description="The key's id or name.")]


@private.post(
    "/v1/keys",
    status_code=201,
    response_model=MadeKey,
    openapi_extra=takes_json(NewKey) | raises(NotAllowed, AlreadyExists) | heads(LOCATION),
)
async def make_key(request: Request, state: State, login: Login, trail: CallersTrail) -> Response:
    """Make a key: a token for a machine, shown here and never again. Nothing but a login may make one."""
    new = await read_json(request, NewKey)
    async with trail(Action.KEY_MAKE, new.name):
        token, key = await state.keys.create(login, new.name, lives_s=new.expires_in_s)
    headers = {"Location": f"/v1/keys/{key.session.id}", "Pragma": "no-cache"}
    return write(MadeKey(**KeyShape.of(key).model_dump(), token=token), status=201, headers=headers)


@private.get("/v1/keys", response_model=KeyList, openapi_extra=raises())
async def list_keys(state: State, caller: Caller) -> Response:
    """List one's keys by name, without their tokens."""
    return write(KeyList(keys=[KeyShape.of(key) for key in await state.keys.of(caller.user_id)]))


@private.delete("/v1/keys/{key}", status_code=204, response_class=Response, openapi_extra=raises(NotAllowed, NotFound))
async def delete_key(key: KeyInPath, state: State, login: Login, trail: CallersTrail) -> Response:
    """End a key, by its id or name: it is refused from now on."""
    async with trail(Action.KEY_DELETE, key):
        await state.keys.delete(login.user_id, key)
    return no_content()
