"""How the platform stands: for everybody whether it answers, for users their share, and the API's description."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from mayfly.api.answers import raises
from mayfly.api.auth import Caller, private_router
from mayfly.api.description import described
from mayfly.api.page import PAGE_HEADERS
from mayfly.api.shapes import HealthShape, ReadyShape, StatusShape
from mayfly.api.state import State
from mayfly.api.write import write
from mayfly.bus.schema import limits_in_force
from mayfly.domain.errors import QueueUnavailable
from mayfly.services.status import status

public = APIRouter(tags=["Platform"])
private = private_router(tags=["Platform"])

PING_TIMEOUT_S = 2
NOBODY = "readyz"  # a key of the bucket of users like any other; whether somebody has that name does not matter

NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"model": ReadyShape, "description": "Send calls to another API server."}
}


@public.get("/healthz", response_model=HealthShape, openapi_extra=raises())
async def healthz() -> Response:
    """Say that the process answers. A process that does not is to be restarted."""
    return write(HealthShape())


@public.get("/readyz", response_model=ReadyShape, responses=NOT_READY, openapi_extra=raises())
async def readyz(request: Request, state: State) -> Response:
    """Say whether this API server wants calls: it reaches queue and database, and has not been told to stop."""
    pings: dict[str, Callable[[], Awaitable[object]]] = {
        "queue": lambda: limits_in_force(state.bus),
        "database": lambda: state.stores.users.get(NOBODY),
    }
    checks = dict(zip(pings, await asyncio.gather(*(_check(ping) for ping in pings.values())), strict=True))
    checks["server"] = "is closing" if request.app.state.closing else "ok"
    ready = all(answer == "ok" for answer in checks.values())
    return write(ReadyShape(ready=ready, checks=checks), status=200 if ready else 503)


@public.get("/openapi.json", response_class=Response, include_in_schema=False)
async def openapi_json(request: Request) -> Response:
    """Describe the API for programs."""
    return Response(described(request.app).json, media_type="application/json")


@public.get("/docs", response_class=Response, include_in_schema=False)
async def docs(request: Request) -> Response:
    """Describe the API for people."""
    return Response(described(request.app).page, media_type="text/html", headers=PAGE_HEADERS)


@private.get("/v1/status", response_model=StatusShape, openapi_extra=raises())
async def show_status(state: State, caller: Caller) -> Response:
    """
    Show workers and slots, and how many activations wait, run, and are in flight: of all users, and of one's own.

    A user of role `operator` is also shown each worker and each stream.
    """
    operator = caller.role == "operator"
    now = await status(state.bus, state.stores, caller.user_id, own_limit=caller.max_activations, operator=operator)
    return write(StatusShape.of(now, caller.role))


async def _check(ping: Callable[[], Awaitable[object]]) -> str:
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            await ping()
    except TimeoutError:
        return f"does not answer within {PING_TIMEOUT_S} s"
    except QueueUnavailable as error:
        return error.detail
    return "ok"
