"""
Secrets of one's functions: set as raw bytes, listed without their values, never shown again. Rows: F4.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query, Request
from starlette.responses import Response

from mayfly.api.answers import raises
from mayfly.api.auth import Caller, FunctionInPath, function_name, private_router
from mayfly.api.bodies import read_secret
from mayfly.api.errors import BodyTooLarge
from mayfly.api.secret_shapes import KEY_RULE, SecretList, SecretShape
from mayfly.api.state import State
from mayfly.api.trail import CallersTrail
from mayfly.api.write import no_content, write
from mayfly.domain.audit import Action
from mayfly.domain.errors import InvalidRequest, PreconditionFailed
from mayfly.domain.secret import KEY, VALUE_MAX_BYTES, Delivery

private = private_router(tags=["Secrets"])

TAKES_VALUE: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "description": f"The value, byte for byte: text in UTF-8, at most {VALUE_MAX_BYTES:,} bytes, whatever its "
        "media type. Without a body it is empty.",
        "content": {"*/*": {"schema": {"type": "string", "format": "password"}}},
    }
}

SecretKey = Annotated[
    str, Path(description=f"{KEY_RULE.capitalize()}.", json_schema_extra={"pattern": f"^{KEY.pattern}$"})
]


@private.put(
    "/v1/functions/{name}/secrets/{key}",
    status_code=204,
    response_class=Response,
    openapi_extra=TAKES_VALUE | raises(BodyTooLarge, PreconditionFailed),
)
async def set_secret(
    request: Request,
    name: FunctionInPath,
    key: SecretKey,
    *,
    state: State,
    caller: Caller,
    trail: CallersTrail,
    as_: Annotated[
        Delivery,
        Query(alias="as", description="How the container gets it: a variable, or a file /run/secrets/KEY."),
    ] = Delivery.ENVIRONMENT,
) -> Response:
    """Set a secret: the next call has it. It is sealed at once, and never shown again."""
    checked, key = function_name(name), _key(key)
    value = await read_secret(request)
    async with trail(Action.SECRET_SET, f"{checked}/{key}"):
        await state.secrets.put(caller.user_id, checked, key, value, as_)
    return no_content()


@private.get("/v1/functions/{name}/secrets", response_model=SecretList, openapi_extra=raises())
async def list_secrets(name: FunctionInPath, state: State, caller: Caller) -> Response:
    """List a function's secrets, without their values."""
    found = await state.secrets.list(caller.user_id, function_name(name))
    return write(SecretList(secrets=[SecretShape.of(ref) for ref in found]))


@private.get("/v1/functions/{name}/secrets/{key}", response_model=SecretShape, openapi_extra=raises())
async def show_secret(name: FunctionInPath, key: SecretKey, state: State, caller: Caller) -> Response:
    """Show a secret's size and when it was set; not its value."""
    return write(SecretShape.of(await state.secrets.get(caller.user_id, function_name(name), _key(key))))


@private.delete(
    "/v1/functions/{name}/secrets/{key}",
    status_code=204,
    response_class=Response,
    openapi_extra=raises(PreconditionFailed),
)
async def delete_secret(
    name: FunctionInPath, key: SecretKey, *, state: State, caller: Caller, trail: CallersTrail
) -> Response:
    """Delete a secret: the next call does not have it."""
    checked, key = function_name(name), _key(key)
    async with trail(Action.SECRET_DELETE, f"{checked}/{key}"):
        await state.secrets.delete(caller.user_id, checked, key)
    return no_content()


def _key(text: str) -> str:
    """
    Return a secret's name from a path.

    Raises: InvalidRequest.
    """
    if not KEY.fullmatch(text):
        raise InvalidRequest(f"A secret's name is {KEY_RULE}.", field="key")
    return text
