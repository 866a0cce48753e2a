"""
The connection to NATS, and the one place where the client's errors become ours.

A connection reconnects for ever by itself, to any server of `MAYFLY_NATS_URL`, and reads the password anew each time;
when the client closes it for good (which nats-py does on some protocol errors), `closed` is set and the process must
end, so that its supervisor starts a fresh one.

Where TLS is asked for, by a `tls://` address or an authority, it comes before anything else, so that nobody in between
can talk a client out of it: nats-py by itself believes a server that says it has none. The servers must therefore have
`handshake_first`. Rows: A3, A4.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats.errors
import structlog
from nats.js import JetStreamContext
from nats.js.errors import APIError, NoStreamResponseError, ServiceUnavailableError

from mayfly.bus import subjects
from mayfly.bus.client import Client, JetStream
from mayfly.bus.clock import Clock
from mayfly.domain.errors import QueueUnavailable
from mayfly.settings import NatsSettings

log = structlog.get_logger()

REQUEST_TIMEOUT_S = 5.0
CONNECT_S = 10.0
TOLD_AGAIN_S = 0.1
DROPPED_TOLD_EVERY_S = 1.0
MIN_VERSION = (2, 15, 1)
WORKER_USER = "worker"
MIN_PAYLOAD_BYTES = 4_000_000

UNREACHABLE = (
    nats.errors.TimeoutError,
    nats.errors.NoRespondersError,
    nats.errors.ConnectionClosedError,
    nats.errors.ConnectionReconnectingError,
    nats.errors.OutboundBufferLimitError,
    nats.errors.NoServersError,
    NoStreamResponseError,
    ServiceUnavailableError,
    APIError,
    asyncio.TimeoutError,
    OSError,
)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """
    Turn whatever NATS's client raises while *doing* something into QueueUnavailable.

    What a caller wants to tell apart (a lost compare-and-set, a full stream) it catches inside.
    """
    try:
        yield
    except UNREACHABLE as error:
        log.warning("nats.failed", doing=doing, error=repr(error))
        raise QueueUnavailable(retry_after_s=1) from error


@dataclass
class Bus:
    """An open connection with its JetStream context; the other modules of this room work on it."""

    client: Client
    js: JetStreamContext
    watch: Watch
    api: str = subjects.STREAMS_API
    clock: Clock = field(default_factory=Clock)

    @property
    def closed(self) -> asyncio.Event:
        """Set when the client has given the connection up for good."""
        return self.watch.closed

    @property
    def reconnects(self) -> int:
        """How often the connection came back: what was subscribed lives on, what was asked for does not."""
        return self.watch.reconnects

    @property
    def is_connected(self) -> bool:
        """Whether the connection is up now."""
        return self.client.is_connected

    @property
    def server_certificate(self) -> bytes | None:
        """What the connected nats-server has shown, as DER; None while there is no TLS connection."""
        writer = getattr(self.client._transport, "_io_writer", None)  # nats-py itself shows neither of the two
        connection = writer.get_extra_info("ssl_object") if writer and self.is_connected else None
        return connection.getpeercert(binary_form=True) if isinstance(connection, ssl.SSLObject) else None


@asynccontextmanager
async def connect(settings: NatsSettings, *, role: str, buffer_while_disconnected: bool = False) -> AsyncIterator[Bus]:
    """
    Connect as *role*, and drain at the end.

    Without *buffer_while_disconnected* a publish fails at once while there is no connection, rather than being
    sent later, when nobody waits for it any more.

    Raises: QueueUnavailable when no server is reached within `CONNECT_S`, or it is not fit (version, max_payload), or
    a file of the settings cannot be read.
    """
    watch = Watch(role)
    client = await _open(settings, watch, pending_bytes=2 << 20 if buffer_while_disconnected else 0)
    try:
        _check_server(client)
        yield Bus(client, JetStream(client, timeout=REQUEST_TIMEOUT_S), watch, streams_api(settings.nats_user))
    finally:
        watch.leaving = True
        await _close(client)


class Watch:
    """What a connection goes through, for the log and for those who must know."""

    def __init__(self, role: str) -> None:
        """Nothing has happened yet."""
        self.role = role
        self.closed = asyncio.Event()
        self.reconnects = 0
        self.leaving = False
        self.last_error = ""
        self.dropped = 0  # messages that came faster than they were dealt with; who misses one looks in the stream
        self._dropped_told_at = -math.inf

    async def on_closed(self) -> None:
        """The client has given up."""
        self.closed.set()

    async def on_disconnected(self) -> None:
        """The connection is down; the client tries to get it back."""
        if not self.leaving:
            log.warning("nats.disconnected", role=self.role)

    async def on_reconnected(self) -> None:
        """It is back."""
        self.reconnects += 1
        log.info("nats.reconnected", role=self.role)

    async def on_error(self, error: Exception) -> None:
        """Something went wrong that the client goes on after."""
        if isinstance(error, nats.errors.SlowConsumerError):
            self._on_dropped(error.subject)
            return
        if not (isinstance(error, OSError) and "Authorization" in self.last_error):  # a refusal cuts the connection
            self.last_error = str(error) or type(error).__name__
        log.warning("nats.error", role=self.role, error=repr(error))

    def _on_dropped(self, subject: str) -> None:
        """Thousands may be dropped in a second: say so once."""
        self.dropped += 1
        if time.monotonic() - self._dropped_told_at >= DROPPED_TOLD_EVERY_S:
            self._dropped_told_at = time.monotonic()
            log.warning("nats.dropped", role=self.role, subject=subject, dropped=self.dropped)


async def _open(settings: NatsSettings, watch: Watch, *, pending_bytes: int) -> Client:
    urls = [url.strip() for url in settings.nats_url.split(",") if url.strip()]
    tls = (
        _trust(settings.nats_ca_file) if settings.nats_ca_file or any(url.startswith("tls:") for url in urls) else None
    )
    password = _password_reader(settings.nats_password_file) if settings.nats_password_file else None
    try:
        with translated("connect"):
            client = Client()
            connecting = client.connect(
                urls,
                name=f"mayfly-{watch.role}",
                user=settings.nats_user or None,
                password=password,  # called at each attempt
                tls=tls,
                tls_handshake_first=tls is not None,
                inbox_prefix=inbox_prefix(watch.role),
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.25,  # type: ignore[arg-type]  # it sleeps that long, whole or not
                connect_timeout=5,
                ping_interval=5,
                pending_size=pending_bytes,
                error_cb=watch.on_error,
                disconnected_cb=watch.on_disconnected,
                reconnected_cb=watch.on_reconnected,
                closed_cb=watch.on_closed,
            )
            try:
                await _in_time(connecting, CONNECT_S)
            except BaseException:
                if client.is_connected:  # it was cancelled in that moment, and nobody gets to have it
                    await _close_at_once(client)
                raise
            return client
    except QueueUnavailable as error:
        where = "No nats-server of MAYFLY_NATS_URL could be reached"
        why = f" The last attempt, as {settings.nats_user or 'nobody'}: {watch.last_error}." if watch.last_error else ""
        raise QueueUnavailable(f"{where} within {CONNECT_S:g} s.{why}") from error


async def _in_time(doing: Coroutine[Any, Any, None], seconds: float) -> None:
    """
    Do it, or raise TimeoutError. nats-py tries to connect for ever, and takes a cancellation that comes as a server
    speaks for one more attempt that failed: it is told again until it has heard.
    """
    task = asyncio.create_task(doing)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=TOLD_AGAIN_S)
    if task.cancelled():
        raise TimeoutError
    task.result()


def _password_reader(path: Path) -> Callable[[], str]:
    """Return what reads the password: a file that cannot be read stops the start, later it is tried again."""

    def read() -> str:
        return path.read_text().strip()

    try:
        read()
    except OSError as error:
        raise QueueUnavailable(f"MAYFLY_NATS_PASSWORD_FILE: {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:  # says which bytes, so not named as the cause
        raise QueueUnavailable(f"MAYFLY_NATS_PASSWORD_FILE: {path} is not text: is it the right file?") from None
    return read


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    logging.getLogger("asyncio").addFilter(_says_something)
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (ssl.SSLError, OSError) as error:
        why = "it has no certificates in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise QueueUnavailable(f"MAYFLY_NATS_CA_FILE: {ca_file} cannot be used: {why}.") from error


def _says_something(record: logging.LogRecord) -> bool:
    """
    False for what asyncio warns of at the end of each TLS connection of nats-py's, which does not tell its stream that
    there is TLS: nobody can act on it, and an operator's command would print it.
    """
    return not str(record.msg).startswith("returning true from eof_received()")


def inbox_prefix(role: str) -> str:
    """Each role's replies have a prefix of their own, so that permissions can keep roles from reading others'."""
    return f"_INBOX_{role}"


def streams_api(user: str | None) -> str:
    """How JetStream is called by a NATS user: the worker's account has none, and imports a little of the streams'."""
    return subjects.WORKERS_API if user == WORKER_USER else subjects.STREAMS_API


def _check_server(client: Client) -> None:
    version = client.connected_server_version
    if (version.major, version.minor, version.patch) < MIN_VERSION:
        wanted = ".".join(map(str, MIN_VERSION))
        raise QueueUnavailable(f"nats-server {version} is too old: per-subject limits are exact from {wanted} on.")
    if client.max_payload < MIN_PAYLOAD_BYTES:
        raise QueueUnavailable(
            f"nats-server has max_payload {client.max_payload}; a result of 1 MiB with its headers needs more. "
            "Set `max_payload: 4MB` in every server's configuration."
        )


async def _close(client: Client) -> None:
    """Close, drained if that can be; at once also when the task is cancelled, as nothing else would end its tasks."""
    try:
        with suppress(nats.errors.Error, TimeoutError, OSError):
            async with asyncio.timeout(5):
                await client.drain()
    finally:
        if not client.is_closed:
            await _close_at_once(client)


async def _close_at_once(client: Client) -> None:
    """Close undrained. nats-py waits for the transport, and one that was lost may end as if we had been cancelled."""
    try:
        await client.close()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
