"""Calls of Mayfly, end to end: over HTTPS with a token, through API server, NATS and worker, to a fresh container."""

from __future__ import annotations

import string
import time
from functools import partial
from random import Random

from bench.connection import Connection
from bench.figures import Block
from bench.installation import Function, Installation
from bench.steps import Told
from bench.turns import together
from examples.build import IMAGES
from examples.oci import push
from tests.support.images import build_and_push

SIZES = {"1 B": 1, "64 KiB": 1 << 16, "1 MiB": 1 << 20}


async def functions(registry: str, random: Random) -> dict[str, Function]:
    """Push the images, and say which functions there are. *random* makes the texts that go in and out."""
    cat = await build_and_push(registry, "cat", cmd=["/bin/cat"])
    python = f"{registry}/json-python:1"
    push(IMAGES["json-python"](), python)
    return {
        "hot": _echo("hot", cat, b"hello"),
        **{size: _echo(f"size-{n}", cat, _text(length, random)) for n, (size, length) in enumerate(SIZES.items())},
        "Python": Function(
            name="python",
            parameter=b'{"numbers": [1, 2, 6]}',
            result=b'{"schema": 1, "count": 3, "mean": 3.0, "largest": 6}\n',
            spec={"image": python},
        ),
        "1 s": Function(name="second", parameter=b"", result=b"", spec={"image": cat, "command": ["sleep", "1"]}),
    }


def with_egress(hot: Function) -> Function:
    """The same function, with a network."""
    return Function(name="egress", parameter=hot.parameter, result=hot.result, spec={**hot.spec, "network": "egress"})


async def cold_functions(registry: str, count: int) -> list[Function]:
    """Push so many images that differ, and say which functions are made of them."""
    made = []
    for number in range(count):
        image = await build_and_push(registry, f"cold-{number}", cmd=["/bin/cat"], env={"NUMBER": str(number)})
        made.append(_echo(f"cold-{number}", image, b"hello"))
    return made


async def block(
    installation: Installation, function: Function, at_once: int, seconds: float, told: Told | None = None
) -> Block:
    """
    Let so many clients call, for so long, each over a connection of its own, opened before. In *told* is kept what the
    answers say of their steps: for one at a time only.
    """
    connections = [await installation.connect() for _ in range(at_once)]
    said: list[str] = []

    async def call(connection: Connection) -> None:
        answer = await installation.call(connection, function)
        said.append(answer.headers.get("server-timing", ""))

    try:
        callers = [partial(call, each) for each in connections]
        found = await together(callers, seconds, installation.cpu())
    finally:
        for each in connections:
            each.close()
    if told is not None:
        told.extend(zip(found.times_ms, said, strict=True))
    return found


async def first_call(installation: Installation, function: Function) -> float:
    """
    Register a function and return how long its first call took, in milliseconds: over a connection that was used
    before, as that of any client, and by an installation that has never run this image.
    """
    await installation.register(function)
    connection = await installation.connect()
    try:
        await connection.request("GET", "/healthz")
        began = time.perf_counter()
        await installation.call(connection, function)
        return (time.perf_counter() - began) * 1e3
    finally:
        connection.close()


def _echo(name: str, image: str, text: bytes) -> Function:
    return Function(name=name, parameter=text, result=text, spec={"image": image})


def _text(length: int, random: Random) -> bytes:
    """Letters by chance: what can be compressed well would be a friend of somebody's."""
    return "".join(random.choices(string.ascii_letters, k=length)).encode()
