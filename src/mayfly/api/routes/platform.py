"""How the platform stands: for everybody whether it answers, for users their share, and the API's description."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

import mayfly
from mayfly.api.auth import Caller, private_router
from mayfly.api.description import PAGE_HEADERS, described
from mayfly.api.shapes import HealthShape, ReadyShape, StatusShape, UsageShape
from mayfly.api.state import State
from mayfly.api.write import write
from mayfly.domain.errors import QueueUnavailable
from mayfly.services.status import status

public = APIRouter(tags=["Platform"])
private = private_router(tags=["Platform"])

NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"model": ReadyShape, "description": "Send calls to another API server."}
}


@public.get("/healthz", response_model=HealthShape)
async def healthz() -> Response:
    """Say that the process answers. A process that does not is to be restarted."""
    return write(HealthShape())


@public.get("/readyz", response_model=ReadyShape, responses=NOT_READY)
async def readyz(request: Request, state: State) -> Response:
    """Say whether this API server wants calls: it reaches NATS, and has not been told to stop."""
    pings: dict[str, Callable[[], Awaitable[None]]] = {"nats": state.bus.ping}
    checks = {name: await _check(ping) for name, ping in pings.items()}
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


@private.get("/v1/status", response_model=StatusShape)
async def show_status(state: State, caller: Caller) -> Response:
    """Show workers and slots, and how many activations are in flight: of all users, and of one's own."""
    now = await status(state.bus, state.stores, caller.user_id)
    return write(
        StatusShape(
            version=mayfly.__version__,
            workers=len(now.workers),
            slots=now.slots,
            running=now.running,
            platform=UsageShape(limit=now.max_activations, in_flight=now.in_flight),
            user=UsageShape(limit=now.max_activations_per_user, in_flight=now.own_in_flight),
            remark=now.remark,
        )
    )


async def _check(ping: Callable[[], Awaitable[None]]) -> str:
    try:
        await ping()
    except QueueUnavailable as error:
        return error.detail
    return "ok"
