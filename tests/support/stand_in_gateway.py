"""
A small proxy that stands in for the gateway where APISIX cannot be had. It is NOT APISIX, and proves nothing about it.

It keeps the contract between gateway and API server, so that the path through a gateway is walked by tests: TLS, the
token checked with public keys only, identity headers and the gateway's own secret taken from the caller and set anew,
paths in normal form, a body limit, least connections over healthy API servers, nothing ever sent twice, and problems
of its own for what it refuses.

    python -m tests.support.stand_in_gateway --listen 0.0.0.0:9443 --secrets DIR --api api-1:8443 --api api-2:8443

DIR has `gateway.crt`, `gateway.key`, `ca.crt`, `gateway.secret` and the public keys `token-keys/<kid>.pem`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import jwt
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from mayfly.api.auth import PUBLIC
from mayfly.domain.ids import new_ulid
from mayfly.domain.limits import PARAMETER_MAX_BYTES, TIMEOUT_MAX_S

BODY_MAX_BYTES = PARAMETER_MAX_BYTES + 64 * 1024  # a little more, so that the API refuses in its own words
READ_S = TIMEOUT_MAX_S + 30
CHECK_EVERY_S = 1.0
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
NOT_NORMAL = re.compile(rb"//|/\.{1,2}(/|$)|%2e|%2f|%5c|\\", re.IGNORECASE)
REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
SUBJECT = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
OF_THE_CALLER = re.compile(
    rb"x-consumer-.*|x-credential-.*|x-userinfo|x-access-token|x-mayfly-user|x-mayfly-gateway|x-forwarded-.*|forwarded|"
    rb"x-real-ip|x-request-id|.*_.*"
)
HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer", b"host"})


class Refusal(Exception):
    """What the stand-in answers by itself."""

    def __init__(self, status: int, code: str, detail: str, *, ran: str = "no", fault: str = "caller") -> None:
        """A problem with the members that the API's own have."""
        super().__init__(detail)
        self.status = status
        self.members = {"code": code, "detail": detail, "ran": ran, "fault": fault}


@dataclass
class Node:
    """One API server."""

    address: str
    open: int = 0
    healthy: bool = True


@dataclass
class Balancer:
    """The API servers; all count as healthy while none is."""

    nodes: list[Node]
    client: httpx.AsyncClient = field(repr=False)

    def least_busy(self) -> Node:
        """The one with the fewest open calls."""
        healthy = [node for node in self.nodes if node.healthy]
        return min(healthy or self.nodes, key=lambda node: node.open)

    async def check_for_ever(self) -> None:
        """Ask each for /readyz, again and again."""
        while True:
            for node in self.nodes:
                node.healthy = await self._is_ready(node)
            await asyncio.sleep(CHECK_EVERY_S)

    async def _is_ready(self, node: Node) -> bool:
        try:
            return (await self.client.get(f"https://{node.address}/readyz", timeout=2)).status_code == 200
        except httpx.TransportError:
            return False


class StandInGateway:
    """The application."""

    def __init__(self, *, api: list[str], secrets: Path, tls: ssl.SSLContext) -> None:
        """Proxy to the *api* servers (host:port, trusted as *tls* says), with what is in the directory *secrets*."""
        self._secrets = secrets
        self._keys: Mapping[str, str] = {}
        self._secret: str | None = None
        self._read_secrets()
        limits = httpx.Limits(max_connections=None, keepalive_expiry=30)
        timeout = httpx.Timeout(READ_S, connect=10)  # in 3 s, a first packet that was lost is only sent again
        client = httpx.AsyncClient(verify=tls, limits=limits, timeout=timeout, trust_env=False)
        self._balancer = Balancer([Node(address) for address in api], client)

    def app(self) -> Starlette:
        """Make the ASGI application."""
        return Starlette(routes=[Route("/{path:path}", self._answer, methods=METHODS)], lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        checking = asyncio.create_task(self._balancer.check_for_ever(), name="check-nodes")
        reading = asyncio.create_task(self._read_for_ever(), name="read-secrets")
        try:
            yield
        finally:
            checking.cancel()
            reading.cancel()
            await self._balancer.client.aclose()

    async def _read_for_ever(self) -> None:
        """See what is rotated, as APISIX sees that its file has changed."""
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            with suppress(FileNotFoundError):  # a key that went while we looked
                self._read_secrets()

    def _read_secrets(self) -> None:
        self._keys = {path.stem: path.read_text() for path in (self._secrets / "token-keys").glob("*.pem")}
        secret = self._secrets / "gateway.secret"
        self._secret = secret.read_text().split()[-1] if secret.exists() else None

    async def _answer(self, request: Request) -> Response:
        given = request.headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else new_ulid()
        try:
            self._check_path(request)
            self._check_token(request)
            return await self._pass_on(request, await self._body(request), request_id)
        except Refusal as refusal:
            return _problem(refusal, request_id)
        except ClientDisconnect:
            return Response(status_code=499)

    def _check_path(self, request: Request) -> None:
        if NOT_NORMAL.search(request.scope["raw_path"].split(b"?")[0]):
            raise Refusal(400, "invalid-request", "The path must be in normal form.")

    def _check_token(self, request: Request) -> None:
        """Public routes need none; everything below /v1/ does, whether or not the API knows it."""
        method = "GET" if request.method == "HEAD" else request.method
        if (method, request.url.path) in PUBLIC or not request.url.path.startswith("/v1/"):
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            claims = jwt.decode(
                token if scheme.lower() == "bearer" else "",
                self._keys.get(self._kid(token), ""),
                algorithms=["ES256"],
                leeway=5,
                options={"require": ["exp"], "verify_aud": False, "verify_iat": False},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise Refusal(401, "not-authenticated", "A valid access token is needed.") from None
        if not SUBJECT.fullmatch(str(claims.get("sub", ""))):
            raise Refusal(401, "not-authenticated", "The token has no usable sub.")

    def _kid(self, token: str) -> str:
        """APISIX looks the key up by a claim, not by the header."""
        claims = jwt.decode(token, options={"verify_signature": False})
        return str(claims.get("kid"))

    async def _body(self, request: Request) -> bytes:
        """The whole body before anything is sent on, as APISIX does it."""
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_MAX_BYTES:
                raise Refusal(413, "parameter-too-large", f"A body has at most {BODY_MAX_BYTES} bytes here.")
        return bytes(body)

    async def _pass_on(self, request: Request, body: bytes, request_id: str) -> Response:
        """Send it to one API server, once."""
        node = self._balancer.least_busy()
        query = request.scope["query_string"]
        path = request.scope["raw_path"].split(b"?")[0] + (b"?" + query if query else b"")
        url = httpx.URL(f"https://{node.address}", raw_path=path)
        headers = self._headers(request, request_id)
        client = self._balancer.client
        outgoing = httpx.Request(request.method, url, headers=headers, content=body)
        outgoing.extensions["timeout"] = client.timeout.as_dict()
        node.open += 1
        try:
            answer = await client.send(outgoing, stream=True)
        except httpx.TimeoutException:
            node.open -= 1
            raise Refusal(504, "gateway-timeout", "No answer in time.", ran="unknown", fault="platform") from None
        except httpx.TransportError:
            node.open -= 1
            raise Refusal(502, "bad-gateway", "No API server.", ran="unknown", fault="platform") from None
        return _streamed(answer, node, request_id)

    def _headers(self, request: Request, request_id: str) -> list[tuple[bytes, bytes]]:
        headers = [
            (name, value)
            for name, value in request.headers.raw
            if name not in HOP_BY_HOP and name != b"content-length" and not OF_THE_CALLER.fullmatch(name)
        ]
        headers.append((b"host", request.headers.get("host", "gateway").encode("latin-1")))
        headers.append((b"x-request-id", request_id.encode()))
        if request.client:
            headers.append((b"x-forwarded-for", request.client.host.encode()))
        if self._secret:
            headers.append((b"x-mayfly-gateway", self._secret.encode()))
        return headers


def _streamed(answer: httpx.Response, node: Node, request_id: str) -> Response:
    async def body() -> AsyncIterator[bytes]:
        try:
            async for chunk in answer.aiter_raw():
                yield chunk
        finally:
            node.open -= 1
            await answer.aclose()

    response = StreamingResponse(body(), answer.status_code)
    response.raw_headers = [
        (name.lower(), value)
        for name, value in answer.headers.raw
        if name.lower() not in HOP_BY_HOP and name.lower() not in {b"x-request-id", b"date"}
    ]
    response.raw_headers += [
        (b"x-request-id", request_id.encode()),
        (b"strict-transport-security", b"max-age=31536000"),
    ]
    return response


def _problem(refusal: Refusal, request_id: str) -> Response:
    members = {"type": "about:blank", "status": refusal.status, "request_id": request_id, **refusal.members}
    headers = {"X-Request-Id": request_id}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="mayfly"'
    return Response(json.dumps(members), refusal.status, headers=headers, media_type="application/problem+json")


def stand_in(secrets: Path, api: list[str]) -> StandInGateway:
    """Make one from a gateway's directory of secrets."""
    return StandInGateway(api=api, secrets=secrets, tls=ssl.create_default_context(cafile=secrets / "ca.crt"))


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description="A stand-in for the gateway. NOT APISIX.")
    parser.add_argument("--listen", default="127.0.0.1:9443")
    parser.add_argument("--secrets", type=Path, required=True)
    parser.add_argument("--api", action="append", required=True)
    given = parser.parse_args()
    host, _, port = given.listen.rpartition(":")
    print("stand-in gateway: this is NOT APISIX, it only keeps its contract", flush=True)
    with suppress(KeyboardInterrupt):
        uvicorn.run(
            stand_in(given.secrets, given.api).app(),
            host=host,
            port=int(port),
            ssl_certfile=given.secrets / "gateway.crt",
            ssl_keyfile=given.secrets / "gateway.key",
            server_header=False,
            proxy_headers=False,
            access_log=False,
            log_level="warning",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=int(TIMEOUT_MAX_S) + 20,
        )


if __name__ == "__main__":
    main()
