"""A shell in which the commands of deploy/compose/README.md are typed, against the system that is up."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from tests.support.compose import HERE
from tests.support.up import Up

README = "deploy/compose/README.md"
VENV = HERE.parents[1] / ".venv" / "bin"
TAKES_S = 300
DOCKER = """#!/bin/bash
# Compose as this machine has it, in its directory, with the settings of this system.
[ "$1" = compose ] || exec {docker} "$@"
cd {here}
exec {compose} --env-file {settings} "${{@:2}}"
"""


class Terminal:
    """A shell in a directory of its own, where `docker compose` means the system that is up."""

    def __init__(self, directory: Path, up: Up) -> None:
        """Make the directory's `docker`."""
        self.directory = directory
        self.up = up
        (directory / "bin").mkdir()
        program = "docker-compose" if shutil.which("docker-compose") else "docker compose"
        settings = os.environ["COMPOSE_ENV_FILE"]
        wrapper = directory / "bin" / "docker"
        wrapper.write_text(DOCKER.format(docker=shutil.which("docker"), here=HERE, compose=program, settings=settings))
        wrapper.chmod(0o755)

    async def type(self, script: str) -> str:
        """Run it, and return what it prints."""
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", script),
            cwd=self.directory,
            env={
                **os.environ,
                "PATH": f"{self.directory / 'bin'}:{VENV}:{os.environ['PATH']}",
                "HOME": str(self.directory),
                "MAYFLY_CONFIG_DIR": str(self.directory / "config"),
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(TAKES_S):
            said, complained = await process.communicate()
        assert process.returncode == 0, (said + complained).decode()
        return said.decode()
