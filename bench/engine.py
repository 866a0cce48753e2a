"""
What other services that start a container per call do: the Docker Engine API, by its socket.

A call is create, attach, start, stdin, stdout to its end, wait for the exit, delete. Requests go over a connection that
is kept. Attaching takes a connection over, as the API has it, so each call opens one more.
"""

from __future__ import annotations

import asyncio
import json
import struct
import time
from functools import partial
from pathlib import Path
from typing import Any

from bench import cpu
from bench.connection import Connection, head
from bench.daemon import REFERENCE, WHOSE, Docker
from bench.figures import Block
from bench.turns import together

API = "/v1.41"
FRAME = struct.Struct(">BxxxI")
STDOUT = 1
CREATE = json.dumps(
    {
        "Image": REFERENCE,
        "AttachStdin": True,
        "AttachStdout": True,
        "OpenStdin": True,
        "StdinOnce": True,
        "HostConfig": {"NetworkMode": "none"},
    }
).encode()
PARAMETER = b"hello"


async def call(connection: Connection, socket: Path) -> float:
    """
    Run one container, from nothing to nothing; return when its result and its exit code were known, by `perf_counter`.

    Raises: RuntimeError when the daemon refuses a step, or the container does not give its stdin back.
    """
    made = await _ask(connection, "POST", "/containers/create", CREATE)
    container = f"/containers/{made['Id']}"
    reader, writer = await _attach(socket, container)
    try:
        await _ask(connection, "POST", f"{container}/start")
        writer.write(PARAMETER)
        writer.write_eof()
        stdout = demultiplex(await reader.read())
        ended = await _ask(connection, "POST", f"{container}/wait")
    finally:
        writer.close()
    known_at = time.perf_counter()
    await _ask(connection, "DELETE", container)
    if ended["StatusCode"] or stdout != PARAMETER:
        raise RuntimeError(f"The container ended with {ended}, and wrote {stdout!r}.")
    return known_at


async def block(docker: Docker, at_once: int, seconds: float, known: list[float] | None = None) -> Block:
    """Let so many callers call, for so long. In *known* is kept after how many milliseconds each knew the result."""
    connections = [await Connection.open_unix(docker.socket) for _ in range(at_once)]
    whose = {WHOSE: docker.group.used_s, "client": cpu.of_this_process}

    async def timed(connection: Connection) -> None:
        began = time.perf_counter()
        known_at = await call(connection, docker.socket)
        if known is not None:
            known.append((known_at - began) * 1e3)

    try:
        callers = [partial(timed, each) for each in connections]
        return await together(callers, seconds, whose)
    finally:
        for each in connections:
            each.close()


def demultiplex(frames: bytes) -> bytes:
    """
    Take stdout out of the frames of an attached connection.

    Raises: RuntimeError when they end in the middle of one.
    """
    stdout, at = [], 0
    while at < len(frames):
        if len(frames) < at + FRAME.size:
            raise RuntimeError("The attached connection ended within the head of a frame.")
        stream, length = FRAME.unpack_from(frames, at)
        content = frames[at + FRAME.size : at + FRAME.size + length]
        if len(content) < length:
            raise RuntimeError("The attached connection ended within a frame.")
        if stream == STDOUT:
            stdout.append(content)
        at += FRAME.size + length
    return b"".join(stdout)


async def _attach(socket: Path, container: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_unix_connection(socket)
    path = f"{API}{container}/attach?stream=1&stdin=1&stdout=1"
    writer.write(head("POST", path, "localhost", 0, {"Upgrade": "tcp", "Connection": "Upgrade"}))
    answer = await reader.readuntil(b"\r\n\r\n")
    if not answer.startswith(b"HTTP/1.1 101 "):
        writer.close()
        raise RuntimeError(f"The daemon does not attach: {answer!r}")
    return reader, writer


async def _ask(connection: Connection, method: str, path: str, body: bytes = b"") -> Any:
    headers = {"Content-Type": "application/json"} if body else {}
    answer = await connection.request(method, f"{API}{path}", body, headers)
    if not 200 <= answer.status < 300:
        raise RuntimeError(f"{method} {path}: {answer.status} {answer.body.decode(errors='replace')}")
    return json.loads(answer.body) if answer.body else None
