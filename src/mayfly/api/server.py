"""
The API server as a process: TLS, signals, and an orderly end.

Told to stop (SIGTERM, SIGINT) it says 503 on /readyz for `drain_s`, closes its listener, finishes open calls with
`Connection: close`, and leaves. A second signal leaves at once. When its connection to NATS is closed for good it
ends by itself, so that its supervisor starts a fresh one. Rows: F1, A2.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress

import structlog
import uvicorn
import uvloop
from fastapi import FastAPI

from mayfly.api.app import create_app
from mayfly.api.protocol import BoundedHttp
from mayfly.domain.limits import TIMEOUT_MAX_S
from mayfly.services.logs import configure_logs
from mayfly.services.metrics_certificates import ends_of
from mayfly.services.metrics_port import check_metrics_port
from mayfly.settings import ApiSettings

log = structlog.get_logger()

BACKLOG = 2048
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; all of TLS 1.3 are like that
KEEP_ALIVE_S = 75  # longer than the gateway keeps idle connections, so it never sends into one that we close
GRACE_S = int(TIMEOUT_MAX_S) + 20  # for open calls, after which they are cut


class ServerFailed(Exception):
    """The server could not start, or lost what it cannot do without."""


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling, which says when it has started."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._say_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._say_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(settings: ApiSettings) -> None:
    """
    Be an API server: what `mayfly api` does.

    Raises: as `serve`.
    """
    configure_logs(settings, role="api")
    uvloop.run(serve(settings))


async def serve(settings: ApiSettings, *, ready: Callable[[int], None] | None = None) -> None:
    """
    Serve until told to stop; *ready* is called with the port as soon as connections are answered.

    Raises: ServerFailed; SettingsError; KeysMissing; QueueUnavailable when NATS cannot be reached at the start.
    """
    check_metrics_port(settings.metrics_listen, beside=settings.listen)
    app = create_app(settings)
    context = tls_context(settings)
    certificates = ends_of(own=settings.tls_certificate_file, authority=settings.nats_ca_file)
    listener = _listen(settings.listen)
    port: int = listener.getsockname()[1]

    def started() -> None:
        log.info("api.started", port=port)
        if ready:
            ready(port)

    server = _Server(_config(app, context), started)
    async with AsyncExitStack() as stack:
        stack.callback(listener.close)
        await stack.enter_async_context(app.router.lifespan_context(app))
        app.state.mayfly.metrics.certificates = certificates
        signals = _Signals()
        stopped = asyncio.create_task(_stop_when_told(app, server, settings.drain_s, signals), name="stop-when-told")
        stack.callback(stopped.cancel)
        await server.serve(sockets=[listener])
    log.info("api.stopped")
    if app.state.lost.is_set():
        raise ServerFailed("The connection to NATS or the janitor was lost for good; the log says which.")


def tls_context(settings: ApiSettings) -> ssl.SSLContext:
    """
    Load the certificate; TLS 1.2 and 1.3 only, and of the former's ciphers those that encrypt and authenticate in one,
    with keys that are forgotten (RFC 9325, section 4.2).

    Raises: ServerFailed, naming the files.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.tls_certificate_file, settings.tls_key_file)
    except (OSError, ssl.SSLError) as error:
        files = f"{settings.tls_certificate_file} and {settings.tls_key_file}"
        raise ServerFailed(f"{files} are no usable certificate and key: {error}") from error
    return context


def _config(app: FastAPI, context: ssl.SSLContext) -> uvicorn.Config:
    """The application's life is ours (a failed start keeps its error), so uvicorn is told of none."""
    return uvicorn.Config(
        app,
        http=BoundedHttp,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        ssl_context_factory=lambda _config, _default: context,
    )


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, int(port)))
    except (OSError, ValueError, OverflowError) as error:
        listener.close()
        raise ServerFailed(f"MAYFLY_LISTEN: {address!r} cannot be listened on: {error}") from error
    return listener


class _Signals:
    """Hears of SIGTERM and SIGINT from the moment it is made: before the first connection, not some time after it."""

    def __init__(self) -> None:
        self.told, self.again = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._tell)

    def _tell(self) -> None:
        (self.again if self.told.is_set() else self.told).set()


async def _stop_when_told(app: FastAPI, server: uvicorn.Server, drain_s: float, signals: _Signals) -> None:
    """Wait for a signal or the loss of NATS, then let the server end in order; at once when told again."""
    lost, again = app.state.lost, signals.again
    await _first_set(signals.told, lost)
    app.state.closing = True
    log.info("api.closing", drain_s=drain_s)
    if not lost.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                await again.wait()
    server.should_exit = True
    await again.wait()
    server.force_exit = True


async def _first_set(*events: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
