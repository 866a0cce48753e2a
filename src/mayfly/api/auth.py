"""
Who calls. Everything but registration, login, health and the API's description needs a token, by construction:
those routes live on routers from `private_router`, and the server does not start with a route that lives elsewhere
and is not in `PUBLIC`. All below `ADMIN`, and nothing else, needs the role `operator` as well, likewise.

A body may take a minute to arrive, so the same is asked again when it is there (`bodies`), and after a worker has
fetched an image: whoever is let in leaves behind how (`envelope.ask_again`).

Only the token counts. Headers in which a gateway says who somebody is are not read anywhere. Rows: F3, A1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request
from fastapi.dependencies.models import Dependant
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase

from mayfly.api.envelope import exchange_of
from mayfly.api.shapes import FUNCTION_NAME_RULE
from mayfly.api.state import ApiState
from mayfly.domain.errors import NotAllowed, NotAuthenticated, NotFound
from mayfly.domain.function import Function
from mayfly.domain.ids import FUNCTION_NAME, FunctionName, UserId
from mayfly.domain.user import Session
from mayfly.services.sessions import Sessions
from mayfly.services.tokens import Claims

PUBLIC = frozenset(
    {
        ("POST", "/v1/users"),
        ("POST", "/v1/tokens"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
    }
)
"""All that answers without a token."""


ADMIN = "/v1/admin/"
"""Where all is for operators only."""


class RightExceeded(NotAllowed):
    """This key, or this account, may not do that."""

    def __init__(self, detail: str, session: Session) -> None:
        """Of this *session*, which may be a copied one: it is written down (`trail`)."""
        super().__init__(detail)
        self.session = session


class Bearer(SecurityBase):
    """Reads the token from `Authorization`, and nowhere else."""

    def __init__(self) -> None:
        self.model = HTTPBearerModel(
            bearerFormat="JWT", description="The access_token of POST /v1/tokens, or a key of POST /v1/keys."
        )
        self.scheme_name = "token"

    async def __call__(self, request: Request) -> str:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise NotAuthenticated
        return token.strip()


bearer = Bearer()


async def genuine_token(request: Request, token: Annotated[str, Depends(bearer)]) -> Claims:
    """
    Check that the token was issued here. `authenticated`, or who stands in for it, asks for its session next.

    Raises: NotAuthenticated.
    """
    state: ApiState = request.app.state.mayfly
    claims = state.sessions.verify(token)
    exchange_of(request.scope).user_id = claims.user_id
    return claims


async def authenticated(request: Request, claims: Annotated[Claims, Depends(genuine_token)]) -> Session:
    """
    Require a genuine token whose session has not ended.

    Raises: NotAuthenticated; QueueUnavailable.
    """
    exchange_of(request.scope).ask_again = asking = partial(_sessions(request).alive, claims)
    return await asking()


FunctionInPath = Annotated[str, Path(description="The function's name.")]


async def authenticated_for_function(
    request: Request, name: FunctionInPath, claims: Annotated[Claims, Depends(genuine_token)]
) -> tuple[Session, Function]:
    """
    Require a token as `authenticated` does, and read the function of the path at the same time: a call waits for one
    round trip to the database, not two. Who is not authenticated learns nothing of the function.

    Raises: NotAuthenticated; NotFound; QueueUnavailable.
    """
    state: ApiState = request.app.state.mayfly
    exchange_of(request.scope).ask_again = partial(state.sessions.alive, claims)
    session, function = await asyncio.gather(
        state.sessions.alive(claims), _read_function(state, claims.user_id, name), return_exceptions=True
    )
    if isinstance(session, BaseException):
        raise session
    if isinstance(function, BaseException):
        raise function
    return session, function


async def logged_in(caller: Annotated[Session, Depends(authenticated)]) -> Session:
    """
    Require a login, where a key is not enough: it may not become more than it is, nor take the account over.

    Raises: NotAllowed.
    """
    if caller.kind != "login":
        raise RightExceeded(
            "A key may not do this: only who is logged in makes and deletes keys, logs out, changes the password, "
            "deletes the account or acts as an operator. POST /v1/tokens logs in.",
            caller,
        )
    return caller


async def operator(request: Request, caller: Annotated[Session, Depends(logged_in)]) -> Session:
    """
    Require the login of an operator; a key is not enough. The account itself is asked, not the copy of it in the
    login: a role that is taken away is gone with that one write, and so is that of whoever is suspended.

    Raises: NotAuthenticated; NotAllowed; QueueUnavailable.
    """
    exchange_of(request.scope).ask_again = partial(_operator_again, request, caller)
    return await _as_operator(request, caller)


async def _operator_again(request: Request, caller: Session) -> None:
    """Whoever knows that he will be no operator any more keeps calls at hand that make another one."""
    await _as_operator(request, await _sessions(request).alive(Claims(caller.user_id, caller.id)))


async def _as_operator(request: Request, caller: Session) -> Session:
    state: ApiState = request.app.state.mayfly
    account = await state.users.get(caller)
    if account.suspended or account.role != "operator":
        raise RightExceeded(
            "This is for operators only. Whoever has the machine makes one, with `mayfly users role`.", caller
        )
    return caller


def _sessions(request: Request) -> Sessions:
    state: ApiState = request.app.state.mayfly
    return state.sessions


async def _read_function(state: ApiState, owner: UserId, name: str) -> Function:
    return (await state.functions.get(owner, function_name(name))).value


def function_name(text: str) -> FunctionName:
    """
    Return a name from a path.

    Raises: NotFound when no function can have it.
    """
    if not FUNCTION_NAME.fullmatch(text):
        raise NotFound(f"No function can have this name: a function's name is {FUNCTION_NAME_RULE}.")
    return FunctionName(text)


AUTHENTICATORS = frozenset({authenticated, authenticated_for_function, operator})

Operator = Annotated[Session, Depends(operator)]
Caller = Annotated[Session, Depends(authenticated)]


Login = Annotated[Session, Depends(logged_in)]
CallerAndFunction = Annotated[tuple[Session, Function], Depends(authenticated_for_function)]


def private_router(
    authenticator: Callable[..., Any] = authenticated,
    *,
    tags: list[str | Enum],
    route_class: type[APIRoute] = APIRoute,
) -> APIRouter:
    """Make a router all of whose routes need a token, checked by one of `AUTHENTICATORS`."""
    return APIRouter(dependencies=[Depends(authenticator)], tags=tags, route_class=route_class)


Needs = Literal["nothing", "token", "login", "operator"]
"""What a caller needs: nothing; a token, of a login or a key; one of a login; the login of an operator."""


def needs(route: APIRoute) -> Needs:
    """Say what a caller needs for a route, for its description."""
    asked = set(_asked(route.dependant))
    if operator in asked:
        return "operator"
    if logged_in in asked:
        return "login"
    return "token" if asked & AUTHENTICATORS else "nothing"


def _asked(dependant: Dependant) -> Iterator[object]:
    for inner in dependant.dependencies:
        yield inner.call
        yield from _asked(inner)


def check_routes(routes: Iterable[APIRoute]) -> None:
    """
    Check that each route needs a token or is in `PUBLIC`, and that those below `ADMIN` need an operator, and no others.

    Raises: RuntimeError, which stops the start.
    """
    for route in routes:
        asked = {dependency.call for dependency in route.dependant.dependencies}
        for method in route.methods or ():
            if bool(asked & AUTHENTICATORS) == ((method, route.path) in PUBLIC):
                raise RuntimeError(f"{method} {route.path} is public and should not be, or the other way round")
            if (operator in asked) != route.path.startswith(ADMIN):
                raise RuntimeError(f"{method} {route.path} is for operators and should not be, or the other way round")
