"""An API server behind a gateway: nobody goes round the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from mayfly.api.app import create_app
from mayfly.api.door import SecretUnusable
from mayfly.bus.connection import connect
from mayfly.domain.ids import UserId, new_id
from mayfly.services.audit import Audit
from mayfly.settings import ApiSettings, NatsSettings
from tests.integration.api.conftest import FUNCTION
from tests.support.api import PASSWORD, ApiServer

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.A1, pytest.mark.F1]

SECRET, NEXT_SECRET = "s" * 32, "t" * 43


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(nats_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiServer]:
    """An API server that knows two secrets, as in the middle of a rotation."""
    directory = tmp_path_factory.mktemp("guarded")
    secret_file = directory / "gateway.secret"
    secret_file.write_text(f"{SECRET}\n{NEXT_SECRET}\n")
    async with ApiServer(nats_url, directory, gateway_secret_file=secret_file) as server:
        yield server


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/openapi.json", "/v1/users/me", "/v1/functions", "/healthz/", "//readyz"]
)
async def test_a_request_that_did_not_come_through_the_gateway_is_refused(guarded: ApiServer, path: str) -> None:
    """Without the secret every path but the two health checks is 403, as a problem that names the remedy."""
    async with guarded.client() as client:
        answer = await client.get(f"{guarded.url}{path}")
    assert answer.status_code == 403
    assert answer.json()["code"] == "not-allowed"
    assert answer.json()["ran"] == "no"
    assert "gateway" in answer.json()["detail"]
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


async def test_a_genuine_token_does_not_open_the_door(guarded: ApiServer) -> None:
    """Who has a token and no secret cannot call, register or log in past the gateway."""
    async with guarded.client() as client:
        for method, path in (("POST", "/v1/users"), ("POST", "/v1/tokens"), ("POST", "/v1/functions/echo/activations")):
            assert (await client.request(method, path, content=b"x" * 100_000)).status_code == 403, path


@pytest.mark.parametrize("secret", [SECRET, NEXT_SECRET])
async def test_the_gateway_passes_with_either_secret(guarded: ApiServer, secret: str) -> None:
    """In a rotation the old secret and the new one are both good."""
    async with guarded.client() as client:
        answer = await client.post("/v1/functions", json=FUNCTION, headers={"X-Mayfly-Gateway": secret})
    assert answer.status_code == 401, answer.text


@pytest.mark.parametrize("given", ["", "wrong", SECRET[:-1], SECRET + "x", f"{SECRET}\t{NEXT_SECRET}", SECRET.upper()])
async def test_a_wrong_secret_is_none(guarded: ApiServer, given: str) -> None:
    """Nothing but exactly one whole secret opens."""
    async with guarded.client() as client:
        assert (await client.get("/docs", headers={"X-Mayfly-Gateway": given})).status_code == 403


async def test_two_headers_open_nothing(guarded: ApiServer) -> None:
    """A caller's own header beside the gateway's means that the gateway did not remove it."""
    async with guarded.client() as client:
        headers = [("X-Mayfly-Gateway", SECRET), ("X-Mayfly-Gateway", SECRET)]
        assert (await client.get("/docs", headers=headers)).status_code == 403


@pytest.mark.F3
async def test_the_audit_trail_has_the_address_that_the_gateway_tells(guarded: ApiServer, nats_url: str) -> None:
    """Behind a gateway what somebody does is written down with his address, not with the gateway's."""
    async with guarded.client() as client:
        body = {"username": f"u-{new_id()}", "password": PASSWORD}
        headers = {"X-Mayfly-Gateway": SECRET, "X-Forwarded-For": "203.0.113.9"}
        user = (await client.post("/v1/users", json=body, headers=headers)).json()

    async with connect(NatsSettings(nats_url=nats_url), role="admin") as bus:
        (entry,), _ = await Audit(bus).list(UserId(user["id"]), limit=50)
    assert entry.actor.address == "203.0.113.9"


async def test_health_checks_need_no_secret(guarded: ApiServer) -> None:
    """The gateway's active checks and a container's health check ask without it."""
    async with guarded.client() as client:
        for path in ("/healthz", "/readyz"):
            assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize("content", [None, "", "short\n", f"{SECRET}\nshort\n"])
async def test_an_unusable_secret_stops_the_start(tmp_path: Path, content: str | None) -> None:
    """A file that is missing, empty or has a guessable secret is named, and the server does not start open."""
    path = tmp_path / "gateway.secret"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SecretUnusable, match="MAYFLY_GATEWAY_SECRET_FILE") as caught:
        create_app(ApiSettings(gateway_secret_file=path))
    assert SECRET not in str(caught.value)
