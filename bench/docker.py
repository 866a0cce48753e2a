"""What people do by hand: `docker run --rm --network none`, one program a call, with a dockerd of the bench's own."""

from __future__ import annotations

import asyncio

from bench import cpu
from bench.daemon import REFERENCE, WHOSE, Docker
from bench.figures import Block
from bench.turns import together

PARAMETER = b"hello"
PROGRAM = "docker run"


async def run(docker: Docker) -> None:
    """Run one container that gives its stdin back, as a call does."""
    command = ("docker", "--host", docker.daemon.unix.host, "run", "--rm", "-i", "--network", "none", REFERENCE)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    stdout, stderr = await process.communicate(PARAMETER)
    if process.returncode or stdout != PARAMETER:
        raise RuntimeError(f"docker run ended with {process.returncode}: {stderr.decode(errors='replace')}")


async def block(docker: Docker, at_once: int, seconds: float) -> Block:
    """Let so many run at once, for so long."""
    whose = {PROGRAM: cpu.of_ended_children, WHOSE: docker.group.used_s, "client": cpu.of_this_process}
    return await together([lambda: run(docker)] * at_once, seconds, whose)
