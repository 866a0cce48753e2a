"""
Functions of one's own. The owner is always the caller: no path and no body can name another. Rows: F4, F5, F6.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated

from fastapi import Header, Query, Request
from pydantic import WithJsonSchema
from starlette.responses import Response

from mayfly.api.answers import ETAG, LOCATION, heads, raises
from mayfly.api.auth import Caller, FunctionInPath, function_name, private_router
from mayfly.api.bodies import read_json, takes_json
from mayfly.api.envelope import ask_again
from mayfly.api.sandbox import FunctionDetail
from mayfly.api.shapes import FunctionChange, FunctionPage, FunctionShape, NewFunction, Page
from mayfly.api.state import State
from mayfly.api.trail import CallersTrail
from mayfly.api.write import no_content, write
from mayfly.bus.store import Entry
from mayfly.domain.audit import Action
from mayfly.domain.errors import AlreadyExists, ImageUnavailable, InvalidRequest, NotAllowed, PreconditionFailed
from mayfly.domain.function import Function, FunctionSpec, FunctionState
from mayfly.domain.ids import FunctionName

private = private_router(tags=["Functions"])

IfMatch = Annotated[
    str | None,
    Header(description="The ETag at which the function must stand, or `*`. Left out, the change is made in any case."),
    WithJsonSchema({"type": "string", "pattern": r'^(\*|"[0-9]{1,19}")$'}),
]

FLAG = {"true": True, "1": True, "": True, "false": False, "0": False}

_ETAG = re.compile(r'"(\d{1,19})"')


@private.post(
    "/v1/functions",
    status_code=201,
    response_model=FunctionDetail,
    responses={
        202: {"model": FunctionDetail, "description": "Registered; no worker could be asked for the image yet."}
    },
    openapi_extra=takes_json(NewFunction) | raises(AlreadyExists, ImageUnavailable, NotAllowed) | heads(LOCATION, ETAG),
)
async def register_function(request: Request, state: State, caller: Caller, trail: CallersTrail) -> Response:
    """Register a function. A worker fetches the image first, so what cannot be had is not registered."""
    new = await read_json(request, NewFunction)
    async with trail(Action.FUNCTION_REGISTER, new.name):
        entry = await state.functions.register(
            caller.user_id, FunctionName(new.name), _spec(new), ask_again=partial(ask_again, request.scope)
        )
    return _written(entry, status=201)


@private.get("/v1/functions", response_model=FunctionPage, openapi_extra=raises())
async def list_functions(state: State, caller: Caller, page: Annotated[Page, Query()]) -> Response:
    """List one's functions by name."""
    entries, more = await state.functions.list(caller.user_id, limit=page.limit, after=page.after)
    return write(FunctionPage(functions=[FunctionShape.of(entry.value) for entry in entries], next=more))


@private.get("/v1/functions/{name}", response_model=FunctionDetail, openapi_extra=raises() | heads(ETAG))
async def show_function(name: FunctionInPath, state: State, caller: Caller) -> Response:
    """Show a function, and the sandbox that its calls run in. The ETag is for If-Match."""
    entry = await state.functions.get(caller.user_id, function_name(name))
    return write(FunctionDetail.of(entry.value), headers={"ETag": _etag(entry)})


@private.put(
    "/v1/functions/{name}",
    response_model=FunctionDetail,
    responses={202: {"model": FunctionDetail, "description": "Replaced; no worker could be asked for the image yet."}},
    openapi_extra=takes_json(FunctionChange) | raises(PreconditionFailed, ImageUnavailable) | heads(LOCATION, ETAG),
)
async def replace_function(
    request: Request,
    name: FunctionInPath,
    *,
    state: State,
    caller: Caller,
    trail: CallersTrail,
    if_match: IfMatch = None,
    pull: Annotated[
        str | None,
        Query(description="Resolve the image reference anew, though it is the same. `?pull` is enough."),
        WithJsonSchema({"type": "string", "enum": list(FLAG), "default": "false"}),
    ] = None,
) -> Response:
    """Replace all of a function but its name. Calls that were admitted before run as they were."""
    checked = function_name(name)
    revision = _revision(if_match)
    change = await read_json(request, FunctionChange)
    anew = _flag("pull", pull)
    async with trail(Action.FUNCTION_REPLACE, checked):
        entry = await state.functions.replace(
            caller.user_id,
            checked,
            _spec(change),
            if_match=revision,
            pull=anew,
            ask_again=partial(ask_again, request.scope),
        )
    return _written(entry, status=200)


@private.delete(
    "/v1/functions/{name}", status_code=204, response_class=Response, openapi_extra=raises(PreconditionFailed)
)
async def deregister_function(
    name: FunctionInPath, *, state: State, caller: Caller, trail: CallersTrail, if_match: IfMatch = None
) -> Response:
    """Deregister a function. New and waiting calls are refused from now on, running ones finish."""
    checked, revision = function_name(name), _revision(if_match)
    async with trail(Action.FUNCTION_DEREGISTER, checked):
        await state.functions.deregister(caller.user_id, checked, if_match=revision)
    return no_content()


def _spec(shape: FunctionChange) -> FunctionSpec:
    return FunctionSpec(
        image=shape.image,
        command=None if shape.command is None else tuple(shape.command),
        args=None if shape.args is None else tuple(shape.args),
        env=tuple(shape.env.items()),
        parameter=shape.parameter,
        limits=shape.limits.to_domain(),
        result_type=shape.result_type,
        network=shape.network,
    )


def _written(entry: Entry[Function], *, status: int) -> Response:
    """Answer with a function that was written: 202 while its image is not known to run."""
    headers = {"Location": f"/v1/functions/{entry.value.name}", "ETag": _etag(entry)}
    pending = entry.value.state is FunctionState.PENDING
    return write(FunctionDetail.of(entry.value), status=202 if pending else status, headers=headers)


def _etag(entry: Entry[Function]) -> str:
    return f'"{entry.revision}"'


def _revision(if_match: str | None) -> int | None:
    """
    Read If-Match; None where any revision will do.

    Raises: InvalidRequest when it is no list of ETags; PreconditionFailed when it is none that we give.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    if '"' not in if_match:
        raise InvalidRequest('If-Match takes the ETag as it came, quotes included: If-Match: "12".', field="If-Match")
    found = _ETAG.fullmatch(if_match.strip())
    if not found:
        raise PreconditionFailed("If-Match names no ETag that was given for this function. GET it again.")
    return int(found[1])


def _flag(name: str, text: str | None) -> bool:
    """Read a flag of the query: `?pull`, `?pull=true`, `?pull=false`."""
    if text is None:
        return False
    if text not in FLAG:
        raise InvalidRequest(f"`{name}` must be true or false.", field=name)
    return FLAG[text]
