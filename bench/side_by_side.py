"""
Mayfly beside what it is compared with, all in one run on one machine, block by block in turns.

Every contender runs `cat` of busybox with the same five bytes; Mayfly's other kinds of calls take their turns with it.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from random import Random
from typing import Any

from bench import calls, docker, engine
from bench.daemon import Docker, running_docker
from bench.figures import Block, Figures
from bench.floor import Floor, running_floor
from bench.installation import Function, Installation, running_installation
from bench.machine import machine, versions
from bench.plan import AT_ONCE, OTHERS_AT_ONCE, Plan
from bench.steps import Told, steps_ms
from bench.summary import summary
from bench.turns import Work, in_turns
from mayfly.containers.choose import explain_runtime
from mayfly.settings import UpSettings
from tests.support.registry import Registry

EGRESS = "egress"
SLOTS = int(UpSettings.model_fields["slots"].default)


@dataclass(kw_only=True)
class World:
    """Everything that takes part, running."""

    registry: str
    floor: Floor
    docker: Docker | None
    installations: dict[str, Installation]
    """By the runtime's name; the first is the one that is quoted."""

    with_egress: Installation
    functions: dict[str, Function]
    told: dict[str, Told] = field(default_factory=dict)
    known_ms: list[float] = field(default_factory=list)
    """When callers of the Engine API knew the result, one at a time: they still had to delete the container."""

    @property
    def first(self) -> str:
        """The runtime that is quoted."""
        return next(iter(self.installations))


async def measure(plan: Plan) -> dict[str, Any]:
    """Start everything, measure, stop everything; return all figures as they go into the file."""
    began = time.monotonic()
    random = Random(plan.seed)  # noqa: S311 - whoever measures again wants the same
    found: dict[str, Any] = {"machine": machine(), "versions": versions(), "plan": asdict(plan)}
    async with AsyncExitStack() as stack:
        world = await _start(stack, plan, random)
        if world.docker:
            found["versions"] |= _docker_versions(world.docker)
        found["runtimes"] = {name: explain_runtime(name).version for name in world.installations}
        found["at_rest"] = await _at_rest(world, seconds=plan.seconds)
        found["cold"] = {name: asdict(each) for name, each in (await _cold(world, plan)).items()}
        await _register(world)
        figures = await in_turns(_works(world), rounds=plan.rounds, seconds=plan.seconds, random=random)
        found |= _sorted(figures)
        found["steps"] = {name: steps_ms(told) for name, told in world.told.items()}
        found["engine_known_p50_ms"] = statistics.median(world.known_ms) if world.docker else None
        found["memory_after"] = {name: each.memory() for name, each in world.installations.items()}
    found["took_s"] = round(time.monotonic() - began, 1)
    found["summary"] = summary(found)
    return found


async def _start(stack: AsyncExitStack, plan: Plan, random: Random) -> World:
    registry = (await stack.enter_async_context(Registry())).url
    installations: dict[str, Installation] = {}
    for runtime in plan.runtimes:
        _say(f"starting Mayfly with {runtime}")
        name = explain_runtime(runtime).name
        if name in installations:
            raise RuntimeError(f"--runtime {runtime}: {name} is there already")
        installations[name] = await stack.enter_async_context(running_installation(registry, runtime))
    egress = await stack.enter_async_context(running_installation(registry, plan.runtimes[0], egress=True))
    _say("starting the others")
    return World(
        registry=registry,
        floor=await stack.enter_async_context(running_floor()),
        docker=stack.enter_context(running_docker()) if plan.docker else None,
        installations=installations,
        with_egress=egress,
        functions=await calls.functions(registry, random),
    )


async def _at_rest(world: World, *, seconds: float) -> dict[str, Any]:
    """Memory, and processor milliseconds a second, of installations that have done nothing yet."""
    meters = {name: each.cpu() for name, each in world.installations.items()}
    before = {name: {role: read() for role, read in each.items()} for name, each in meters.items()}
    began = time.monotonic()
    await asyncio.sleep(max(seconds, 1))
    took = time.monotonic() - began
    return {
        name: {
            "memory": world.installations[name].memory(),
            "cpu_ms_per_s": {
                role: (read() - before[name][role]) * 1e3 / took for role, read in each.items() if role != "client"
            },
        }
        for name, each in meters.items()
    }


async def _cold(world: World, plan: Plan) -> dict[str, Figures]:
    """First calls, by turns."""
    _say("first calls")
    times: dict[str, list[float]] = {name: [] for name in world.installations}
    for function in await calls.cold_functions(world.registry, plan.cold):
        for name, installation in world.installations.items():
            times[name].append(await calls.first_call(installation, function))
    return {name: Figures.of([Block(each, sum(each) / 1e3)]) for name, each in times.items()}


async def _register(world: World) -> None:
    for installation in world.installations.values():
        for function in world.functions.values():
            await installation.register(function)
    await world.with_egress.register(calls.with_egress(world.functions["hot"]))


def _works(world: World) -> dict[str, Work]:
    """Everything that takes turns: `contender@calls at once`, and `kind of call/contender`."""
    works: dict[str, Work] = {}
    for at_once in OTHERS_AT_ONCE:
        works[f"unshare@{at_once}"] = partial(world.floor.block, "unshare", at_once)
        works[f"crun@{at_once}"] = partial(world.floor.block, "crun", at_once)
        if world.docker:
            known = world.known_ms if at_once == 1 else None
            works[f"engine@{at_once}"] = partial(engine.block, world.docker, at_once, known=known)
            works[f"docker@{at_once}"] = partial(docker.block, world.docker, at_once)
    for name, installation in world.installations.items():
        world.told[name] = []
        for at_once in AT_ONCE:
            told = world.told[name] if at_once == 1 else None
            hot = partial(calls.block, installation, world.functions["hot"], at_once, told=told)
            works[f"mayfly-{name}@{at_once}"] = hot
        for kind, function in world.functions.items():
            if kind != "hot":
                at_once = SLOTS if kind == "1 s" else 1
                works[f"{kind}/mayfly-{name}"] = partial(calls.block, installation, function, at_once)
    alone = calls.with_egress(world.functions["hot"])
    works[f"{EGRESS}/mayfly-{world.first}"] = partial(calls.block, world.with_egress, alone, 1)
    return works


def _sorted(figures: Mapping[str, Figures]) -> dict[str, Any]:
    """Put figures to their contenders and kinds."""
    contenders: dict[str, dict[str, Any]] = {}
    kinds: dict[str, dict[str, Any]] = {}
    for key, each in figures.items():
        if "@" in key:
            name, _, at_once = key.partition("@")
            contenders.setdefault(name, {})[at_once] = asdict(each)
        else:
            kind, _, name = key.partition("/")
            kinds.setdefault(name, {})[kind] = asdict(each)
    return {"contenders": contenders, "kinds": kinds, "slots": SLOTS}


def _docker_versions(running: Docker) -> dict[str, str]:
    said = subprocess.run(["docker", "--version"], capture_output=True, text=True, check=True).stdout
    return {"dockerd": running.version(), "docker": said.split()[2].rstrip(",")}


def _say(words: str) -> None:
    print(f"bench: {words}", file=sys.stderr, flush=True)
