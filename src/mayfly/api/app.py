"""
The API server as an ASGI application: routes, the errors' way out, and the life of its connection.

`server` puts it behind TLS. Rows: A2.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

import mayfly
from mayfly.api.auth import RightExceeded, check_routes, needs
from mayfly.api.description import INTRODUCTION, describe
from mayfly.api.door import Door, read_secrets
from mayfly.api.envelope import Envelope, exchange_of
from mayfly.api.errors import MethodNotAllowed, problem
from mayfly.api.routes import (
    activations,
    admin,
    audit,
    functions,
    invoke,
    keys,
    platform,
    registries,
    secrets,
    tokens,
    users,
)
from mayfly.api.sentences import invalid
from mayfly.api.state import opened
from mayfly.api.trail import check_recorded, exceeded
from mayfly.bus.codec import Undecodable
from mayfly.bus.store import Conflict
from mayfly.domain.errors import InternalError, MayflyError, NotFound, QueueUnavailable
from mayfly.settings import ApiSettings

log = structlog.get_logger()

ROUTERS = (
    users.public,
    users.private,
    tokens.public,
    tokens.private,
    keys.private,
    functions.private,
    secrets.private,
    registries.private,
    invoke.private,
    activations.private,
    audit.private,
    admin.private,
    platform.private,
    platform.public,
)
ROUTES = tuple(cast("APIRoute", route) for router in ROUTERS for route in router.routes)


def create_app(settings: ApiSettings) -> FastAPI:
    """
    Build the application; it connects when its life begins (`lifespan`).

    Raises: RuntimeError when a route needs no token and is not one of the public ones, or changes something and leaves
    no trace of it; SecretUnusable.
    """
    check_routes(ROUTES)
    check_recorded(ROUTES)
    app = FastAPI(
        title="Mayfly",
        version=mayfly.__version__,
        description=INTRODUCTION,
        lifespan=_lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.settings = settings
    app.state.closing = False
    app.state.lost = asyncio.Event()
    for router in ROUTERS:
        app.include_router(router)
    if settings.gateway_secret_file:
        app.add_middleware(Door, secrets=read_secrets(settings.gateway_secret_file))
    app.add_middleware(Envelope, closing=lambda: bool(app.state.closing))
    app.add_exception_handler(MayflyError, _mayfly_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Conflict, _conflict)
    app.add_exception_handler(Undecodable, _undecodable)
    app.state.needs = {(method, route.path): needs(route) for route in ROUTES for method in route.methods or ()}
    app.state.description = describe(app)  # in the order of ROUTERS
    routes = app.router.routes
    routes.insert(0, routes.pop(ROUTERS.index(invoke.private)))  # they are tried in turn: calls first
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Be connected, with what works beside the calls; when either ends, say so through `app.state.lost`."""
    async with opened(app.state.settings) as state:
        app.state.mayfly = state
        beside = [
            asyncio.create_task(work.run(), name=name)
            for name, work in (
                ("janitor", state.janitor),
                ("retention", state.keeper),
                ("room", state.guard),
                ("lifetimes", state.lifetimes),
                ("refusals", state.refusals),
                ("orphans", state.orphans),
            )
        ]
        watching = asyncio.create_task(_watch(app, state.bus.closed, beside), name="watch-connection")
        try:
            yield
        finally:
            for task in (watching, *beside):
                task.cancel()
            await asyncio.gather(watching, *beside, return_exceptions=True)


async def _watch(app: FastAPI, closed: asyncio.Event, beside: Sequence[asyncio.Task[None]]) -> None:
    """A server without its connection, its janitor or the like must end, so that its supervisor starts a whole one."""
    closing = asyncio.create_task(closed.wait(), name="closed")
    try:
        await asyncio.wait((closing, *beside), return_when=asyncio.FIRST_COMPLETED)
    finally:
        closing.cancel()
    ended = [f"{task.get_name()}: {task.exception()!r}" for task in beside if task.done()]
    reason = ", ".join(ended) or "the connection is closed for good"
    log.error("api.lost", reason=reason)
    app.state.lost.set()


def _answer(request: Request, error: MayflyError) -> Response:
    exchange = exchange_of(request.scope)
    exchange.code = error.code
    return problem(error, exchange.request_id)


async def _mayfly_error(request: Request, error: Exception) -> Response:
    if isinstance(error, RightExceeded):
        await exceeded(request, error)
    return _answer(request, cast("MayflyError", error))


async def _validation_error(request: Request, error: Exception) -> Response:
    """What FastAPI found wrong in path, query and headers."""
    return _answer(request, invalid(cast("RequestValidationError", error).errors(), _query_names(request)))


async def _conflict(request: Request, error: Exception) -> Response:
    """Services settle lost races themselves. One that got here is a bug that a retry cures."""
    log.warning("request.conflict", error=repr(error))
    return _answer(
        request, QueueUnavailable("The same thing was changed at the same time; try again.", retry_after_s=1)
    )


async def _undecodable(request: Request, error: Exception) -> Response:
    """What lies in the database was written by another version, or by somebody who may not be trusted."""
    log.error("request.undecodable", error=str(error))
    return _answer(
        request, InternalError("What is stored under this name cannot be read; the operator's log says why.")
    )


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router refuses: no such path, no such method."""
    status = cast("HTTPException", error).status_code
    if status == 404:
        return _answer(request, NotFound("There is nothing under this path. /docs lists what there is."))
    if status == 405:
        allowed = ", ".join(sorted(_methods_for(request)))
        return _answer(request, MethodNotAllowed(f"This path knows {allowed}.", allow=allowed))
    log.error("request.unexpected-http-error", error=repr(error))
    return _answer(request, InternalError())


def _methods_for(request: Request) -> set[str]:
    """All methods of all routes that this path fits."""
    fitting = [route for route in ROUTES if route.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in fitting for method in route.methods or ()}
    return methods | {"HEAD"} if "GET" in methods else methods


def _query_names(request: Request) -> list[str]:
    route = request.scope.get("route")
    return ["limit", "after", "function", "state", "since", "wait", "pull"] if isinstance(route, APIRoute) else []
