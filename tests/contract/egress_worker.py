"""
A process of its own with functions that have a network, for tests that kill it.

One function holds a connection to the outside; prints `ready` and its address when it does. Arguments: root file system
and state directory.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from mayfly.containers.choose import choose_runtime
from mayfly.containers.host import enter_namespaces, prepare_host
from mayfly.containers.local import LocalRuntime
from mayfly.containers.runtime import Call
from tests.support.containers import images_of, spoken
from tests.support.egress import EgressWorld, address_of, policy
from tests.support.outside import WEB


async def main(rootfs: Path, state_dir: Path) -> None:
    """Run until killed."""
    runtime = choose_runtime("crun", state_dir=state_dir, egress=policy(), images=images_of(rootfs), slots=2)
    assert isinstance(runtime, LocalRuntime)
    await runtime.reap()
    container = await runtime.create(EgressWorld(runtime, rootfs).spec())
    call = Call(argv=("reach", "hold", "3", WEB, "80"))
    running = asyncio.create_task(container.run(call, timeout_s=600))
    await spoken(container)  # type: ignore[arg-type]
    print("ready", address_of(container), flush=True)
    await running


if __name__ == "__main__":
    enter_namespaces()
    prepare_host()
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
