"""A real registry (Debian's docker-registry) of a test's own, on a free port of the loopback."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import httpx

from tests.support.nats import free_port

READY_S = 20.0
CONFIG = """\
version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {root}}}
  delete: {{enabled: true}}
http: {{addr: "{address}"}}
{auth}"""
HTPASSWD, HTPASSWD_PASSWORD = "ann:$2b$04$tORifUvCxMYXYdhptgaDve0xZUWihuABQq/fLe0YsijYJwp4.E64m\n", "correct-horse"
"""A password file with one user, ann, and her password (bcrypt of the lowest cost)."""

AUTH = "auth: {{htpasswd: {{realm: test, path: {path}}}}}\n"


class Registry:
    """One registry; an async context manager."""

    def __init__(self, htpasswd: str | None = None, *, host: str = "127.0.0.1", port: int | None = None) -> None:
        """Not started yet. *htpasswd* is the text of a password file, if it asks for passwords."""
        self._directory = tempfile.TemporaryDirectory(prefix="mayfly-registry-", ignore_cleanup_errors=True)
        self._htpasswd = htpasswd
        self._process: subprocess.Popen[bytes] | None = None
        self.host = host
        self.port = port or free_port()

    @property
    def url(self) -> str:
        """As it stands in image references: host:port."""
        return f"{self.host}:{self.port}"

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        self._spawn()
        async with asyncio.timeout(READY_S), httpx.AsyncClient(trust_env=False) as client:
            while True:
                try:
                    await client.get(f"http://{self.url}/v2/")
                except httpx.TransportError:
                    await asyncio.sleep(0.02)
                else:
                    return

    def _spawn(self) -> None:
        directory = Path(self._directory.name)
        auth = ""
        if self._htpasswd:
            (directory / "htpasswd").write_text(self._htpasswd)
            auth = AUTH.format(path=directory / "htpasswd")
        config = directory / "config.yml"
        config.write_text(CONFIG.format(root=directory / "store", address=self.url, auth=auth))
        with (directory / "registry.log").open("ab") as log:
            self._process = subprocess.Popen(["docker-registry", "serve", config], stdout=log, stderr=log)

    async def lock(self, htpasswd: str) -> None:
        """From now on ask for a password; what was pushed stays."""
        await self.stop()
        self._htpasswd = htpasswd
        await self.start()

    async def stop(self) -> None:
        """End it; what was pushed stays until the object goes, so that it can be started again."""
        if self._process:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait)
            self._process = None

    async def __aenter__(self) -> Registry:
        """Start it."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, and remove what it held."""
        await self.stop()
        self._directory.cleanup()
