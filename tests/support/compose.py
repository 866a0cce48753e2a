"""
The composed system as its Docker daemon sees it: containers, their state, and what becomes of them.

Reads COMPOSE_PROJECT_NAME, COMPOSE_FILE and DOCKER_HOST, as docker-compose does, and COMPOSE_ENV_FILE, the settings
that the system was brought up with. `scripts/test-compose` sets them.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[2] / "deploy" / "compose"
ONE_SHOTS = ("secrets", "bootstrap")
LABEL = "com.docker.compose"


def docker(*arguments: str | Path) -> str:
    """Run the docker client, and return what it prints."""
    return _run(["docker", *map(str, arguments)])


def log_of(container: Container) -> str:
    """What a container has written so far, to stdout and to stderr."""
    command = ["docker", "logs", container.id]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout


def compose(*arguments: str) -> str:
    """Run `docker compose`, or docker-compose where that is what there is."""
    program = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    return _run([*program, "--env-file", os.environ["COMPOSE_ENV_FILE"], *arguments], directory=HERE)


def _run(command: list[str], *, directory: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=directory)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done.stdout


@dataclass(frozen=True)
class Container:
    """One container, as it was when it was asked for."""

    facts: dict[str, Any]

    @property
    def id(self) -> str:
        """Docker's id."""
        return str(self.facts["Id"])

    @property
    def service(self) -> str:
        """The service that it belongs to."""
        return str(self.facts["Config"]["Labels"][f"{LABEL}.service"])

    @property
    def pid(self) -> int:
        """Its first process, as the host numbers it; 0 while there is none."""
        return int(self.facts["State"]["Pid"])

    @property
    def is_settled(self) -> bool:
        """Whether it is healthy, or has done the one thing that it is there for."""
        state = self.facts["State"]
        if self.service in ONE_SHOTS:
            return (state["Status"], state["ExitCode"]) == ("exited", 0)
        return state["Running"] is True and state.get("Health", {}).get("Status") == "healthy"

    @property
    def is_stand_in(self) -> bool:
        """Whether it is a gateway that is not APISIX."""
        return "NOT APISIX" in self.facts["Config"]["Labels"].get("mayfly.gateway", "")

    @property
    def secrets(self) -> set[str]:
        """The volumes with secrets that it sees, by their names in the compose file."""
        names = {mount["Name"].partition("_")[2] for mount in self.facts["Mounts"] if mount["Type"] == "volume"}
        return {name for name in names if name.startswith("secrets-")}

    def kill(self) -> None:
        """
        End it as a fault would: Docker does not know that somebody meant it, so its restart policy holds.

        Its processes are dead when this returns: the kernel ends the first of a namespace after all others.
        """
        process = os.pidfd_open(self.pid)
        try:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            if not select.select([process], [], [], 10)[0]:
                raise TimeoutError(f"process {self.pid} does not die")
        finally:
            os.close(process)

    def status(self) -> dict[str, str]:
        """Its first process's /proc/PID/status."""
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def containers(*services: str) -> list[Container]:
    """Inspect the project's containers, of these services or of all."""
    project = os.environ["COMPOSE_PROJECT_NAME"]
    ids = docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}.project={project}").split()
    found = [Container(facts) for facts in json.loads(docker("inspect", *ids))] if ids else []
    lasting = [each for each in found if each.facts["Config"]["Labels"].get(f"{LABEL}.oneoff") != "True"]
    return [each for each in lasting if not services or each.service in services]


async def settled(*services: str, within_s: float = 90) -> None:
    """
    Wait until all containers are healthy, or have done their one thing.

    Raises: RuntimeError that says which are not.
    """
    try:
        async with asyncio.timeout(within_s):
            while not all(each.is_settled for each in await asyncio.to_thread(containers, *services)):
                await asyncio.sleep(0.5)
    except TimeoutError:
        late = {each.service: each.facts["State"] for each in containers(*services) if not each.is_settled}
        raise RuntimeError(f"not healthy after {within_s:.0f} s: {json.dumps(late, indent=1)}") from None


async def started_again(killed: Container, *, within_s: float = 90) -> None:
    """Wait until Docker has started *killed* anew and it is healthy."""
    async with asyncio.timeout(within_s):
        while True:
            now = Container(json.loads(await asyncio.to_thread(docker, "inspect", killed.id))[0])
            if now.pid not in (0, killed.pid) and now.is_settled:
                return
            await asyncio.sleep(0.3)


def nats_leader(stream: str) -> str:
    """Say which server leads *stream*, by asking one on its own loopback, where alone its monitoring listens."""
    asked = "exec 3<>/dev/tcp/127.0.0.1/8222; printf 'GET /jsz?acc=MAYFLY&streams=1 HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    answer = docker("exec", containers("nats-1")[0].id, "bash", "-euc", asked)
    account = json.loads(answer[answer.index("{") :])["account_details"][0]
    return str(next(each["cluster"]["leader"] for each in account["stream_detail"] if each["name"] == stream))
