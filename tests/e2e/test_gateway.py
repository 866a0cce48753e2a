"""
What callers get through a gateway: the one of the installation under test, or, without MAYFLY_E2E_URL, the stand-in
before a `mayfly up` of the tests' own. The stand-in is not APISIX, and proves nothing about APISIX.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from mayfly.domain.limits import PARAMETER_MAX_BYTES
from tests.e2e.conftest import Shell
from tests.support.through_gateway import stand_in_before
from tests.support.up import Up, running_up

pytestmark = pytest.mark.A1


@pytest.fixture(scope="module")
def gateway(up: Up) -> Iterator[Up]:
    """The installation as it is seen through its gateway."""
    if "MAYFLY_E2E_URL" in os.environ:
        yield up
        return
    with stand_in_before(up) as url:
        yield Up(url, up.ca_file, up.data_dir)


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer x.y.z", "Basic YTpi", "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0."],
)
async def test_a_bad_token_is_a_problem_of_the_usual_form(gateway: Up, authorization: str | None) -> None:
    """Whoever refuses it, the caller reads the same members, and that nothing ran."""
    headers = {} if authorization is None else {"Authorization": authorization}
    async with gateway.client() as client:
        answer = await client.get("/v1/functions", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert answer.json()["code"] == "not-authenticated"
    assert (answer.json()["fault"], answer.json()["ran"]) == ("caller", "no")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


async def test_forged_identity_headers_change_nothing(gateway: Up) -> None:
    """A caller who says in the gateway's headers that he is somebody else stays who he is."""
    async with await gateway.user() as ann, await gateway.user() as bob:
        bob_is = (await bob.get("/v1/users/me")).json()
        forged = {name: str(bob_is["id"]) for name in ("X-Consumer-Username", "X_Consumer_Username", "X-Mayfly-User")}
        answer = await ann.get("/v1/users/me", headers=forged | {"X-Mayfly-Gateway": "forged"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["id"] != bob_is["id"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1//functions",
        "/docs/../v1/functions",
        "/docs/%2e%2e/v1/functions",
        "/docs/..%2fv1%2ffunctions",
        "/docs\\..\\x",
    ],
)
async def test_path_tricks_reach_nothing(gateway: Up, path: str) -> None:
    """A path that one side could read otherwise than the other is refused."""
    parts = httpx.URL(gateway.url)
    reader, writer = await asyncio.open_connection(parts.host, parts.port, ssl=gateway.tls)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {parts.host}\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
    writer.close()
    assert head.split()[1] in {b"400", b"401", b"404"}, head
    assert b"function" not in body or b'"status"' in body


async def test_a_body_beyond_all_limits_is_refused(gateway: Up) -> None:
    """Twice the largest parameter is 413, as a problem, whether its length is told or not."""
    async with await gateway.user() as client:
        for content in (b"x" * 2 * PARAMETER_MAX_BYTES, _chunks(2 * PARAMETER_MAX_BYTES)):
            answer = await client.post("/v1/functions/none/activations", content=content)
            assert answer.status_code == 413, answer.text
            assert (answer.json()["code"], answer.json()["ran"]) == ("parameter-too-large", "no")


async def _chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 65536):
        yield b"x" * 65536


async def test_a_callers_request_id_is_kept_and_a_bad_one_replaced(gateway: Up) -> None:
    """One id, on both sides and in the answer."""
    async with gateway.client() as client:
        kept = await client.get("/healthz", headers={"X-Request-Id": "callers-own-id-1"})
        replaced = await client.get("/healthz", headers={"X-Request-Id": "not an id; really"})
    assert kept.headers.get_list("x-request-id") == ["callers-own-id-1"]
    assert len(replaced.headers.get_list("x-request-id")) == 1
    assert " " not in replaced.headers["x-request-id"]


async def test_clear_text_gets_no_answer_from_the_api(gateway: Up) -> None:
    """On the gateway's port there is nothing to be had without TLS."""
    parts = httpx.URL(gateway.url)
    reader, writer = await asyncio.open_connection(parts.host, parts.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    try:
        answer = await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        answer = b""
    finally:
        writer.close()
    assert not answer.startswith(b"HTTP/1.1 2")


async def test_the_gateways_502_says_that_nobody_knows(registry: str) -> None:
    """When the API server dies, the gateway says `ran: unknown` until another one is there, and sends nothing again."""
    with running_up(registry, slots=2) as installation, stand_in_before(installation) as url:
        through = Up(url, installation.ca_file, installation.data_dir)
        async with await through.user() as client:
            assert (await client.get("/v1/functions")).status_code == 200
            assert installation.process is not None
            parent = str(installation.process.pid)
            api = subprocess.check_output(["pgrep", "--parent", parent, "--full", "mayfly api"])
            is_asking = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(until_refused(client, is_asking))
                await is_asking.wait()  # `up` starts another API server a moment after the kill
                os.kill(int(api), signal.SIGKILL)
            answer = asking.result()
    assert answer.status_code == 502
    assert json.loads(answer.text)["ran"] == "unknown"


async def until_refused(client: httpx.AsyncClient, is_asking: asyncio.Event) -> httpx.Response:
    """Ask again and again, until the answer is not 200; say when the first answer is there."""
    async with asyncio.timeout(20):
        while (answer := await client.get("/v1/functions")).status_code == 200:
            is_asking.set()
            await asyncio.sleep(0.05)
    return answer


async def test_a_call_through_the_gateway(gateway: Up, image: str) -> None:
    """A parameter goes in and a result comes out, with the headers of the API."""
    async with await gateway.user() as client:
        answer = await Shell(client, image).run("tr a-z A-Z", "hello, gateway")
    assert (answer.status_code, answer.text) == (200, "HELLO, GATEWAY")
    assert "server-timing" in answer.headers
    assert answer.headers["strict-transport-security"].startswith("max-age=")


def test_the_gateways_certificate_is_checked(gateway: Up) -> None:
    """A client that does not know the CA refuses to talk."""
    with (
        httpx.Client(verify=ssl.create_default_context(), trust_env=False) as client,
        pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        client.get(f"{gateway.url}/healthz")
