"""Where attacks take place: a whole installation, its registry, an attacker and a neighbour."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.attacks import images
from tests.attacks.catalogue import Attack
from tests.attacks.neighbour import Calls, Neighbour
from tests.support.leftovers import cmdline, leftovers
from tests.support.processes import descendants, is_alive, name_of
from tests.support.up import Up

SETTLED_S = 30.0
REMOVED_S = 60.0  # a tree of some hundred thousand files goes slowly


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena:
    """The installation, with a client for each of the two."""

    up: Up
    attacker: httpx.AsyncClient
    neighbour: Neighbour
    image: str
    hostile: dict[str, str]

    async def attack(self, attack: Attack, *, calls: int) -> tuple[Calls, Calls]:
        """
        Carry it out again and again while the neighbour calls; return the neighbour's calls alone, before and after,
        and those beside it. Each time it must end as it should.
        """
        begun, ended, enough = asyncio.Event(), asyncio.Event(), asyncio.Event()
        before = await self.neighbour.calls(calls // 2)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._siege(attack, begun, ended, enough), name="siege")
            await begun.wait()
            beside = await self.neighbour.calls(calls, until=[ended])
            enough.set()
        await self._nothing_is_left()
        after = await self.neighbour.calls(calls // 2)
        return before + after, beside

    async def until_named(self, name: str, count: int, call: asyncio.Task[httpx.Response]) -> None:
        """Wait until so many processes of functions call themselves *name*, which *call* will be one of."""
        async with asyncio.timeout(SETTLED_S):
            while self._named(name) < count:
                assert not call.done(), call.result().text
                await asyncio.sleep(0.02)

    def _named(self, name: str) -> int:
        below = descendants(self.up.process.pid if self.up.process else 0)
        return sum(is_alive(pid) and name_of(pid) == name for pid in below)

    async def _siege(self, attack: Attack, begun: asyncio.Event, ended: asyncio.Event, enough: asyncio.Event) -> None:
        body = attack.registration(self.hostile[attack.image] if attack.image else self.image)
        if not attack.registers:
            begun.set()
            while not enough.is_set() and (attack.is_repeated or not ended.is_set()):
                _must_end_as(attack, await self.attacker.post("/v1/functions", json=body))
                ended.set()
            return
        made = await self.attacker.post("/v1/functions", json=body)
        assert made.status_code == 201, made.text
        async with asyncio.TaskGroup() as group:
            for _ in range(attack.at_once):
                group.create_task(self._call_on(attack, body["name"], ended, enough))
            await self._until_in_flight(ended)
            begun.set()
        assert (await self.attacker.delete(f"/v1/functions/{body['name']}")).status_code == 204

    async def _call_on(self, attack: Attack, name: str, ended: asyncio.Event, enough: asyncio.Event) -> None:
        while not enough.is_set():
            answer = await self.attacker.post(f"/v1/functions/{name}/activations", content=attack.parameter)
            _must_end_as(attack, answer)
            await self._must_have_said(attack, answer)
            ended.set()

    async def _until_in_flight(self, ended: asyncio.Event) -> None:
        while not ended.is_set():
            if (await self.attacker.get("/v1/status")).json()["user"]["in_flight"]:
                return
            await asyncio.sleep(0.01)

    async def _must_have_said(self, attack: Attack, answer: httpx.Response) -> None:
        if attack.stderr:
            activation = answer.headers["mayfly-activation-id"]
            logs = (await self.attacker.get(f"/v1/activations/{activation}/logs")).text
            assert attack.stderr in logs, logs[-1000:]
            assert len(logs) < 300_000

    async def _nothing_is_left(self) -> None:
        async with asyncio.timeout(SETTLED_S):
            while leftovers(self.up):
                await asyncio.sleep(0.05)
        async with asyncio.timeout(REMOVED_S):
            while found := self._of_pulls():
                await asyncio.sleep(0.05)
        assert escaped(self.up.data_dir) == [], found
        assert (await self.attacker.get("/readyz")).status_code == 200

    def _of_pulls(self) -> list[str]:
        """Programs and files of an image that is being fetched."""
        pids = descendants(self.up.process.pid if self.up.process else 0)
        programs = [line.decode() for pid in pids if (line := cmdline(pid)).startswith((b"skopeo", b"umoci", b"rm"))]
        return programs + [str(path) for path in (self.up.data_dir / "images" / "pulls").iterdir()]


def _must_end_as(attack: Attack, answer: httpx.Response) -> None:
    problem = answer.json() if "problem+json" in answer.headers["content-type"] else {}
    assert (answer.status_code, problem.get("code")) == (attack.status, attack.code), answer.text[:1000]
    assert re.search(attack.detail, problem.get("detail", "")), answer.text[:1000]
    assert attack.result is None or answer.text == attack.result, answer.text[:1000]
    assert attack.exit_code is None or problem["exit_code"] == attack.exit_code, problem


def escaped(data_dir: Path) -> list[str]:
    """Files that an image has written outside of its own tree."""
    found = [str(path) for place in (Path("/"), Path("/tmp"), Path.cwd()) for path in place.glob(f"{images.ESCAPED}*")]
    for parent, _, names in os.walk(data_dir):
        found += [f"{parent}/{name}" for name in names if name.startswith(images.ESCAPED) and "/rootfs" not in parent]
    return found


@asynccontextmanager
async def an_arena(up: Up, tokens: tuple[str, str], image: str, hostile: dict[str, str]) -> AsyncIterator[Arena]:
    """Open one, for the attacker and the neighbour with these tokens."""
    async with up.client(tokens[0]) as attacker, up.client(tokens[1]) as neighbour:
        yield Arena(up=up, attacker=attacker, neighbour=Neighbour(neighbour), image=image, hostile=hostile)
