"""
Logging in and out. `POST /v1/tokens` is the token endpoint of OAuth 2 (RFC 6749, sections 4.3 and 6).

Its errors are problem+json as everywhere, with the code of RFC 6749 as member `error` beside ours. A wrong password is
401 there rather than the RFC's 400, since it is 401 `not-authenticated` everywhere else. Rows: F3.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from mayfly.api.address import caller_network
from mayfly.api.answers import raises
from mayfly.api.auth import Login, private_router
from mayfly.api.bodies import FORM, read_form
from mayfly.api.shapes import Tokens
from mayfly.api.state import State
from mayfly.api.trail import CallersTrail, NobodysTrail, Trail, acting
from mayfly.api.write import no_content, write
from mayfly.domain.audit import Action
from mayfly.domain.errors import (
    InvalidRequest,
    MayflyError,
    NotAllowed,
    NotAuthenticated,
    QueueUnavailable,
    TooManyAttempts,
)
from mayfly.services.sessions import RefreshTokenReused, TokenPair, WrongPassword
from mayfly.services.tokens import Claims

public = APIRouter(tags=["Tokens"])
private = private_router(tags=["Tokens"])

TEXT = {"type": "string", "minLength": 1}
OTHER = {"type": "string"}  # ignored, as RFC 6749 has it
TAKES_GRANT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            FORM: {
                "schema": {
                    "oneOf": [
                        {
                            "type": "object",
                            "properties": {
                                "grant_type": {"const": "password", "description": "Log in."},
                                "username": TEXT | {"description": "The user name."},
                                "password": TEXT | {"format": "password", "description": "The password."},
                            },
                            "required": ["grant_type", "username", "password"],
                            "additionalProperties": OTHER,
                        },
                        {
                            "type": "object",
                            "properties": {
                                "grant_type": {"const": "refresh_token", "description": "Go on with a login."},
                                "refresh_token": TEXT | {"description": "The one that came last."},
                            },
                            "required": ["grant_type", "refresh_token"],
                            "additionalProperties": OTHER,
                        },
                    ]
                }
            }
        },
    }
}


@public.post(
    "/v1/tokens",
    response_model=Tokens,
    openapi_extra=TAKES_GRANT | raises(NotAuthenticated, TooManyAttempts, QueueUnavailable),
)
async def get_tokens(request: Request, state: State, trail: NobodysTrail) -> Response:
    """Log in with user name and password, or exchange a refresh token for the next pair of tokens."""
    try:
        with state.metrics.login():
            tokens = await _grant(request, state, trail, await read_form(request))
    except MayflyError as error:
        error.members.setdefault("error", "invalid_request" if error.fault == "caller" else "temporarily_unavailable")
        raise
    shape = Tokens(access_token=tokens.access_token, expires_in=tokens.expires_in, refresh_token=tokens.refresh_token)
    return write(shape, headers={"Pragma": "no-cache"})


@private.delete("/v1/tokens/current", status_code=204, response_class=Response, openapi_extra=raises(NotAllowed))
async def log_out(state: State, caller: Login, trail: CallersTrail) -> Response:
    """End the login that the token belongs to: its access and refresh tokens are refused from now on."""
    async with trail(Action.SESSION_END, caller.id):
        await state.sessions.end(Claims(caller.user_id, caller.id))
    return no_content()


async def _grant(request: Request, state: State, trail: Trail, form: dict[str, str]) -> TokenPair:
    grant_type = _field(form, "grant_type")
    if grant_type == "password":
        username, password = _field(form, "username"), _field(form, "password")
        async with state.attempts.guess(username, caller_network(request)):
            return await _log_in(state, trail, username, password)
    if grant_type == "refresh_token":
        return await _refresh(state, trail, _field(form, "refresh_token"))
    raise InvalidRequest(
        "`grant_type` must be `password` or `refresh_token`.", field="grant_type", error="unsupported_grant_type"
    )


async def _log_in(state: State, trail: Trail, username: str, password: str) -> TokenPair:
    try:
        async with trail(Action.SESSION_BEGIN) as change:
            tokens = await state.sessions.log_in(username, password)
            change.actor, change.subject = acting(change.actor, tokens.session), tokens.session.id
    except WrongPassword as error:
        trail.refused_login(error.user)
        raise
    return tokens


async def _refresh(state: State, trail: Trail, refresh_token: str) -> TokenPair:
    """A refresh goes on with a login, so only one that ends it is written down."""
    try:
        return await state.sessions.refresh(refresh_token)
    except RefreshTokenReused as error:
        await trail.reused(error.session)
        raise


def _field(form: dict[str, str], name: str) -> str:
    if not form.get(name):
        raise InvalidRequest(f"`{name}` is missing from the form.", field=name)
    return form[name]
