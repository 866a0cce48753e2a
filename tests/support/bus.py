"""A real nats-server with our users, permissions and shapes, as `mayfly up` makes it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mayfly.bus.connection import Bus, connect
from mayfly.bus.schema import bootstrap
from mayfly.ops.nats_config import ADMIN, ROLES, STORE_BYTES, server_config
from mayfly.settings import BootstrapSettings, NatsSettings
from tests.support.nats import NatsServer


@dataclass
class Installation:
    """The server and how each role reaches it."""

    server: NatsServer
    bootstrap_settings: BootstrapSettings

    def access(self, role: str) -> dict[str, Any]:
        """The settings with which a role connects."""
        return {
            "nats_url": self.server.url,
            "nats_user": role,
            "nats_password_file": self.password_file(role),
        }

    def password_file(self, role: str) -> Path:
        """The file with a role's password."""
        return self.server.directory / f"{role}.password"

    def connect(self, role: str) -> AbstractAsyncContextManager[Bus]:
        """Connect as a role, with that role's permissions."""
        settings = NatsSettings(**self.access(role))
        return connect(settings, role=role, buffer_while_disconnected=role == "worker")


@asynccontextmanager
async def installation(
    *, store: Path | None = None, store_bytes: int = STORE_BYTES, **limits: Any
) -> AsyncIterator[Installation]:
    """
    Start a server and make the shapes; *limits* are settings of `bootstrap`. It stores up to *store_bytes* in *store*,
    or in a directory of its own.
    """
    server = NatsServer()
    passwords = {role: f"{role}-password" for role in ROLES}
    store = store or server.directory / "store"
    server.configure(server_config(port=server.port, store=store, passwords=passwords, store_bytes=store_bytes))
    async with server:
        made = Installation(server, BootstrapSettings())
        for role, password in passwords.items():
            made.password_file(role).write_text(password)
        made.bootstrap_settings = BootstrapSettings(**made.access(ADMIN), **limits)
        async with made.connect(ADMIN) as bus:
            await bootstrap(bus, made.bootstrap_settings)
        yield made
