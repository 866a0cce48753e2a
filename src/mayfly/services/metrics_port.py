"""
Where a role's metrics are read: `GET /metrics` on a port of its own, in clear text and without a token. Rows: D4.

It answers nothing else, in any method or under any path, and shares no port, connection or code with the API. It runs
in the role's event loop, beside calls that take a few milliseconds, so it renders one metric at a time and lets
the others go on in between; who sends nothing, or too much, is cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from mayfly.settings import SettingsError

log = structlog.get_logger()


class Registered(Protocol):
    """What has metrics: a role, or several processes of one together."""

    registry: CollectorRegistry


M = TypeVar("M", bound=Registered)

PATH = b"/metrics"
HEAD_MAX_BYTES = 8192
REQUEST_WITHIN_S = 5.0
SCRAPES_AT_ONCE = 8
CONNECTIONS_AT_ONCE = 64  # silent ones included; beyond that the oldest is cut off


async def _nothing() -> None:
    """Read nothing before a scrape."""


@asynccontextmanager
async def served(listen: str, metrics: M, *, refresh: Callable[[], Awaitable[None]] = _nothing) -> AsyncIterator[M]:
    """
    Serve *metrics* at *listen*, `address:port`, or nowhere when it is empty; *refresh* is awaited before each scrape.

    Raises: SettingsError when nothing can listen there.
    """
    if not listen:
        yield metrics
        return
    host, port = _host_and_port(listen)
    answering = _Answering(metrics.registry, refresh)
    try:
        server = await asyncio.start_server(answering.connected, host, port, limit=HEAD_MAX_BYTES)
    except (OSError, UnicodeError) as error:  # the latter of a name that cannot be looked up
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise SettingsError(
            f"MAYFLY_METRICS_LISTEN: {listen!r} cannot be listened on: {why}. Choose another port."
        ) from error
    log.info("metrics.started", port=server.sockets[0].getsockname()[1])
    try:
        yield metrics
    finally:
        server.close()
        await answering.end()


def check_metrics_port(listen: str, *, beside: str) -> None:
    """
    Refuse the port that callers reach: whoever may call may not read how much others do.

    Raises: SettingsError, also when *listen* is no `address:port`.
    """
    if not listen:
        return
    _, port = _host_and_port(listen)
    if port and str(port) == beside.rpartition(":")[2]:
        raise SettingsError(
            f"MAYFLY_METRICS_LISTEN: {port} is the port of MAYFLY_LISTEN, which callers reach; metrics are in clear "
            "text and need a port of their own, such as 127.0.0.1:9464."
        )


def _host_and_port(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise SettingsError(f"MAYFLY_METRICS_LISTEN: {listen!r} is not `address:port`, such as 127.0.0.1:9464.")
    return host.strip("[]"), int(port)


class _Answering:
    """Answers connections, each once."""

    def __init__(self, registry: CollectorRegistry, refresh: Callable[[], Awaitable[None]]) -> None:
        self._registry = registry
        self._refresh = refresh
        self._open: dict[asyncio.Task[None], None] = {}  # in the order in which they came
        self._scrapes = 0

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Start to answer one connection."""
        task = asyncio.create_task(self._converse(reader, writer), name="scrape")
        self._open[task] = None
        task.add_done_callback(self._open.pop)
        if len(self._open) > CONNECTIONS_AT_ONCE:
            next(iter(self._open)).cancel()

    async def end(self) -> None:
        """Let go of who is still connected."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_WITHIN_S):
                head = await reader.readuntil(b"\r\n\r\n")
                for part in await self._answer(head):
                    writer.write(part)
                writer.close()
                await writer.wait_closed()  # all is sent
        except (
            OSError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
        ) as error:  # a TimeoutError is an OSError
            log.debug("metrics.unanswered", reason=repr(error))
        finally:
            writer.transport.abort()  # not `close`: who does not read would keep the connection open for ever

    async def _answer(self, head: bytes) -> list[bytes]:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if path != PATH:
            return _message("404 Not Found", b"There is nothing here but /metrics.\n")
        if method != b"GET":
            return _message("405 Method Not Allowed", b"/metrics knows GET.\n", "Allow: GET")
        if self._scrapes >= SCRAPES_AT_ONCE:
            return _message("503 Service Unavailable", b"Too many scrapes at once.\n", "Retry-After: 1")
        self._scrapes += 1
        try:
            await self._refresh()
            return _message("200 OK", await rendered(self._registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)
        finally:
            self._scrapes -= 1


async def rendered(registry: CollectorRegistry) -> bytes:
    """Write all metrics in Prometheus's text format, letting others run after each."""
    parts = []
    for metric in registry.collect():
        parts.append(generate_latest(_One(metric)))
        await asyncio.sleep(0)
    return b"".join(parts)


class _One(CollectorRegistry):
    """A registry of one metric, as read."""

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


def _message(status: str, body: bytes, *headers: str, content_type: str = "text/plain; charset=utf-8") -> list[bytes]:
    lines = (
        f"HTTP/1.1 {status}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        "X-Content-Type-Options: nosniff",
        *headers,
    )
    return ["\r\n".join((*lines, "", "")).encode(), body]
