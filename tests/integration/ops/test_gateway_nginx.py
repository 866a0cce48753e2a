"""
What the gateway's files say to nginx, said to a real one: Debian's, with its Lua. No plugin of APISIX runs here; that
part was run on APISIX once, and is held by the unit tests.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from mayfly.ops.gateway.material import read_material
from mayfly.ops.gateway.render import Rendered, render
from mayfly.ops.secrets import Owners, Wanted, create
from mayfly.settings import GatewaySettings
from tests.support.need import need
from tests.support.nginx import Nginx, present

pytestmark = [pytest.mark.A1, pytest.mark.D3, pytest.mark.F1]

ME = Owners(api=os.geteuid(), nats=os.geteuid(), gateway=os.geteuid(), worker=os.geteuid(), admin=os.geteuid())
END = b"Host: localhost\r\nConnection: close\r\n\r\n"
MEMBERS = {"type", "title", "status", "detail", "code", "fault", "ran", "request_id"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Secrets of two deployments that know nothing of one another."""
    need(present(), "nginx and libnginx-mod-http-lua")
    root = tmp_path_factory.mktemp("deployments")
    for name in ("ours", "theirs"):
        create(root / name, Wanted(owners=ME))
    return root


@dataclass
class Api:
    """An API server that answers everything alike, or breaks each connection in the middle of a request."""

    certificate: Path  # without its suffix
    breaks: bool = False
    arrived: list[bytes] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[int]:
        """Serve on a port of its own."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{self.certificate}.crt", f"{self.certificate}.key")
        listener = socket.create_server(("127.0.0.1", 0))
        serving = threading.Thread(target=self._serve, args=(listener, context), daemon=True)
        serving.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            serving.join(5)

    def _serve(self, listener: socket.socket, context: ssl.SSLContext) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(connection, server_side=True) as spoken:
                    self._answer(spoken)
            except OSError:
                connection.close()  # the other side did not like the certificate

    def _answer(self, connection: ssl.SSLSocket) -> None:
        head = connection.recv(65536)
        if not head:
            return
        self.arrived.append(head)
        if not self.breaks:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-From: api\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")


def files(root: Path, **settings: object) -> Rendered:
    """The gateway's files, with the authority where it is here."""
    given = GatewaySettings(gateway_ca_file=root / "ours/gateway/ca.crt", **settings)  # type: ignore[arg-type]
    return render(given, read_material(root / "ours/gateway"))


@contextmanager
def gateway(root: Path, *apis: Api, **settings: object) -> Iterator[tuple[Nginx, httpx.Client]]:
    """An nginx before API servers, and a client of it."""
    with (
        contextmanager(_all_running)(apis) as ports,
        Nginx(files(root, **settings), root / "ours/gateway", ports) as nginx,
        httpx.Client(base_url=nginx.url, verify=nginx.trust, trust_env=False) as client,
    ):
        yield nginx, client


def _all_running(apis: tuple[Api, ...]) -> Iterator[tuple[int, ...]]:
    if not apis:
        yield ()
        return
    with apis[0].running() as port:
        for others in _all_running(apis[1:]):
            yield (port, *others)


def raw(nginx: Nginx, request: bytes, *, tls: bool = True) -> tuple[int, dict[str, str], dict[str, object]]:
    """Send bytes; return the answer's status, headers and problem."""
    connection = socket.create_connection(("127.0.0.1", nginx.port), timeout=10)
    if tls:
        connection = nginx.trust.wrap_socket(connection, server_hostname="localhost")
    with connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    head, _, body = answer.decode().partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), headers, json.loads(body)


def test_an_api_server_of_the_internal_authority_is_spoken_to(root: Path) -> None:
    """With the name that all of them have, whatever the caller called the gateway."""
    api = Api(root / "ours/api/api")
    with gateway(root, api) as (_, client):
        assert client.get("/v1/functions", headers={"Host": "faas.example.org"}).text == "ok"
    assert b"Host: api\r\n" in api.arrived[0]


@pytest.mark.parametrize("certificate", ["theirs/api/api", "ours/nats-1/nats"])
def test_nobody_else_gets_a_request(certificate: str, root: Path) -> None:
    """Neither who has a certificate of another authority, nor who has one of ours for another name."""
    other = Api(root / certificate)
    with gateway(root, other) as (_, client):
        answer = client.get("/v1/functions", headers={"X-Request-Id": "callers-own-id-1"})
    assert (answer.status_code, answer.json()["code"]) == (502, "bad-gateway")
    assert other.arrived == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
def test_a_request_is_sent_once_even_if_the_connection_breaks(method: str, root: Path) -> None:
    """There are two API servers, and the second is not asked: the first may have done it."""
    apis = Api(root / "ours/api/api", breaks=True), Api(root / "ours/api/api", breaks=True)
    with gateway(root, *apis) as (_, client):
        answer = client.request(method, "/v1/functions/x", content=b"once")
    assert (answer.status_code, answer.json()["ran"]) == (502, "unknown")
    assert len(apis[0].arrived) + len(apis[1].arrived) == 1


@pytest.mark.parametrize("request_id", ["x", "callers-own-id-1", "y" * 64])
def test_nginxs_own_502_has_the_apis_members_and_the_request_id(request_id: str, root: Path) -> None:
    """The length that was told before the id was known is the length of what comes."""
    with gateway(root, Api(root / "ours/api/api", breaks=True)) as (_, client):
        answer = client.get("/v1/functions", headers={"X-Request-Id": request_id})
    assert set(answer.json()) == MEMBERS
    assert answer.json()["request_id"] == request_id
    assert len(answer.content) == int(answer.headers["content-length"])
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"TRACE / HTTP/1.1\r\n", 405, "method-not-allowed"),
        (b"CONNECT elsewhere:443 HTTP/1.1\r\n", 400, "invalid-request"),
        (b"NOT HTTP\r\n", 400, "invalid-request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", 400, "invalid-request"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n", 431, "head-too-large"),
        (b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 9000 + b"\r\n", 431, "head-too-large"),
        (
            b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %b\r\n" % (n, b"a" * 7000) for n in range(12)),
            431,
            "head-too-large",
        ),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: other\r\n", 400, "invalid-request"),
        (b"GET / HTTP/3.7\r\n", 400, "invalid-request"),
    ],
    ids=[
        "trace",
        "connect",
        "no-http",
        "two-hosts",
        "long-line",
        "long-header",
        "long-head",
        "transfer-encoding",
        "another-http",
    ],
)
def test_what_nginx_refuses_before_apisix_is_a_problem(request_: bytes, status: int, code: str, root: Path) -> None:
    """And no page in HTML; nothing of it reaches an API server."""
    api = Api(root / "ours/api/api")
    with gateway(root, api) as (nginx, _):
        answered, headers, problem = raw(nginx, request_ + END)
    assert (answered, problem["status"], problem["code"], problem["ran"]) == (status, status, code, "no")
    assert set(problem) == MEMBERS
    assert headers["x-request-id"] == problem["request_id"]
    assert headers["strict-transport-security"].startswith("max-age=")
    assert headers["server"] == "APISIX"
    assert api.arrived == []


def test_clear_text_on_the_tls_port_is_refused_as_a_problem(root: Path) -> None:
    """The token that came with it is spent, but nothing is done with it."""
    with gateway(root, Api(root / "ours/api/api")) as (nginx, _):
        status, _, problem = raw(nginx, b"GET /healthz HTTP/1.1\r\n" + END, tls=False)
    assert (status, problem["code"]) == (400, "invalid-request")


def test_a_flood_is_refused_with_a_code_of_its_own(root: Path) -> None:
    """The burst passes, the rest is told to come back; an address that floods does not harm another one."""
    with gateway(root, Api(root / "ours/api/api"), gateway_client_rate=1, gateway_client_burst=4) as (nginx, client):
        answers = [client.get("/v1/functions") for _ in range(12)]
        other = httpx.HTTPTransport(verify=nginx.trust, local_address="127.0.0.2")
        with httpx.Client(base_url=nginx.url, transport=other) as neighbour:
            assert neighbour.get("/v1/functions").status_code == 200
    refused = [answer for answer in answers if answer.status_code != 200]

    assert 5 <= len(refused) <= 7
    for answer in refused:
        assert (answer.status_code, answer.json()["code"], answer.json()["ran"]) == (429, "gateway-rate-limit", "no")
        assert (answer.headers["retry-after"], answer.json()["retry_after_s"]) == ("1", 1)
        assert answer.headers["x-request-id"] == answer.json()["request_id"]


def test_the_profile_for_tests_lets_everything_through(root: Path) -> None:
    """A test suite never meets the flood limit."""
    settings = {"gateway_client_rate": 1, "gateway_client_burst": 1, "gateway_profile": "test"}
    with gateway(root, Api(root / "ours/api/api"), **settings) as (_, client):
        assert {client.get("/v1/functions").status_code for _ in range(40)} == {200}


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP"])
def test_a_caller_cannot_choose_the_address_it_is_counted_by(header: str, root: Path) -> None:
    """Not even one on loopback, whom nginx would believe by default."""
    with gateway(root, Api(root / "ours/api/api"), gateway_client_rate=1, gateway_client_burst=2) as (_, client):
        answers = [client.get("/", headers={header: f"10.0.0.{n}"}).status_code for n in range(8)]
    assert answers.count(429) >= 4


def test_behind_a_load_balancer_each_caller_is_counted_by_itself(root: Path) -> None:
    """The last address that is not a trusted proxy's counts; what a caller put before it does not."""
    settings = {"gateway_trusted_proxies": ("127.0.0.1",), "gateway_client_rate": 1, "gateway_client_burst": 2}
    with gateway(root, Api(root / "ours/api/api"), **settings) as (_, client):
        apart = [client.get("/", headers={"X-Forwarded-For": f"10.0.0.{n}"}).status_code for n in range(8)]
        forged = [client.get("/", headers={"X-Forwarded-For": f"10.9.9.{n}, 10.0.1.1"}).status_code for n in range(8)]
    assert set(apart) == {200}
    assert forged.count(429) >= 4


def test_the_log_has_the_request_id_and_no_token(root: Path) -> None:
    """One line of JSON a request, early refusals too, each with the id that the caller has."""
    with gateway(root, Api(root / "ours/api/api")) as (nginx, client):
        headers = {"Authorization": "Bearer secret-token", "X-Request-Id": "callers-own-id-1"}
        client.get("/v1/functions?token=secret-token", headers=headers)
        _, early, _ = raw(nginx, b"TRACE / HTTP/1.1\r\n" + END)
        ended = shutil.copy(nginx.root / "access.log", root / "access.log")
    lines = [json.loads(line) for line in Path(ended).read_text().splitlines()]

    assert [(line["path"], line["status"]) for line in lines] == [("/v1/functions", "200"), ("/__mayfly_early", "405")]
    assert lines[1]["request_id"] == early["x-request-id"]
    assert "secret-token" not in Path(ended).read_text()
