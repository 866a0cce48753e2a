"""A whole Mayfly by `mayfly up`, with a user and functions, seen from outside as a client sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx

from bench import cpu, roles
from bench.connection import Answer, Connection
from mayfly.containers.choose import group_name
from mayfly.domain.ids import new_id
from tests.support.processes import descendants
from tests.support.up import ROOM, Up, running_up

RESOLVER = "198.51.100.53"  # of documentation's own addresses: nobody asks it, but egress wants one
USED_BY = {"api": "API server", "nats": "nats-server", "worker": "worker"}  # names in `roles`, by ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function of the bench: what is registered, what it is given and what it must give back."""

    name: str
    parameter: bytes
    result: bytes
    spec: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Where it is called."""
        return f"/v1/functions/{self.name}/activations"


@dataclass(frozen=True, slots=True)
class Installation:
    """One that runs, and a user of it."""

    up: Up
    client: httpx.AsyncClient
    headers: dict[str, str]
    """Of each call."""

    processes: dict[str, list[int]]
    group: cpu.Group
    """Counts what all of its processes use, those that have ended included; containers have a group of their own."""

    async def register(self, function: Function) -> None:
        """
        Register a function; it is ready afterwards, its image unpacked.

        Raises: RuntimeError with the answer, when it is another one.
        """
        made = await self.client.post("/v1/functions", json={"name": function.name, **function.spec})
        if made.status_code != httpx.codes.CREATED:
            raise RuntimeError(f"{function.name}: {made.status_code} {made.text}")

    async def connect(self) -> Connection:
        """Open a connection of a client's own."""
        return await Connection.open_tls(self.up.url, self.up.ca_file)

    async def call(self, connection: Connection, function: Function) -> Answer:
        """
        Invoke a function.

        Raises: RuntimeError when the answer is anything but its result.
        """
        answer = await connection.request("POST", function.path, function.parameter, self.headers)
        if answer.status != httpx.codes.OK or answer.body != function.result:
            raise RuntimeError(f"{function.name}: {answer.status} {answer.body[:300]!r}")
        return answer

    def cpu(self) -> dict[str, Callable[[], float]]:
        """
        Who uses processor time: the roles, all containers together, and the client, which is the bench. What the worker
        starts is the worker's, as far as it is not in the containers' cgroups: runc and our launcher are, crun is in
        those.
        """
        api, nats = (partial(cpu.of_processes, self.processes[USED_BY[role]]) for role in ("api", "nats"))
        return {
            "client": cpu.of_this_process,
            "api": api,
            "nats": nats,
            "worker": lambda: self.group.used_s() - api() - nats(),
            "containers": cpu.Group.of(group_name(self.up.data_dir / "run")).used_s,
        }

    def memory(self) -> dict[str, dict[str, float]]:
        """What each role has in memory now, in MiB."""
        found = {}
        for ours, name in USED_BY.items():
            has = roles.memory(self.processes[name])
            found[ours] = {"rss_mib": has.rss / roles.MIB, "pss_mib": has.pss / roles.MIB}
        return found


@asynccontextmanager
async def running_installation(registry: str, runtime: str, *, egress: bool = False) -> AsyncIterator[Installation]:
    """Run one with default settings, but that callers may be more than slots; *runtime* is a setting of `mayfly up`."""
    settings: dict[str, Any] = {"runtime": runtime, **ROOM}
    if egress:
        settings |= {"egress": "on", "egress_dns": RESOLVER}
    async with seen_by_users(registry, 1, **settings) as [installation]:
        yield installation


@asynccontextmanager
async def seen_by_users(registry: str, users: int, **settings: Any) -> AsyncIterator[list[Installation]]:
    """Run one with settings of `mayfly up`, and give it as each of so many users sees it."""
    async with AsyncExitStack() as stack:
        group = stack.enter_context(cpu.new_group(f"mayfly-bench-{new_id()}"))
        up = stack.enter_context(running_up(registry, log_level="warning", **settings))
        assert up.process
        group.take([up.process.pid, *descendants(up.process.pid)])
        clients = [await stack.enter_async_context(await up.user()) for _ in range(users)]
        for client in clients:
            await _use_a_key(client)
        yield [Installation(up, client, _headers(client), roles.processes(up), group) for client in clients]


def _headers(client: httpx.AsyncClient) -> dict[str, str]:
    return {"Authorization": client.headers["Authorization"], "Content-Type": "text/plain"}


async def _use_a_key(client: httpx.AsyncClient) -> None:
    """Have a key, as machines do: a login's token would not last as long as a long run."""
    made = await client.post("/v1/keys", json={"name": "bench"})
    made.raise_for_status()
    client.headers["Authorization"] = f"Bearer {made.json()['token']}"
