"""A registry that attacks whoever pulls from it, and a private service that counts who comes."""

from __future__ import annotations

import hashlib
import http.server
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from examples.oci import Image, write_layout
from tests.support.nats import free_port

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the registry says; *raw* is all of it, as it goes over the wire, for as long as somebody listens."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    raw: Iterable[bytes] | None = None


Rule = Callable[[str], Answer | None]  # by the path that was asked for; None: as an honest registry would


def redirect(part: str, location: str) -> Rule:
    """Send whoever asks for a path with *part* in it elsewhere."""
    return lambda path: Answer(status=307, headers={"Location": location}) if part in path else None


def realm(url: str) -> Rule:
    """Ask for a token that another server gives."""
    challenge = f'Bearer realm="{url}",service="x"'
    return lambda _: Answer(status=401, headers={"WWW-Authenticate": challenge})


def raw(part: str, chunks: Callable[[], Iterable[bytes]]) -> Rule:
    """Answer with these bytes whoever asks for a path with *part* in it."""
    return lambda path: Answer(raw=chunks()) if part in path else None


class HostileRegistry:
    """Has a sound image under every name, but for what the rule says; an async context manager."""

    def __init__(self, directory: Path, rule: Rule = lambda _: None, *, certificates: Path | None = None) -> None:
        """Listen on a free port of 127.0.0.1, with the TLS of *certificates* if given. *rule* may be set later."""
        digest = write_layout(Image(busybox=False, cmd=("/x",)), directory)
        self._blobs = directory / "blobs" / "sha256"
        self.manifest = (self._blobs / digest.removeprefix("sha256:")).read_bytes()
        self.rule = rule
        self.asked: list[str] = []
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True  # one that never ends is left by whoever asked
        if certificates:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificates / "server-cert.pem", certificates / "server-key.pem")
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.port = int(self._server.server_address[1])
        self.url = f"127.0.0.1:{self.port}"

    def change_manifest(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Have another manifest."""
        manifest = json.loads(self.manifest)
        change(manifest)
        self.manifest = json.dumps(manifest).encode()

    def answer(self, path: str) -> Answer:
        """What is said to whoever asks for *path*."""
        self.asked.append(path)
        if found := self.rule(path):
            return found
        if path.rstrip("/") == "/v2":
            return Answer(body=b"{}")
        blob = self._blobs / path.rpartition("sha256:")[2]
        if "/manifests/" in path:
            media = json.loads(self.manifest).get("mediaType", MANIFEST)
            digest = f"sha256:{hashlib.sha256(self.manifest).hexdigest()}"
            return Answer(headers={"Content-Type": media, "Docker-Content-Digest": digest}, body=self.manifest)
        return Answer(body=blob.read_bytes()) if "/blobs/" in path and blob.is_file() else Answer(status=404)

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                answer = registry.answer(self.path)
                try:
                    if answer.raw is not None:
                        for chunk in answer.raw:
                            self.wfile.write(chunk)
                        self.close_connection = True
                        return
                    self.send_response(answer.status)
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(answer.body)))
                    self.end_headers()
                    self.wfile.write(answer.body if self.command == "GET" else b"")
                except OSError:
                    self.close_connection = True

            do_HEAD = do_GET  # noqa: N815 - the library's name

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
                """Say nothing."""

        return Handler

    async def __aenter__(self) -> Self:
        """Start."""
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class PrivateService:
    """What nobody may reach: it answers anything with a secret, and counts connections. A context manager."""

    SECRET = b"the operator's secret"

    def __init__(self, addresses: Iterable[str]) -> None:
        """Listen on one free port of all *addresses*."""
        self.connections = 0
        self.port = free_port()  # and not the kernel's choice for one address, which can be in use at another
        self._sockets = [
            socket.create_server((address, self.port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
            for address in addresses
        ]
        self._threads = [threading.Thread(target=self._serve, args=(each,)) for each in self._sockets]

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed: the end
                return
            self.connections += 1
            with connection:
                connection.settimeout(5)
                try:
                    connection.recv(65536)
                    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(self.SECRET)}\r\nConnection: close\r\n\r\n"
                    connection.sendall(head.encode() + self.SECRET)
                except OSError:
                    continue

    def __enter__(self) -> Self:
        """Start."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        for listener in self._sockets:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in self._threads:
            thread.join()
