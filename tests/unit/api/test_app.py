"""The application around the routes: who may be public, what becomes of surprises."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.responses import Response
from structlog.testing import capture_logs

from mayfly.api.app import ROUTES, create_app
from mayfly.api.auth import PUBLIC, authenticated, check_routes, operator, private_router
from mayfly.api.trail import UNRECORDED, callers_trail, check_recorded
from mayfly.bus.store import Conflict
from mayfly.domain.errors import FunctionFailed
from mayfly.settings import ApiSettings


@pytest.fixture
def app() -> FastAPI:
    """The application, not connected, with routes that fail."""
    app = create_app(ApiSettings())

    @app.get("/test/crash")
    async def crash() -> Response:
        raise RuntimeError("secret of the inside")

    @app.get("/test/conflict")
    async def conflict() -> Response:
        raise Conflict("key")

    @app.get("/test/undeclared")
    async def undeclared() -> Response:
        raise FunctionFailed("It ended with exit code 3.", exit_code=3)

    return app


def client_of(app: FastAPI) -> httpx.AsyncClient:
    """A client without a network."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://test")


async def test_surprise_is_a_500_that_tells_nothing_and_is_logged_once(app: FastAPI) -> None:
    """An unknown exception is internal-error with the request id; its text is in the log, once, not in the answer."""
    with capture_logs() as logs:
        async with client_of(app) as client:
            answer = await client.get("/test/crash", headers={"X-Request-Id": "r-1"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal-error")
    assert (answer.json()["ran"], answer.json()["request_id"]) == ("unknown", "r-1")
    assert "secret" not in answer.text
    failed = [line for line in logs if line["event"] == "request.failed"]
    assert len(failed) == 1
    assert "secret of the inside" in failed[0]["error"]
    done = next(line for line in logs if line["event"] == "request.done")
    assert (done["status"], done["code"], done["route"]) == (500, "internal-error", "/test/crash")


async def test_lost_race_that_escapes_is_no_500(app: FastAPI) -> None:
    """A Conflict of the store is 503 with Retry-After: a retry cures it."""
    async with client_of(app) as client:
        answer = await client.get("/test/conflict")
    assert (answer.status_code, answer.json()["code"]) == (503, "queue-unavailable")
    assert answer.headers["Retry-After"] == "1"


async def test_error_of_any_room_is_a_problem(app: FastAPI) -> None:
    """What a service raises comes out by the table, with its members."""
    async with client_of(app) as client:
        answer = await client.get("/test/undeclared")
    assert (answer.status_code, answer.json()["exit_code"]) == (502, 3)
    assert answer.headers["Content-Type"] == "application/problem+json"


async def test_answers_close_the_connection_while_the_server_closes(app: FastAPI) -> None:
    """From the signal on every answer says `Connection: close`."""
    async with client_of(app) as client:
        assert "Connection" not in (await client.get("/healthz")).headers
        app.state.closing = True
        assert (await client.get("/healthz")).headers["Connection"] == "close"


@pytest.mark.F3
def test_route_without_a_token_stops_the_start() -> None:
    """A route that forgot its authentication is not served."""
    careless = APIRouter()

    @careless.get("/v1/everything")
    async def everything() -> Response:
        return Response()

    with pytest.raises(RuntimeError, match="GET /v1/everything"):
        check_routes(route for route in careless.routes if isinstance(route, APIRoute))


@pytest.mark.F3
@pytest.mark.parametrize(("path", "authenticator"), [("/v1/admin/all", authenticated), ("/v1/all", operator)])
def test_route_that_is_half_an_operators_stops_the_start(path: str, authenticator: Callable[..., object]) -> None:
    """Neither below /v1/admin without the role, nor with it elsewhere."""
    careless = private_router(authenticator, tags=["Careless"])

    @careless.get(path)
    async def everything() -> Response:
        return Response()

    with pytest.raises(RuntimeError, match=f"GET {path} is for operators and should not be"):
        check_routes(route for route in careless.routes if isinstance(route, APIRoute))


@pytest.mark.F3
def test_public_routes_are_the_four_kinds() -> None:
    """Registration, login, health and the API's description; each of them exists."""
    check_routes(ROUTES)
    existing = {(method, route.path) for route in ROUTES for method in route.methods or ()}
    assert existing >= PUBLIC
    assert len(PUBLIC) == 6


@pytest.mark.F3
def test_route_that_leaves_no_trace_stops_the_start() -> None:
    """A route that changes something and does not ask for the audit trail is not served; one that does is."""
    careless, careful = APIRouter(), APIRouter()

    @careless.put("/v1/everything")
    async def change_everything() -> Response:
        return Response()

    @careful.put("/v1/everything", dependencies=[Depends(callers_trail)])
    async def change_everything_and_say_so() -> Response:
        return Response()

    with pytest.raises(RuntimeError, match="PUT /v1/everything"):
        check_recorded(route for route in careless.routes if isinstance(route, APIRoute))
    check_recorded(route for route in careful.routes if isinstance(route, APIRoute))
    check_recorded(ROUTES)
    assert len(UNRECORDED) == 1
