"""The route of a call, which hands over by itself what it declares: all of it, and nothing else."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from mayfly.api.app import ROUTERS, create_app
from mayfly.api.routes import invoke
from mayfly.settings import ApiSettings

pytestmark = [pytest.mark.F9]


async def test_everything_that_is_declared_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each header that the OpenAPI shows, under its own name; the caller is found with the token and the path."""
    (route,) = invoke.private.routes
    assert isinstance(route, APIRoute)
    headers = {field.name: field.alias for field in route.dependant.header_params}
    given: dict[str, Any] = {}
    signature = inspect.signature(invoke.invoke)

    async def called(request: Request, **values: Any) -> Response:
        given.update(values, request=request)
        return Response()

    async def claims(_: Request, token: str) -> str:
        return f"claims of {token}"

    async def caller(_: Request, name: str, whose: str) -> tuple[str, str]:
        return name, whose

    for name, stand_in in (("invoke", called), ("genuine_token", claims), ("authenticated_for_function", caller)):
        monkeypatch.setattr(invoke, name, stand_in)
    await invoke._called(request_with({"authorization": "Bearer t", **{alias: alias for alias in headers.values()}}))

    assert given.keys() == signature.parameters.keys()
    assert given["caller_and_function"] == ("f", "claims of t")
    assert {name: given[name] for name in headers if name != "prefer"} == {
        name: alias for name, alias in headers.items() if name != "prefer"
    }
    assert given["prefer"] == ["prefer"]
    assert len(headers) == 4


def test_it_is_tried_first_and_described_in_its_place() -> None:
    """Before all other routes, though the OpenAPI has it after the functions."""
    app = create_app(ApiSettings())

    assert app.router.routes[0].original_router is invoke.private  # type: ignore[attr-defined]
    assert len(app.router.routes) == len(ROUTERS)
    paths = list(app.openapi()["paths"])
    assert paths.index("/v1/functions") < paths.index("/v1/functions/{name}/activations")


def request_with(headers: dict[str, str]) -> Request:
    """A call of the function f."""
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    app = create_app(ApiSettings())
    app.state.mayfly = None
    return Request({"type": "http", "app": app, "headers": raw, "path_params": {"name": "f"}})
