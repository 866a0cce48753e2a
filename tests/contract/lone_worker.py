"""
A process of its own that runs containers, for tests that kill it.

Holds one container and runs two, of which one does all it can to survive; prints `ready` and their ids when they run.
Arguments: runtime, root file system, state directory, and `namespaces` or `plain`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from mayfly.containers.host import enter_namespaces, prepare_host
from mayfly.containers.runtime import Call, ContainerSpec
from mayfly.domain.ids import new_ulid
from mayfly.domain.image import ProcessConfig
from mayfly.domain.limits import Limits
from tests.support.containers import OWNER, OurContainer, images_of, open_runtime, spoken

COMMANDS = (("escape_death",), ("sh", "-c", "echo up; sleep 600"))


async def main(driver: str, rootfs: Path, state_dir: Path) -> None:
    """Run until killed."""
    runtime = open_runtime(driver, state_dir=state_dir, images=images_of(rootfs))
    containers = [
        await runtime.create(
            ContainerSpec(id=new_ulid(), owner=OWNER, rootfs=rootfs, config=ProcessConfig(), limits=Limits())
        )
        for _ in range(len(COMMANDS) + 1)
    ]
    calls = [
        asyncio.create_task(container.run(Call(argv=argv), timeout_s=600))
        for container, argv in zip(containers, COMMANDS, strict=False)
    ]
    for container in containers[: len(COMMANDS)]:
        assert isinstance(container, OurContainer)
        await spoken(container)
    print("ready", *(container.id for container in containers), flush=True)
    await asyncio.gather(*calls)


if __name__ == "__main__":
    if sys.argv[4] == "namespaces":
        enter_namespaces()
    prepare_host()
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
