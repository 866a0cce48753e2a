"""
The Engine API of one Docker daemon: requests, and the one connection of a container that is taken over (attach).

Requests are HTTP by httpx. An attached connection is spoken by hand: after its answer it is no HTTP any more, but raw
bytes in (stdin) and multiplexed frames out (see `stream`).

A daemon that is being restarted is waited for, up to `AWAY_S`: while it takes no connection a request has certainly not
been made, and making it again is no second one.
"""

from __future__ import annotations

import asyncio
import json
import platform
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from mayfly.domain.errors import RuntimeFailed

OLDEST, NEWEST = (1, 41), (1, 44)
"""Versions of the API: 20.10 speaks up to 1.41; later daemons speak 1.44, and from 29 on nothing older."""

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
REQUEST_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 10.0
AWAY_S, AWAY_STEP_S = 10.0, 0.2
KEEPALIVE = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
"""On an attached connection by tcp: a network that is gone is noticed after half a minute, silent as functions are."""

LIMITS = {"MemoryLimit": "memory", "CpuCfsQuota": "CPU time", "PidsLimit": "processes"}
"""What a daemon must be able to limit: by its /info, and in words. Without, it only warns, and starts the container."""

R = TypeVar("R")


class DockerRefused(RuntimeFailed):
    """The daemon answered with an error; `status` is HTTP's."""

    def __init__(self, status: int, words: str) -> None:
        """Keep the daemon's own words."""
        self.status = status
        super().__init__(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a daemon is, and what it takes to be let in."""

    url: str
    socket: str | None
    host: str
    port: int
    tls: ssl.SSLContext | None

    @classmethod
    def of(cls, docker_host: str, tls_dir: Path | None) -> Address:
        """
        Read the settings.

        Raises: RuntimeFailed naming the setting that is wrong, and the remedy.
        """
        parts = urlsplit(docker_host)
        if parts.scheme == "unix" and parts.path:
            return cls(url="http://docker", socket=parts.path, host="docker", port=0, tls=None)
        if parts.scheme != "tcp" or not parts.hostname:
            raise RuntimeFailed(
                f"MAYFLY_DOCKER_HOST is {docker_host!r}: it takes unix:///path, or tcp://host:2376 with "
                "MAYFLY_DOCKER_TLS_DIR."
            )
        if tls_dir is None:
            raise RuntimeFailed(
                "MAYFLY_DOCKER_HOST is a tcp address without MAYFLY_DOCKER_TLS_DIR: whoever reaches a Docker daemon "
                "without TLS is root on its machine. Give a directory with ca.pem, cert.pem and key.pem."
            )
        port = parts.port or 2376
        name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(url=f"https://{name}:{port}", socket=None, host=parts.hostname, port=port, tls=_tls(tls_dir))


def _tls(directory: Path) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
        context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    except (OSError, ssl.SSLError) as error:
        raise RuntimeFailed(
            f"MAYFLY_DOCKER_TLS_DIR is {directory}, where ca.pem, cert.pem and key.pem cannot be used: {error}."
        ) from error
    return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """What a daemon says of itself."""

    engine: str
    api: str


def find_version(address: Address) -> Version:
    """
    Ask the daemon for its version, once, before the event loop runs; choose the API's version.

    Raises: RuntimeFailed when it does not answer, is too old, or is of another architecture than this worker's.
    """
    if address.socket:
        _require_usable(address.socket)
    transport = httpx.HTTPTransport(uds=address.socket, verify=address.tls or False)
    try:
        with httpx.Client(transport=transport, base_url=address.url, timeout=CONNECT_TIMEOUT_S) as client:
            said, info = (client.get(path).raise_for_status().json() for path in ("/version", "/info"))
            version = choose_version(said)
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        where = address.socket or f"{address.host}:{address.port}"
        wrong = "Is MAYFLY_DOCKER_HOST right, and does the daemon run?"
        if address.tls:
            wrong = "Are MAYFLY_DOCKER_HOST and the certificates in MAYFLY_DOCKER_TLS_DIR right?"
        raise RuntimeFailed(f"No Docker daemon answers at {where} ({_said(error)}). {wrong}") from error
    require_limits(info)
    return version


def _require_usable(path: str) -> None:
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(CONNECT_TIMEOUT_S)
            probe.connect(path)
    except FileNotFoundError as error:
        raise RuntimeFailed(
            f"There is no Docker socket at {path}. Is MAYFLY_DOCKER_HOST right, and is it mounted?"
        ) from error
    except PermissionError as error:
        raise RuntimeFailed(
            f"This worker may not use the Docker socket at {path} (MAYFLY_DOCKER_HOST). Run it as root, or in the "
            "group that owns the socket."
        ) from error
    except OSError as error:
        raise RuntimeFailed(
            f"No Docker daemon answers at {path} ({error}). Is MAYFLY_DOCKER_HOST right, and does the daemon run?"
        ) from error


def require_limits(info: dict[str, Any]) -> None:
    """
    Refuse a daemon that would start containers without a limit, as a rootless one without cgroups does.

    Raises: RuntimeFailed with what it cannot limit.
    """
    missing = [words for name, words in LIMITS.items() if not info.get(name, True)]
    if missing:
        raise RuntimeFailed(
            f"The Docker daemon cannot limit {' and '.join(missing)} of a container. Give its machine the cgroup "
            "controllers memory, cpu and pids; see `docker info`."
        )


def choose_version(said: dict[str, Any]) -> Version:
    """
    Choose the newest version of the API that both sides speak, from a daemon's answer to /version.

    Raises: RuntimeFailed when there is none, or the daemon's machine is of another architecture.
    """
    ours = ARCHITECTURES.get(platform.machine(), platform.machine())
    if said["Os"] != "linux" or said["Arch"] != ours:
        raise RuntimeFailed(f"The Docker daemon runs on {said['Os']}/{said['Arch']}, this worker on linux/{ours}.")
    version = min(_numbers(said["ApiVersion"]), NEWEST)
    if version < max(OLDEST, _numbers(said.get("MinAPIVersion") or "1.0")):
        raise RuntimeFailed(
            f"The Docker daemon ({said['Version']}) speaks API {said['ApiVersion']}; 20.10 or newer is needed."
        )
    return Version(engine=said["Version"], api=f"{version[0]}.{version[1]}")


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


class Attached:
    """A container's stdin and output, on a connection of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Both sides of a connection that the daemon has handed over."""
        self.reader = reader
        self.writer = writer

    def close(self) -> None:
        """Let go: the daemon then closes the container's stdin. Idempotent."""
        self.writer.close()


class Engine:
    """Requests to one daemon. Every method raises DockerRefused on its refusal, RuntimeFailed without an answer."""

    def __init__(self, address: Address, version: Version) -> None:
        """Nothing is connected yet."""
        self._address = address
        self._prefix = f"/v{version.api}"
        self._client: httpx.AsyncClient | None = None
        self.times_away = 0
        """How often no connection could be made: if that changes during a call, the daemon was away meanwhile."""

    async def get(self, path: str, **params: str) -> Any:
        """GET, the answer read as JSON."""
        return await self._request("GET", path, params=params)

    async def post(self, path: str, body: object = None, **params: str) -> Any:
        """POST a body as JSON."""
        return await self._request("POST", path, params=params, json=body)

    async def delete(self, path: str, **params: str) -> Any:
        """DELETE."""
        return await self._request("DELETE", path, params=params)

    async def upload(self, path: str, content: AsyncIterator[bytes], *, timeout_s: float, **params: str) -> Any:
        """POST a stream, and take the last of the JSON values that come back."""
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        headers = {"Content-Type": "application/x-tar"}
        return await self._request("POST", path, params=params, content=content, headers=headers, timeout=timeout)

    async def attach(self, container: str) -> Attached:
        """Take over the streams of a container that has not started."""
        path = f"{self._prefix}/containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1"
        head = (
            f"POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
        )
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                attached = await self._when_there(self._connect, OSError)
                try:
                    attached.writer.write(head.encode())
                    answer = await attached.reader.readuntil(b"\r\n\r\n")
                    _require_handed_over(answer)
                except BaseException:
                    attached.close()
                    raise
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as error:
            raise RuntimeFailed(f"The Docker daemon does not attach: {_said(error)}.") from error
        return attached

    async def close(self) -> None:
        """Close what is open."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _connect(self) -> Attached:
        address = self._address
        if address.socket is not None:
            return Attached(*await asyncio.open_unix_connection(address.socket))
        attached = Attached(*await asyncio.open_connection(address.host, address.port, ssl=address.tls))
        connection = attached.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        return attached

    async def _when_there(self, action: Callable[[], Awaitable[R]], *not_connected: type[Exception]) -> R:
        """Do what begins with connecting; again and again, for `AWAY_S`, while there is nobody to connect to."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + AWAY_S
        while True:
            try:
                return await action()
            except not_connected:
                self.times_away += 1
                if loop.time() > give_up_at:
                    raise
                await asyncio.sleep(AWAY_STEP_S)

    async def _request(self, method: str, path: str, **request: Any) -> Any:
        client = self._open()
        try:
            request.setdefault("timeout", httpx.Timeout(REQUEST_TIMEOUT_S, connect=CONNECT_TIMEOUT_S))
            answer = await self._when_there(
                lambda: client.request(method, self._prefix + path, **request), httpx.ConnectError
            )
        except httpx.HTTPError as error:
            raise RuntimeFailed(f"The Docker daemon does not answer: {_said(error)}.") from error
        if answer.status_code >= 400:
            raise DockerRefused(answer.status_code, _words(answer))
        return _last_json(answer.text)

    def _open(self) -> httpx.AsyncClient:
        """Make the client, in the event loop that uses it."""
        if self._client is None:
            # A local connection costs nothing; one by TLS costs milliseconds, and is kept.
            kept = 0 if self._address.socket else 32
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=kept, keepalive_expiry=20)
            verify = self._address.tls or False
            transport = httpx.AsyncHTTPTransport(uds=self._address.socket, verify=verify, limits=limits)
            self._client = httpx.AsyncClient(transport=transport, base_url=self._address.url)
        return self._client


def _require_handed_over(answer: bytes) -> None:
    status = answer.split(b" ", 2)[1:2]
    if status not in ([b"101"], [b"200"]):
        raise RuntimeFailed(f"The Docker daemon does not attach: {answer.splitlines()[0].decode(errors='replace')}.")


def _said(error: Exception) -> str:
    """What an exception says; its kind where it says nothing, as one of time does."""
    return str(error) or type(error).__name__


def _words(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.text[:500]}"


def _last_json(text: str) -> Any:
    """The last value of one, or of a stream of them (an import tells how far it is); None where there is none."""
    lines = text.strip().splitlines()
    return json.loads(lines[-1]) if lines and lines[-1][:1] in ("{", "[") else None
