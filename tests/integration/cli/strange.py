"""A TLS server that gives answers which Mayfly never gives: those of proxies, of other servers, and of broken ones."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.support.api import Certificates


@dataclass
class StrangeServer:
    """Each request is answered with the next of *answers*, raw; the connection is closed after it."""

    answers: list[bytes]
    url: str = ""
    requests: list[bytes] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    hold: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request, wait for `hold`, answer."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        self.requests.append(head + await reader.readexactly(length))
        self.asked.set()
        await self.hold.wait()
        writer.write(self.answers.pop(0))
        writer.close()


@asynccontextmanager
async def strange_server(
    certificates: Certificates, *answers: bytes, hold: bool = False
) -> AsyncIterator[StrangeServer]:
    """Run one; with *hold* it answers only when its `hold` is set."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate_file, certificates.key_file)
    strange = StrangeServer(list(answers))
    if not hold:
        strange.hold.set()
    server = await asyncio.start_server(strange.answer, "127.0.0.1", 0, ssl=context)
    async with server:
        strange.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield strange
        strange.hold.set()


def http(status: str, content_type: str, body: str, *headers: str) -> bytes:
    """Write an HTTP answer."""
    length = f"Content-Length: {len(body.encode())}"
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", length, "Connection: close", *headers]
    return "\r\n".join([*lines, "", body]).encode()
