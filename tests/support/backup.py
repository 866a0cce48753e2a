"""An installation with something of everything in it, and `mayfly backup` and `restore` in processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from mayfly.bus.connection import Bus
from mayfly.bus.responses import publish_response
from mayfly.bus.stores import Stores
from mayfly.domain.activation import Activation, Response, State
from mayfly.domain.function import Function
from mayfly.domain.ids import SessionId, UserId, UserName, new_id, new_ulid
from mayfly.domain.user import Session, User
from tests.integration.bus.test_store import a_function
from tests.support.bus import Installation
from tests.unit.worker.test_call import some_work


@dataclass(frozen=True)
class Content:
    """What was put into an installation."""

    user: User
    session: Session
    function: Function
    ended: Activation
    queued: Activation
    response: Response


def a_record(user_id: UserId, state: State, **given: Any) -> Activation:
    """Make a record of a user's call."""
    return replace(some_work().record, user_id=user_id, ulid=new_ulid(), state=state, **given)


async def fill(bus: Bus) -> Content:
    """Put a user who is logged in, a function, an activation with its result and one in flight into an installation."""
    user = User(id=UserId(new_id()), name=UserName("ann"), password_hash="$argon2id$x", created_at=1)
    session = Session(
        id=SessionId(new_id()),
        user_id=user.id,
        user_name=user.name,
        refresh_digest=b"d" * 32,
        created_at=time.time(),
        expires_at=time.time() + 3600,
    )
    made = Content(
        user=user,
        session=session,
        function=a_function(user.id),
        ended=a_record(user.id, State.SUCCEEDED, attempt="a"),
        queued=a_record(user.id, State.QUEUED),
        response=Response(attempt="a", result=b"HELLO", stderr=b"a word"),
    )
    stores = Stores.on(bus)
    await stores.users.create(user.name, user)
    await stores.sessions.create(f"{user.id}.{session.id}", session, ttl_s=3600)
    await stores.functions.create(made.function.key, made.function)
    await stores.activations.create(made.ended.key, made.ended, ttl_s=3600)
    await stores.activations.create(made.queued.key, made.queued, ttl_s=3600)
    await publish_response(bus, made.ended.key, made.response, keep_s=3600)
    await bus.js.publish("audit.login", b"a line of the trail")
    return made


async def fill_with_noise(bus: Bus, *, mebibytes: int) -> None:
    """Put results that do not compress into the stream of responses, 2 MiB each."""
    noise = os.urandom(2 << 20)
    for number in range(mebibytes // 2):
        await bus.js.publish(f"response.u.i.{number}", number.to_bytes(4, "big") + noise[number + 4 :])


@dataclass
class Command:
    """A run of `mayfly`."""

    process: asyncio.subprocess.Process

    async def ended(self) -> tuple[int, str, str]:
        """Wait for the end; return status, stdout and stderr."""
        async with asyncio.timeout(60):
            said, complained = await self.process.communicate()
        return self.process.returncode or 0, said.decode(), complained.decode()

    async def kill_when(self, condition: Callable[[], bool], number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal as soon as something has happened, which must be before it ends by itself."""
        async with asyncio.timeout(30):
            while not condition():
                assert self.process.returncode is None, "it ended before"
                await asyncio.sleep(0.001)
        self.process.send_signal(number)


async def mayfly(nats: Installation, *arguments: str | Path, role: str = "admin", **environment: str) -> Command:
    """Start `mayfly` with a role's access to an installation."""
    access = {f"MAYFLY_{name.upper()}": str(value) for name, value in nats.access(role).items()}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "mayfly",
        *map(str, arguments),
        env={**kept, **access, **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    return Command(process)
