"""The registry proxy by itself, as whoever could speak to it would: what it lets through, and what it bounds."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import structlog

from mayfly.images import proxy as proxies
from mayfly.images.policy import RegistryPolicy
from mayfly.images.proxy import Enclosure, RegistryProxy
from mayfly.images.reference import parse_reference
from tests.support.hostile_registry import Answer, HostileRegistry, PrivateService

pytestmark = pytest.mark.F6

MIB = 1 << 20
CREDENTIALS = "Authorization: Basic YWxpY2U6c2VjcmV0\r\n"


@pytest.fixture
def private() -> Iterator[PrivateService]:
    """A service that is not listed."""
    with PrivateService(["127.0.0.2"]) as service:
        yield service


@asynccontextmanager
async def a_proxy(*listed: str, plain_http: tuple[str, ...] = ()) -> AsyncIterator[RegistryProxy]:
    """A proxy that tests can reach, as it is in no namespace."""
    policy = RegistryPolicy(private=listed, plain_http=plain_http)
    reference = parse_reference("registry.example/x")
    async with RegistryProxy(policy, reference, max_bytes=MIB, enclosure=Enclosure.NONE) as proxy:
        yield proxy


async def connect(proxy: RegistryProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to it."""
    return await asyncio.open_connection("127.0.0.1", urlsplit(proxy.environment["HTTP_PROXY"]).port)


def authorization(proxy: RegistryProxy) -> str:
    """What skopeo shows it."""
    user, _, _ = urlsplit(proxy.environment["HTTP_PROXY"]).netloc.rpartition("@")
    return f"Proxy-Authorization: Basic {base64.b64encode(user.encode()).decode()}\r\n"


async def ask(proxy: RegistryProxy, request: bytes) -> bytes:
    """Send it something, and return all that it says until it closes."""
    reader, writer = await connect(proxy)
    writer.write(request)
    async with asyncio.timeout(20):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


async def test_a_stranger_gets_nothing(private: PrivateService) -> None:
    """Without the token of this pull, or with another's, nobody is connected to."""
    listed = f"127.0.0.2:{private.port}"
    async with a_proxy(listed, plain_http=(listed,)) as proxy, a_proxy(listed) as other:
        for shown in ("", "Proxy-Authorization: Basic \r\n", authorization(other)):
            for first in (f"CONNECT {listed} HTTP/1.1", f"GET http://{listed}/ HTTP/1.1"):
                answer = await ask(proxy, f"{first}\r\nHost: x\r\n{shown}\r\n".encode())
                assert answer.startswith(b"HTTP/1.1 502")

        assert private.connections == 0
        granted = await ask(
            proxy, f"GET http://{listed}/ HTTP/1.1\r\nHost: {listed}\r\n{authorization(proxy)}\r\n".encode()
        )
        assert granted.endswith(private.SECRET)


@pytest.mark.parametrize(
    "first",
    [
        "CONNECT 127.0.0.2:{}",
        "CONNECT [::ffff:127.0.0.2]:{}",
        "CONNECT [64:ff9b::7f00:2]:{}",
        "CONNECT 127.0.0.2",
        "CONNECT 127.0.0.2:",
        "CONNECT :{}",
        "CONNECT 127.0.0.2:0{}x",
        "CONNECT 127.0.0.2:99999",
        "CONNECT 127.0.0.2:0",
        "CONNECT http://127.0.0.2:{}/",
        "CONNECT user@127.0.0.2:{}",
        "CONNECT 8.8.8.8:{}@127.0.0.2:{}",
        "CONNECT 127.0.0.2%00.example:{}",
        "CONNECT [fe80::1%25lo]:{}",
        "CONNECT /run/docker.sock",
        "CONNECT ①②⑦.0.0.2:{}",
        "GET /",
        "GET *",
        "GET http:///",
        "GET http://127.0.0.2:{}/",
        "GET https://127.0.0.2:{}/",
        "GET ftp://127.0.0.2:{}/",
        "GET file:///etc/passwd",
        "GET http://listed@127.0.0.2:{}/",
        "GET http://127.0.0.2:{}\\@listed/",
        "GET http://[127.0.0.2:{}/",
        "POST 127.0.0.2:{}",
    ],
)
async def test_what_is_not_listed_is_not_reached(private: PrivateService, first: str) -> None:
    """However a private address is asked for, and whatever is no sound request, nobody is connected to."""
    async with a_proxy() as proxy:
        line = first.replace("{}", str(private.port))
        answer = await ask(proxy, f"{line} HTTP/1.1\r\nHost: x\r\n{authorization(proxy)}\r\n".encode())

    assert answer == b"" or answer.startswith(b"HTTP/1.1 502 Refused")
    assert private.connections == 0


async def test_what_was_judged_is_what_is_connected_to(
    private: PrivateService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is looked up once for each connection: what it means a moment later, nobody asks."""
    answers = ["127.0.0.1", "127.0.0.2", "127.0.0.2"]

    def resolve(*_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers.pop(0), private.port))]

    async with a_proxy("127.0.0.1/32") as proxy:
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        shown = authorization(proxy)
        answer = await ask(proxy, f"CONNECT x.example:{private.port} HTTP/1.1\r\nHost: x\r\n{shown}\r\n".encode())

    assert answer.startswith(b"HTTP/1.1 502")
    assert answers == ["127.0.0.2", "127.0.0.2"]
    assert private.connections == 0


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\x00\x01\x00", b"SSH-2.0\r\n\r\n", b"\r\n\r\n\r\n\r\n", b"GET / HTTP/9\r\n\r\n"]
)
async def test_what_is_no_http_is_closed(junk: bytes) -> None:
    """A client that speaks something else is closed, and the next one is served."""
    async with a_proxy() as proxy:
        reader, writer = await connect(proxy)
        writer.write(junk)
        writer.write_eof()
        async with asyncio.timeout(20):
            assert not (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
        assert (await ask(proxy, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 502")


async def test_a_head_without_an_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request's head has 64 KiB and a few seconds; then its connection is closed."""
    monkeypatch.setattr(proxies, "HEAD_S", 0.3)
    async with a_proxy() as proxy:
        large = b"GET / HTTP/1.1\r\n" + b"X: " + b"x" * (1 << 17) + b"\r\n"
        assert not (await ask(proxy, large)).startswith(b"HTTP/1.1 200")
        assert await ask(proxy, b"GET / HTTP/1.1\r\nX: ") == b""


async def test_connections_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many at once a connection is closed at once; when others end, there is room again."""
    monkeypatch.setattr(proxies, "MAX_CONNECTIONS", 3)
    async with a_proxy() as proxy:
        idle = [await connect(proxy) for _ in range(3)]
        assert await ask(proxy, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == b""
        for _, writer in idle:
            writer.close()
        async with asyncio.timeout(20):
            while not (await ask(proxy, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 502"):
                await asyncio.sleep(0.01)


async def test_bytes_are_counted(tmp_path: Path) -> None:
    """What arrives in one pull is at most twice the largest image; then everything is cut off, with the setting."""
    async with HostileRegistry(tmp_path) as registry:
        listed = registry.url
        registry.rule = lambda _: Answer(body=bytes(3 * MIB))
        async with a_proxy(listed, plain_http=(listed,)) as proxy:
            request = f"GET http://{listed}/ HTTP/1.1\r\nHost: x\r\n{authorization(proxy)}\r\n"
            assert len(await ask(proxy, request.encode())) < 3 * MIB
            assert "MAYFLY_IMAGE_MAX_BYTES" in str(proxy.explain(""))


@pytest.mark.parametrize("broken", ["", "X\r\n", "X: \0\r\n"])
async def test_no_credentials_are_logged(private: PrivateService, broken: str) -> None:
    """Neither what a sound request carries for the registry nor what a broken one does is in the log."""
    address = f"127.0.0.2:{private.port}"
    with structlog.testing.capture_logs() as logged:
        for listed in ((), (address,)):
            async with a_proxy(*listed, plain_http=listed) as proxy:
                head = f"GET http://{address}/?X-Amz-Signature=c2VjcmV0 HTTP/1.1\r\nHost: x\r\n{CREDENTIALS}"
                await ask(proxy, f"{head}{authorization(proxy)}{broken}\r\n".encode())

    assert logged
    assert "c2VjcmV0" not in str(logged)
    assert proxy.environment["HTTP_PROXY"][20:40] not in str(logged)


ANSWERS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    "until it closes": b"HTTP/1.0 200 OK\r\n\r\nhello",
    "early hints": b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "two answers": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\r\nsmuggled",
}


@pytest.mark.parametrize("form", ANSWERS)
async def test_an_answer_arrives_as_it_was_sent(tmp_path: Path, form: str) -> None:
    """However a registry without TLS marks the end of its answer, a client gets that answer, and no more."""
    async with HostileRegistry(tmp_path) as registry:
        listed = registry.url
        registry.rule = lambda _: Answer(raw=[ANSWERS[form]])
        async with (
            a_proxy(listed, plain_http=(listed,)) as proxy,
            httpx.AsyncClient(proxy=proxy.environment["HTTP_PROXY"], trust_env=False) as client,
        ):
            answers = [await client.get(f"http://{listed}/v2/?a=b%2Fc") for _ in range(2)]

    assert [(answer.status_code, answer.content) for answer in answers] == [(200, b"hello")] * 2
    assert registry.asked == ["/v2/?a=b%2Fc"] * 2


async def test_other_methods_and_headers_pass(tmp_path: Path) -> None:
    """HEAD has no body, a POST's body arrives, and headers do, but for those between client and proxy."""
    seen: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        body = b"" if head.startswith("HEAD") else await reader.readexactly(9)
        seen.append(head + body.decode())
        writer.write(b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        listed = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with (
            a_proxy(listed, plain_http=(listed,)) as proxy,
            httpx.AsyncClient(proxy=proxy.environment["HTTP_PROXY"], trust_env=False) as client,
        ):
            first = await client.head(f"http://{listed}/x", headers={"Authorization": "Bearer t"})
            second = await client.post(f"http://{listed}/token", content=b"grant=any")

    assert [each.headers["WWW-Authenticate"] for each in (first, second)] == ["Basic", "Basic"]
    assert seen[0].startswith("HEAD /x HTTP/1.1\r\n")
    assert "authorization: bearer t\r\n" in seen[0].lower()
    assert seen[1].startswith("POST /token HTTP/1.1\r\n")
    assert seen[1].endswith("grant=any")
    assert "proxy-authorization" not in "".join(seen).lower()
