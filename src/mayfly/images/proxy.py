"""
The registry proxy: makes every connection that a pull needs, so that the rules hold where it matters.

skopeo follows redirects, asks whichever server a registry names for a token, and looks names up by itself. So it gets
no network: it runs in a namespace with an empty loopback (`loopback.py`), where this HTTP proxy listens. Each host that
it wants is looked up and judged here (`policy.py`), and the addresses that were judged are those that are connected to.

skopeo, as every Go program, never asks a proxy for `localhost`, 127.0.0.0/8 or ::1: it meets the namespace's own
loopback, where nobody is. If the operator lists such a registry and it is the one that is pulled from, a relay stands
for it there, on its own port.

Guarantees: one proxy serves one pull, and ends with it; only who has its token may use it; TLS is between skopeo and
the registry, so nothing is read on the way; without TLS goes only what the operator lists. Headers, connections and
bytes are bounded here, time by the pull's own time-out. Rows: F6.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import ipaddress
import os
import re
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import h11
import structlog

from mayfly.domain.errors import ImageUnavailable, RuntimeFailed
from mayfly.images.landlock import knows_ports, only_ports
from mayfly.images.loopback import Loopback
from mayfly.images.policy import RegistryPolicy
from mayfly.images.programs import remedy
from mayfly.images.reference import ImageReference
from mayfly.images.tree import too_large

log = structlog.get_logger()

CHUNK_BYTES = 1 << 18
HEAD_MAX_BYTES = 1 << 16  # of a request or an answer; tokens of some registries take several KiB
HEAD_S = 10.0  # skopeo sends a request's head at once
CONNECT_S = 10.0
MAX_CONNECTIONS = 64  # at once; skopeo fetches 6 blobs at a time
USER = "mayfly"
HTTP_PORT, HTTPS_PORT = 80, 443
REMEDY = "With CAP_SYS_ADMIN, or a kernel from 6.7, no registry can lead skopeo to this machine's own loopback."
_TARGET = re.compile(r"([a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?|\[[0-9a-f:.]{2,45}\]):([0-9]{1,5})")
_NOBODY_THERE = re.compile(
    r"dial tcp (?:127\.[0-9.]+|\[::(?:1|ffff:[^\]]+)\]):[0-9]+: connect: (?:connection refus|permission deni)ed"
)
_HOP_BY_HOP = {b"connection", b"keep-alive", b"proxy-authorization", b"proxy-connection", b"te", b"upgrade"}


class Enclosure(Enum):
    """What keeps skopeo from connecting past the proxy, as a Go program does for `localhost` and its addresses."""

    NAMESPACE = "namespace"  # a loopback of its own, with nothing else
    PORTS = "ports"  # the proxy's port only, and the registry's own if that is on the loopback; at any address
    NONE = "none"  # nothing: what leads to this machine's loopback gets there


@dataclass(frozen=True, slots=True)
class Target:
    """Whom skopeo wants to speak to."""

    host: str
    port: int

    @property
    def authority(self) -> str:
        """Host and port, as the operator would list them."""
        return f"{self.name}:{self.port}"

    @property
    def name(self) -> str:
        """The host alone, as the operator would list it."""
        return f"[{self.host}]" if ":" in self.host else self.host


@dataclass(frozen=True, slots=True)
class Connection:
    """Both directions of a TCP connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class RegistryProxy:
    """The way to the registries for one pull of *reference*; an async context manager."""

    def __init__(
        self, policy: RegistryPolicy, reference: ImageReference, *, max_bytes: int, enclosure: Enclosure
    ) -> None:
        """
        Nothing listens before the context is entered. *max_bytes* is the largest image; twice as much may arrive, for
        repeats and packing.
        """
        self._policy = policy
        self._reference = reference
        self._max_bytes = max_bytes
        self._left_bytes = 2 * max_bytes
        self._enclosure = enclosure
        self._relayed = _relayed(reference, policy)
        self._token = secrets.token_urlsafe()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stack = AsyncExitStack()
        self._looking_up = asyncio.Lock()  # one name at a time, so that no pull takes all there is for lookups
        self._port = 0
        self._loopback: Loopback | None = None
        self._refusal: str | None = None
        self._failure: str | None = None

    async def __aenter__(self) -> Self:
        """
        Listen.

        Raises: RuntimeFailed.
        """
        try:
            await self._open()
        except OSError as error:
            raise RuntimeFailed(f"This worker could not make a way to the registry: {error}.") from error
        return self

    async def _open(self) -> None:
        async with AsyncExitStack() as stack:
            if self._enclosure is Enclosure.NAMESPACE:
                self._loopback = await _made(stack)
                for host, target in self._relayed:
                    await self._serve(stack, self._loopback.listen(host, target.port), _Relay(self, target))
                listener = self._loopback.listen("127.0.0.1", 0)
            else:
                listener = socket.create_server(("127.0.0.1", 0))
            self._port = listener.getsockname()[1]
            await self._serve(stack, listener, self._answer)
            self._stack = stack.pop_all()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything, whatever is under way."""
        await self._stack.aclose()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def environment(self) -> dict[str, str]:
        """What tells skopeo to use it."""
        url = f"http://{USER}:{self._token}@127.0.0.1:{self._port}"
        return {"HTTP_PROXY": url, "HTTPS_PROXY": url}

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What the command line of `enter` needs to be handed."""
        return (self._loopback.descriptor,) if self._loopback else ()

    def enter(self, argv: list[str]) -> list[str]:
        """Say how to run a program where nothing but this proxy can be reached."""
        if self._loopback:
            return self._loopback.enter(argv)
        if self._enclosure is Enclosure.PORTS:
            return only_ports([self._port, *(target.port for _, target in self._relayed)], argv)
        return argv

    def explain(self, words: str) -> str | None:
        """Say why a pull failed, with skopeo's *words*, if it is for what was refused or not reached; else None."""
        if self._refusal:
            return self._refusal
        if self._failure:
            return f"{self._failure}{remedy(self._failure)}"
        if self._enclosure is not Enclosure.NONE and _NOBODY_THERE.search(words):
            return f"{self._reference.registry} leads to this machine's own loopback, where no image may come from."
        return None

    async def connect(self, target: Target) -> Connection:
        """
        Connect to where a pull leads, if that may be.

        Raises: ImageUnavailable.
        """
        try:
            async with self._looking_up:
                addresses = await self._policy.addresses(target.host, target.authority)
        except ImageUnavailable as refused:
            raise self._refuse(target, refused.detail) from None
        words = ""
        for address in addresses:
            try:
                async with asyncio.timeout(CONNECT_S):
                    connected = await asyncio.open_connection(str(address), target.port, limit=CHUNK_BYTES)
            except OSError as error:
                words = os.strerror(error.errno).lower() if error.errno else "no answer in time"
            else:
                self._failure = None
                return Connection(*connected)
        self._failure = f"{target.authority} cannot be reached: {words}"
        raise ImageUnavailable(self._failure)

    async def exchange(self, near: Connection, far: Connection) -> None:
        """Pass on what both say, until both have said all."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._pass_on(near.reader, far.writer))
            both.create_task(self._pass_on(far.reader, near.writer, arriving=True))

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, arriving: bool = False
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if arriving:
                self._count(len(data))
            if writer.is_closing():
                raise ConnectionResetError
            writer.write(data)
            await writer.drain()
        if not writer.is_closing():
            writer.write_eof()

    async def _answer(self, near: Connection) -> None:
        """Do what skopeo asks of its proxy: a tunnel, or one request without TLS."""
        server = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX_BYTES)
        try:
            async with asyncio.timeout(HEAD_S):
                request = await _next(server, near.reader)
            if not isinstance(request, h11.Request):
                return
            self._identify(request)
            if request.method == b"CONNECT":
                await self._tunnel(server, near, _target(request.target.decode("ascii")))
            else:
                await self._forward(server, near, request)
        except (ImageUnavailable, h11.ProtocolError, ValueError):  # whose words may hold what a header held
            log.info("image.proxy-refused", registry=self._reference.registry, words=self._refusal or self._failure)
            if server.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                headers = [(b"content-length", b"0"), (b"connection", b"close")]
                near.writer.write(_bytes(server, h11.Response(status_code=502, headers=headers, reason=b"Refused")))

    def _identify(self, request: h11.Request) -> None:
        given = dict(request.headers).get(b"proxy-authorization", b"")
        expected = b"Basic " + base64.b64encode(f"{USER}:{self._token}".encode())
        if not hmac.compare_digest(given, expected):
            raise ValueError("a stranger asked")

    async def _tunnel(self, server: h11.Connection, near: Connection, target: Target) -> None:
        async with _closing(await self.connect(target)) as far:
            near.writer.write(_bytes(server, h11.Response(status_code=200, headers=[], reason=b"Connected")))
            early, _ = server.trailing_data
            far.writer.write(early)
            await self.exchange(near, far)

    async def _forward(self, server: h11.Connection, near: Connection, request: h11.Request) -> None:
        """Pass on one request and its answer; each has a connection of its own."""
        target, path = _plain_target(request.target.decode("ascii"))
        if not self._policy.lists_plain_http(target.authority, *([target.name] if target.port == HTTP_PORT else [])):
            raise self._refuse(
                target,
                f"Registry {target.authority} is spoken to with TLS only. "
                "The operator can list it in MAYFLY_PLAIN_HTTP_REGISTRIES.",
            )
        client = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_MAX_BYTES)
        async with _closing(await self.connect(target)) as far:
            asked = h11.Request(method=request.method, target=path, headers=_end_to_end(request))
            far.writer.write(_bytes(client, asked))
            while not isinstance(event := await _next(server, near.reader), h11.EndOfMessage):
                far.writer.write(_bytes(client, event))
                await far.writer.drain()
            far.writer.write(_bytes(client, event))
            try:
                await self._return(client, far, server, near)
            except h11.ProtocolError:
                self._failure = f"{target.authority} does not answer as HTTP demands"
                raise

    async def _return(self, client: h11.Connection, far: Connection, server: h11.Connection, near: Connection) -> None:
        while True:
            event = await _next(client, far.reader)
            if isinstance(event, h11.InformationalResponse):
                continue
            if isinstance(event, h11.Response):
                event = h11.Response(
                    status_code=event.status_code, headers=_end_to_end(event), reason=bytes(event.reason)
                )
            elif isinstance(event, h11.Data):
                self._count(len(event.data))
            elif not isinstance(event, h11.EndOfMessage):
                raise h11.RemoteProtocolError("the registry closed the connection too early")
            near.writer.write(_bytes(server, event))
            await near.writer.drain()
            if isinstance(event, h11.EndOfMessage):
                return

    def _count(self, arrived: int) -> None:
        self._left_bytes -= arrived
        if self._left_bytes < 0:
            self._refusal = too_large(self._max_bytes).detail
            raise ConnectionAbortedError

    def _refuse(self, target: Target, detail: str) -> ImageUnavailable:
        elsewhere = target.host != self._reference.host
        self._refusal = f"{self._reference.registry} leads elsewhere. {detail}" if elsewhere else detail
        return ImageUnavailable(self._refusal)

    async def _serve(
        self, stack: AsyncExitStack, listener: socket.socket, answer: Callable[[Connection], Awaitable[None]]
    ) -> None:
        async def serve(near: Connection) -> None:
            async with _closing(near):
                if len(self._tasks) <= MAX_CONNECTIONS:
                    await answer(near)

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(serve(Connection(reader, writer)), name="registry-proxy")
            self._tasks.add(task)
            task.add_done_callback(self._done)

        server = await asyncio.start_server(accept, sock=listener, limit=CHUNK_BYTES)
        stack.callback(server.close)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("image.proxy-failed", error=repr(error))


@dataclass(frozen=True, slots=True)
class _Relay:
    """Stands in the namespace's loopback for a registry that listens on this machine's."""

    proxy: RegistryProxy
    target: Target

    async def __call__(self, near: Connection) -> None:
        try:
            async with _closing(await self.proxy.connect(self.target)) as far:
                await self.proxy.exchange(near, far)
        except ImageUnavailable:
            return  # the proxy remembers it as its problem


def _relayed(reference: ImageReference, policy: RegistryPolicy) -> list[tuple[str, Target]]:
    """Where a relay has to listen, and what for: only a registry that Go programs ask no proxy for needs one."""
    host = "127.0.0.1" if reference.host == "localhost" else reference.host
    if not _is_loopback(host):
        return []
    port = urlsplit(f"//{reference.registry}").port
    plain = policy.is_plain_http(reference)
    ports = [port] if port else [HTTPS_PORT, *([HTTP_PORT] if plain else [])]
    return [(host, Target(reference.host, port)) for port in ports]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def best_enclosure() -> Enclosure:
    """Find out what this worker can do; if it is not the best, say in the log what is lost."""
    try:
        (await Loopback.make()).close()
    except OSError as error:
        best = Enclosure.PORTS if knows_ports() else Enclosure.NONE
        log.warning("image.no-namespace", error=str(error), enclosure=best.value, remedy=REMEDY)
        return best
    return Enclosure.NAMESPACE


async def _made(stack: AsyncExitStack) -> Loopback:
    loopback = await Loopback.make()
    stack.callback(loopback.close)
    return loopback


def _target(text: str) -> Target:
    """
    Read HOST:PORT.

    Raises: ValueError.
    """
    found = _TARGET.fullmatch(text.lower())
    if not found or not 0 < int(found[2]) <= 65535:
        raise ValueError("a host that is none")
    return Target(found[1].strip("[]"), int(found[2]))


def _plain_target(text: str) -> tuple[Target, bytes]:
    """
    Read http://HOST[:PORT]/PATH: whom it is for, and what to ask there.

    Raises: ValueError.
    """
    url = urlsplit(text)
    if url.scheme != "http" or "@" in url.netloc:
        raise ValueError("an address that is not http://HOST/PATH")
    target = _target(url.netloc if re.search(r":[0-9]+$", url.netloc) else f"{url.netloc}:{HTTP_PORT}")
    path = text[len("http://") + len(url.netloc) :].partition("#")[0]
    return target, (path if path.startswith("/") else f"/{path}").encode("ascii")


def _end_to_end(message: h11.Request | h11.Response) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in message.headers if name not in _HOP_BY_HOP]
    return [*kept, (b"connection", b"close")]


def _bytes(connection: h11.Connection, event: h11.Event) -> bytes:
    return connection.send(event) or b""


async def _next(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Event:
    while not isinstance(event := connection.next_event(), h11.Event):
        if event is h11.PAUSED:
            raise h11.RemoteProtocolError("more than was asked for")
        connection.receive_data(await reader.read(CHUNK_BYTES))
    return event


@asynccontextmanager
async def _closing(connection: Connection) -> AsyncIterator[Connection]:
    """Close it in the end; a connection that breaks has ended, too."""
    writer = connection.writer
    try:
        yield connection
        writer.close()
        await writer.wait_closed()
    except* OSError:
        pass  # the other side, if it is still there, has noticed
    finally:
        writer.transport.abort()
