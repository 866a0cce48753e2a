"""
One's own credentials for registries, used for one's own images and nobody else's. Rows: F4, F6.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Request
from starlette.responses import Response

from mayfly.api.answers import raises
from mayfly.api.auth import Caller, private_router
from mayfly.api.bodies import read_json, takes_json
from mayfly.api.secret_shapes import NewRegistryCredentials, RegistryList, RegistryShape
from mayfly.api.state import State
from mayfly.api.trail import CallersTrail
from mayfly.api.write import no_content, write
from mayfly.domain.audit import Action
from mayfly.images.reference import HOST_MAX_CHARACTERS, REGISTRY_PATTERN, registry_host

private = private_router(tags=["Registries"])

Host = Annotated[
    str,
    Path(
        description="HOST or HOST:PORT, as in image references; `docker.io` for Docker Hub.",
        json_schema_extra={"pattern": REGISTRY_PATTERN, "maxLength": HOST_MAX_CHARACTERS},
    ),
]


@private.put(
    "/v1/registries/{host}",
    status_code=204,
    response_class=Response,
    openapi_extra=takes_json(NewRegistryCredentials) | raises(),
)
async def set_registry(request: Request, host: Host, *, state: State, caller: Caller, trail: CallersTrail) -> Response:
    """Set one's credentials for a registry. The password is sealed at once, and never shown again."""
    checked = registry_host(host)
    new = await read_json(request, NewRegistryCredentials)
    async with trail(Action.REGISTRY_SET, checked):
        await state.registries.put(caller.user_id, checked, username=new.username, password=new.password)
    return no_content()


@private.get("/v1/registries", response_model=RegistryList, openapi_extra=raises())
async def list_registries(state: State, caller: Caller) -> Response:
    """List one's registries, without the passwords."""
    found = await state.registries.list(caller.user_id)
    return write(RegistryList(registries=[RegistryShape.of(entry) for entry in found]))


@private.delete("/v1/registries/{host}", status_code=204, response_class=Response, openapi_extra=raises())
async def delete_registry(host: Host, state: State, caller: Caller, trail: CallersTrail) -> Response:
    """Forget one's credentials for a registry. Images that were fetched with them stay."""
    checked = registry_host(host)
    async with trail(Action.REGISTRY_DELETE, checked):
        await state.registries.delete(caller.user_id, checked)
    return no_content()
