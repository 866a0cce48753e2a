"""Clients that keep their connection, one each, as a busy program does; many of them are threads."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.support.images import build_and_push
from tests.support.registry import Registry
from tests.support.up import Up

PATH = "/v1/functions/cat/activations"
TOGETHER_S = 120.0
"""How long callers wait for one another at a barrier: one that has failed never comes, and the others say so."""


@dataclass(frozen=True, slots=True)
class User:
    """A user with a function `cat`, which gives its parameter back."""

    up: Up
    token: str

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Connect; closed at the end."""
        connection = Connection(self)
        try:
            yield connection
        finally:
            connection.close()


class Connection:
    """One connection to the API server."""

    def __init__(self, user: User) -> None:
        self._connection = http.client.HTTPSConnection(urlsplit(user.up.url).netloc, context=user.up.tls, timeout=120)
        self._headers = {"Authorization": f"Bearer {user.token}", "Content-Type": "text/plain"}

    def call(self, parameter: bytes = b"hello") -> None:
        """
        Invoke `cat` once.

        Raises: RuntimeError when the answer is anything but the parameter.
        """
        body = self._read("POST", PATH, parameter)
        if body != parameter:
            raise RuntimeError(f"the result is not the parameter: {body[:300]!r}")

    def get(self, path: str) -> bytes:
        """
        Read something.

        Raises: RuntimeError when it cannot be read.
        """
        return self._read("GET", path, None)

    def ask(self, method: str, path: str, content: bytes | None) -> tuple[int, bytes]:
        """Ask anything; return the answer's status and body."""
        self._connection.request(method, path, body=content, headers=self._headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def _read(self, method: str, path: str, content: bytes | None) -> bytes:
        status, body = self.ask(method, path, content)
        if status != http.client.OK:
            raise RuntimeError(f"{status}: {body[:300]!r}")
        return body

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()


async def register(up: Up, image: str) -> User:
    """Register a user and his function."""
    async with await up.user() as client:
        (await client.post("/v1/functions", json={"name": "cat", "image": image})).raise_for_status()
        return User(up, client.headers["Authorization"].removeprefix("Bearer "))


@asynccontextmanager
async def registry_with_cat() -> AsyncIterator[tuple[Registry, str]]:
    """Run a registry that has an image whose command is `cat`; give it and the image's reference."""
    async with Registry() as registry:
        yield registry, await build_and_push(registry.url, "cat", cmd=["/bin/cat"])


@contextmanager
def cat_pushed() -> Iterator[tuple[str, str]]:
    """Likewise outside of a loop: give the registry's address and the image's reference."""
    with asyncio.Runner() as runner:
        context = registry_with_cat()
        registry, image = runner.run(context.__aenter__())
        try:
            yield registry.url, image
        finally:
            runner.run(context.__aexit__(None, None, None))
