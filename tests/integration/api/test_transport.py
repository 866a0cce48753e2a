"""The wire: TLS and nothing else, the parser's bounds, what every answer carries, and the process's end."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from mayfly.api.protocol import HEAD_MAX_BYTES, UNWANTED_MAX_BYTES
from mayfly.domain.ids import new_id
from tests.integration.api.conftest import FUNCTION, Someone
from tests.support.answering import AnsweringWorker, answering_worker
from tests.support.api import ApiServer, bootstrapped
from tests.support.nats import NatsServer

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def exchange(api: ApiServer, *parts: bytes, tls: bool = True) -> bytes:
    """Write bytes, one after the other, and read until the server closes; empty if it just hangs up."""
    context = api.tls if tls else None
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port, ssl=context)
    received = b""
    try:
        async with asyncio.timeout(20):
            for part in parts:
                writer.write(part)
                await writer.drain()
            while chunk := await reader.read(65536):
                received += chunk
    except (ConnectionError, ssl.SSLError):
        return received
    finally:
        writer.close()
    return received


def head_of(answer: bytes) -> bytes:
    """The status line."""
    return answer.partition(b"\r\n")[0]


@pytest.mark.F1
@pytest.mark.parametrize(
    "sent",
    [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: %b\r\nConnection: close\r\n\r\n",
        b"POST /v1/users HTTP/1.1\r\nHost: x\r\nX-Request-Id: %b\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=["get", "post"],
)
async def test_clear_text_on_the_https_port_gets_no_answer_from_the_api(api: ApiServer, sent: bytes) -> None:
    """Whoever speaks HTTP without TLS gets no HTTP back, and no request arrives; with TLS the same bytes do arrive."""
    clear, covered = new_id(), new_id()
    assert b"HTTP/" not in await exchange(api, sent % clear.encode(), tls=False)
    assert (await exchange(api, sent % covered.encode())).startswith(b"HTTP/1.1 ")
    await api.event("request.done", request_id=covered)  # a line of the one before would stand above it
    assert clear not in json.dumps(api.log)


@pytest.mark.F1
async def test_a_preface_of_http2_gets_no_answer_in_clear_text(api: ApiServer) -> None:
    """Whoever begins HTTP/2 without TLS gets no HTTP back either; with TLS it is told that it is none of ours."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    assert b"HTTP/" not in await exchange(api, preface, tls=False)
    assert head_of(await exchange(api, preface)).startswith(b"HTTP/1.1 400")


@pytest.mark.F1
@pytest.mark.parametrize(
    ("version", "works"),
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)],
)
async def test_tls_is_1_2_or_newer(api: ApiServer, version: ssl.TLSVersion, works: bool) -> None:
    """TLS 1.1 is refused in the handshake."""
    context = api.tls
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # TLS 1.1 is deprecated: so we say
        context.minimum_version = context.maximum_version = version
    if works:
        _, writer = await asyncio.open_connection("127.0.0.1", api.port, ssl=context)
        assert writer.get_extra_info("ssl_object").version() == version.name.replace("_", ".")
        writer.close()
    else:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", api.port, ssl=context)


@pytest.mark.F1
@pytest.mark.parametrize(
    ("cipher", "works"),
    [
        ("ECDHE-ECDSA-AES128-GCM-SHA256", True),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", True),
        ("ECDHE-ECDSA-AES128-SHA256", False),
        ("ECDHE-ECDSA-AES128-SHA", False),
        ("aNULL:eNULL", False),
    ],
)
async def test_ciphers_of_tls_1_2_are_good_ones(api: ApiServer, cipher: str, works: bool) -> None:
    """What encrypts and authenticates in one is taken; CBC, and what does without either, is refused."""
    context = api.tls
    context.set_ciphers(f"{cipher}:@SECLEVEL=0")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    if works:
        _, writer = await asyncio.open_connection("127.0.0.1", api.port, ssl=context)
        assert writer.get_extra_info("cipher")[0] == cipher
        writer.close()
    else:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", api.port, ssl=context)


@pytest.mark.F1
async def test_certificate_is_checked_by_the_client(api: ApiServer) -> None:
    """Without the CA a client refuses to talk: the certificate is the one that was configured, and no other."""
    async with httpx.AsyncClient(base_url=api.url) as stranger:
        with pytest.raises(httpx.ConnectError, match="certificate"):
            await stranger.get("/healthz")


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost x\r\n\r\n",
        b"GET /healthz HTTP/3.0\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/users HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /v1/users HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/users HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/users HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /v1/users HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: a\0b\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/users HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nhi",
    ],
    ids=[
        "no-http",
        "header-without-colon",
        "version",
        "path-not-ascii",
        "two-lengths",
        "length-and-chunked",
        "length-negative",
        "length-huge",
        "chunk-size",
        "header-nul",
        "connect",
        "upgrade",
    ],
)
async def test_what_is_not_http_is_told_so(api: ApiServer, sent: bytes) -> None:
    """Broken or ambiguous requests get a problem with 400 and the connection closed, never a second reading."""
    answer = await exchange(api, sent)
    assert head_of(answer) == b"HTTP/1.1 400 Bad Request", answer
    assert b"application/problem+json" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "invalid-request"


async def test_endless_head_is_refused(api: ApiServer) -> None:
    """A head beyond 64 KiB is 431, also when it is one header that never ends."""
    start = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: "
    for padding in (b"a" * (HEAD_MAX_BYTES * 8), b"a\r\nX-More: " * (HEAD_MAX_BYTES // 2)):
        answer = await exchange(api, start, padding)
        assert head_of(answer) in {b"HTTP/1.1 431 Request Header Fields Too Large", b""}
    assert head_of(await exchange(api, start + b"a" * 40_000, b"a" * 30_000)) == (
        b"HTTP/1.1 431 Request Header Fields Too Large"
    )


async def test_ordinary_large_head_is_fine(api: ApiServer, anybody: httpx.AsyncClient) -> None:
    """A header of 16 KiB, as tokens and cookies may be, passes."""
    assert (await anybody.get("/healthz", headers={"X-Large": "a" * 16_384})).status_code == 200


@pytest.mark.F7
async def test_body_is_not_read_before_the_caller_is_known(api: ApiServer, anybody: httpx.AsyncClient) -> None:
    """Who has no token is answered 401 while its body is still to come, and is not told to continue."""
    request = (
        b"POST /v1/functions/echo/activations HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
        b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    answer = await exchange(api, request)
    assert head_of(answer) == b"HTTP/1.1 401 Unauthorized"
    assert b"100 Continue" not in answer


@pytest.mark.F7
async def test_announced_size_is_refused_unread(api: ApiServer, resident: Someone) -> None:
    """A parameter announced as one byte too long is 413 before any of it is sent."""
    request = (
        f"POST /v1/functions/echo/activations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {resident.access_token}\r\n"
        f"Content-Length: {1024 * 1024 + 1}\r\nConnection: close\r\n\r\n"
    )
    assert (await exchange(api, request.encode())).startswith(b"HTTP/1.1 413 ")


@pytest.mark.F7
async def test_chunked_body_is_counted(resident: Someone, worker: AnsweringWorker) -> None:
    """Without a Content-Length the body is counted while it arrives: 1 MiB passes, one byte more is 413."""

    async def chunks(total: int) -> AsyncIterator[bytes]:
        sent = 0
        while sent < total:
            size = min(65_536, total - sent)
            sent += size
            yield b"c" * size

    path = "/v1/functions/echo/activations"
    exact = await resident.client.post(path, content=chunks(1024 * 1024))
    assert (exact.status_code, len(exact.content)) == (200, 1024 * 1024)
    over = await resident.client.post(path, content=chunks(1024 * 1024 + 1))
    assert (over.status_code, over.json()["code"]) == (413, "parameter-too-large")


async def test_sender_of_a_refused_body_is_cut_off_in_the_end(api: ApiServer) -> None:
    """Who goes on sending after the answer may send 8 MiB, not without end."""
    head = b"POST /v1/functions/echo/activations HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000000\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port, ssl=api.tls)
    writer.write(head)
    assert (await reader.readline()) == b"HTTP/1.1 401 Unauthorized\r\n"
    sent = 0
    try:
        async with asyncio.timeout(20):
            while sent < 10 * UNWANTED_MAX_BYTES and not writer.is_closing():
                writer.write(b"x" * 262_144)
                await writer.drain()
                await asyncio.sleep(0)  # drain alone does not let the loop notice that the server hung up
                sent += 262_144
    except (ConnectionError, ssl.SSLError):
        pass
    finally:
        writer.close()
    assert sent < 10 * UNWANTED_MAX_BYTES


async def test_every_answer_has_a_request_id(anybody: httpx.AsyncClient, api: ApiServer) -> None:
    """A sane id is taken over and logged, any other is replaced; errors carry the same one in body and header."""
    kept = await anybody.get("/healthz", headers={"X-Request-Id": "caller-1.A_b"})
    assert kept.headers["X-Request-Id"] == "caller-1.A_b"
    await api.event("request.done", request_id="caller-1.A_b", route="/healthz", status=200, method="GET")
    for strange in ("", "a b", "x" * 65, "a;b", "a/b"):
        answer = await anybody.get("/nothing", headers={"X-Request-Id": strange})
        assert answer.headers["X-Request-Id"] == answer.json()["request_id"]
        assert len(answer.headers["X-Request-Id"]) == 26


async def test_log_line_tells_who_and_what_and_no_secret(resident: Someone, api: ApiServer) -> None:
    """`request.done` has route template, status, time, user and code; neither token nor path parameters."""
    user_id = (await resident.client.get("/v1/users/me")).json()["id"]
    await resident.client.get("/v1/functions/absent", headers={"X-Request-Id": "look-me-up"})
    line = await api.event("request.done", request_id="look-me-up")
    assert (line["route"], line["status"], line["code"]) == ("/v1/functions/{name}", 404, "not-found")
    assert line["user_id"] == user_id
    assert line["duration_ms"] > 0
    everything = json.dumps(api.log)
    assert resident.access_token not in everything
    assert resident.tokens["refresh_token"] not in everything
    assert "correct horse" not in everything


async def test_server_does_not_introduce_itself(anybody: httpx.AsyncClient) -> None:
    """No Server header, no sniffing, no caching."""
    answer = await anybody.get("/healthz")
    assert "Server" not in answer.headers
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"


async def test_head_is_get_without_a_body(anybody: httpx.AsyncClient) -> None:
    """HEAD answers as GET does, and sends nothing."""
    for path in ("/healthz", "/docs", "/openapi.json"):
        head, get = await anybody.head(path), await anybody.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["Content-Length"] == get.headers["Content-Length"]


async def test_docs_need_nothing_from_elsewhere(anybody: httpx.AsyncClient) -> None:
    """The page is whole in itself, has no script, and its policy would allow none."""
    page = await anybody.get("/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "<script" not in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "/v1/functions/{name}/activations" in page.text
    for code in ("concurrency-limit", "function-failed"):
        assert f"id='{code}'" in page.text


@pytest.mark.A2
async def test_status_shows_limits_and_usage(resident: Someone) -> None:
    """GET /v1/status has M and U as the queue enforces them, and how many are in flight."""
    status = (await resident.client.get("/v1/status")).json()
    assert status["platform"] == {"limit": 8, "in_flight": 0}
    assert status["user"] == {"limit": 4, "in_flight": 0}
    assert status["workers"] == 0, "the worker of these tests sends no heartbeat"


@pytest.mark.A2
async def test_sigterm_drains_and_finishes_open_calls(nats_url: str, tmp_path: Path, worker: AnsweringWorker) -> None:
    """Told to stop, the server says 503 on /readyz, answers the open call, closes connections, and ends with 0."""
    async with ApiServer(nats_url, tmp_path, drain_s=3) as api:
        tokens = await api.registered()
        async with api.client(tokens["access_token"]) as client:
            assert (await client.get("/readyz")).status_code == 200
            await client.post("/v1/functions", json=FUNCTION)
            worker.hold.clear()
            before = len(worker.claimed)
            call = asyncio.create_task(client.post("/v1/functions/echo/activations", content=b"open"))
            async with asyncio.timeout(10):
                while len(worker.claimed) == before:
                    await asyncio.sleep(0.005)
            api.process.send_signal(signal.SIGTERM)
            await api.event("api.closing")
            draining = await client.get("/readyz")
            assert (draining.status_code, draining.json()["ready"]) == (503, False)
            assert draining.headers["Connection"] == "close"
            async with asyncio.timeout(10):
                while not await _refuses(api.port):
                    await asyncio.sleep(0.02)
            worker.hold.set()
            answer = await call
            assert (answer.status_code, answer.content) == (200, b"open")
            assert answer.headers["Connection"] == "close"
        async with asyncio.timeout(10):
            assert await api.process.wait() == 0


async def _refuses(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


@pytest.mark.A2
async def test_second_signal_ends_at_once(nats_url: str, tmp_path: Path) -> None:
    """Whoever says it twice does not wait for the drain."""
    async with ApiServer(nats_url, tmp_path, drain_s=60) as api:
        api.process.send_signal(signal.SIGINT)
        await api.event("api.closing")
        api.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(10):
            await api.process.wait()


async def test_a_client_that_says_nothing_holds_up_no_stop(nats_url: str, tmp_path: Path) -> None:
    """A connection that is kept and never read from again, as by a frozen client, is not waited for."""
    async with ApiServer(nats_url, tmp_path) as api:
        with (
            socket.create_connection(("127.0.0.1", api.port)) as plain,
            api.tls.wrap_socket(plain, server_hostname="localhost") as idle,
        ):
            await asyncio.to_thread(idle.sendall, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in await asyncio.to_thread(idle.recv, 65536)
            api.process.terminate()
            async with asyncio.timeout(8):
                await api.process.wait()

    assert api.process.returncode == 0


@pytest.mark.A2
async def test_server_without_nats_does_not_start_and_says_why(tmp_path: Path) -> None:
    """An unreachable NATS ends the start with an error that names it, not with a server that answers 500."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = ApiServer(f"nats://127.0.0.1:{free.getsockname()[1]}", tmp_path)
        async with asyncio.timeout(60):
            with pytest.raises(AssertionError, match="did not start"):
                await server.__aenter__()
    assert server.process.returncode == 1
    assert "No nats-server of MAYFLY_NATS_URL could be reached within 10 s." in str(server.log)


@pytest.mark.A2
async def test_outage_of_nats_is_503_and_passes(tmp_path: Path) -> None:
    """While NATS is away calls get 503 queue-unavailable and /readyz says so; when it is back, calls work again."""
    async with NatsServer() as nats:
        await bootstrapped(nats.url)
        async with ApiServer(nats.url, tmp_path) as api:
            tokens = await api.registered()
            async with api.client(tokens["access_token"]) as client:
                nats.freeze()
                try:
                    assert (await client.get("/readyz")).status_code == 503
                    answer = await client.get("/v1/users/me")
                    assert (answer.status_code, answer.json()["code"]) == (503, "queue-unavailable")
                    assert answer.headers["Retry-After"] == "1"
                finally:
                    nats.thaw()
                async with asyncio.timeout(3):
                    while (await client.get("/readyz")).status_code != 200:
                        await asyncio.sleep(0.05)
                assert (await client.get("/v1/users/me")).status_code == 200


async def test_pending_function_is_202(tmp_path: Path) -> None:
    """Without a worker a registration is accepted as pending, and becomes ready when a worker is there to ask."""
    async with NatsServer() as nats:
        await bootstrapped(nats.url)
        async with ApiServer(nats.url, tmp_path) as api:
            tokens = await api.registered()
            async with api.client(tokens["access_token"]) as client:
                pending = await client.post("/v1/functions", json=FUNCTION)
                assert (pending.status_code, pending.json()["state"]) == (202, "pending")
                assert pending.json()["digest"] is None
                async with answering_worker(nats.url):
                    ready = await client.put("/v1/functions/echo", json={"image": FUNCTION["image"]})
                assert (ready.status_code, ready.json()["state"]) == (200, "ready")
