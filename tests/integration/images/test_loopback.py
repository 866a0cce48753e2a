"""The namespace that skopeo runs in: nothing but a loopback, made and left without a trace."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from mayfly.images.loopback import Loopback
from tests.support.need import need

pytestmark = [pytest.mark.F6, pytest.mark.root]


@pytest.fixture(autouse=True)
def as_root() -> None:
    """Entering a namespace takes CAP_SYS_ADMIN."""
    need(os.geteuid() == 0, "root")


def run_in(loopback: Loopback, *argv: str) -> str:
    """Run a program in it."""
    descriptors = (loopback.descriptor,)
    return subprocess.run(
        loopback.enter([*argv]), check=True, pass_fds=descriptors, capture_output=True, text=True
    ).stdout


def descriptors_now() -> int:
    """How many this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def namespaces_now() -> set[Path]:
    """Which networks this process's threads are in."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # ended meanwhile
            found.add((task / "ns/net").readlink())
    return found


async def test_there_is_nothing_but_a_loopback() -> None:
    """No other interface, no route out, and its own loopback is up."""
    loopback = await Loopback.make()
    try:
        interfaces = run_in(loopback, "cat", "/proc/net/dev")
        routes = run_in(loopback, "cat", "/proc/net/route")
    finally:
        loopback.close()

    assert [line.split(":")[0].strip() for line in interfaces.splitlines()[2:]] == ["lo"]
    assert len(routes.splitlines()) == 1  # the heading


async def test_a_listener_inside_is_served_from_outside() -> None:
    """What connects inside meets our listener, on the port that was asked for."""
    loopback = await Loopback.make()
    try:
        with loopback.listen("127.0.0.1", 443) as listener:
            listener.settimeout(10)
            said = asyncio.to_thread(run_in, loopback, "busybox", "nc", "127.0.0.1", "443")
            talking = asyncio.create_task(said)
            connection, _ = await asyncio.to_thread(listener.accept)
            with connection:
                connection.sendall(b"from outside")
            assert await talking == "from outside"
    finally:
        loopback.close()


async def test_the_worker_stays_where_it_is() -> None:
    """No thread of ours is in another namespace afterwards, no child is left, and no descriptor."""
    own = Path("/proc/self/ns/net").readlink()
    descriptors = descriptors_now()
    loopback = await Loopback.make()
    loopback.listen("127.0.0.1", 0).close()
    inside = Path(f"/proc/self/fd/{loopback.descriptor}").readlink()
    loopback.close()

    assert inside != own
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    assert not any(Path(f"/proc/{child}/comm").read_text().strip() in {"unshare", "cat"} for child in children)
    async with asyncio.timeout(20):  # a joined thread is still seen for a moment, and the child's pipes close later
        while namespaces_now() != {own} or descriptors_now() > descriptors:
            await asyncio.sleep(0.01)
