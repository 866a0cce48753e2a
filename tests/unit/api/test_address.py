"""Where a request comes from: whom the API believes about that."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mayfly.api.address import client_address
from mayfly.api.app import create_app
from mayfly.api.door import Door
from mayfly.api.envelope import Envelope
from mayfly.settings import ApiSettings

pytestmark = pytest.mark.F3

SECRET = "s" * 32
PEER = "192.0.2.7"


def app_that_tells(**settings: object) -> FastAPI:
    """The application, not connected, with a route that says from where it is called."""
    app = create_app(ApiSettings.model_validate(settings))

    @app.get("/test/address")
    async def address(request: Request) -> Response:
        return Response(client_address(request))

    return app


async def told(app: FastAPI, headers: list[tuple[str, str]], *, peer: str = PEER) -> str:
    """The address, as the application sees it."""
    transport = httpx.ASGITransport(app, client=(peer, 50_000))
    async with httpx.AsyncClient(transport=transport, base_url="https://test") as client:
        answer = await client.get("/test/address", headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.text


@pytest.fixture
def guarded(tmp_path: Path) -> FastAPI:
    """An application behind a gateway."""
    path = tmp_path / "gateway.secret"
    path.write_text(SECRET)
    return app_that_tells(gateway_secret_file=path)


def passed_on(*addresses: str) -> list[tuple[str, str]]:
    """The headers with which the gateway passes a request on."""
    return [("X-Mayfly-Gateway", SECRET), *(("X-Forwarded-For", address) for address in addresses)]


async def test_without_a_gateway_the_header_is_not_believed() -> None:
    """Where anybody may connect, X-Forwarded-For is a caller's own word, with or without a gateway's secret."""
    app = app_that_tells()
    assert await told(app, [("X-Forwarded-For", "198.51.100.1")]) == PEER
    assert await told(app, passed_on("198.51.100.1")) == PEER


async def test_the_gateway_is_believed(guarded: FastAPI) -> None:
    """A request with the gateway's secret comes from where the gateway says, not from the gateway."""
    assert await told(guarded, passed_on("198.51.100.1")) == "198.51.100.1"
    assert await told(guarded, passed_on("2001:db8::1")) == "2001:db8::1"


async def test_only_what_the_gateway_added_counts(guarded: FastAPI) -> None:
    """Should a caller's own header ever get through, it comes before the gateway's, and is not believed."""
    assert await told(guarded, passed_on("203.0.113.9, 198.51.100.1")) == "198.51.100.1"
    assert await told(guarded, passed_on("203.0.113.9", "198.51.100.1")) == "198.51.100.1"


@pytest.mark.parametrize(
    "header", ["", "unix:", "somebody", "1.2.3", "1.2.3.4:80", "[2001:db8::1]", "0x7f.1", "1.2.3.4,"]
)
async def test_what_is_no_address_is_not_taken_for_one(guarded: FastAPI, header: str) -> None:
    """Only an address ever comes out; of anything else the connection's is told."""
    assert await told(guarded, passed_on(header)) == PEER


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("testclient", "unknown"),
    ],
)
async def test_an_address_is_written_in_one_way(peer: str, address: str) -> None:
    """One caller is one address: an IPv4 address within IPv6 is that IPv4 address, and a zone is left out."""
    assert await told(app_that_tells(), [], peer=peer) == address


async def test_a_health_check_does_not_have_its_header_believed() -> None:
    """What passes the door without the secret, as health checks do, is believed no more than what passes no door."""

    async def tells(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(client_address(Request(scope)))(scope, receive, send)

    app = Envelope(Door(tells, secrets=(SECRET.encode(),)), closing=lambda: False)
    transport = httpx.ASGITransport(app, client=(PEER, 50_000))
    async with httpx.AsyncClient(transport=transport, base_url="https://test") as client:
        answer = await client.get("/healthz", headers=[("X-Forwarded-For", "198.51.100.1")])
    assert answer.text == PEER
