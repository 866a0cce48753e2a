"""
What a function sees and can do is the same by native, crun and docker, but for what is listed here, with the reason.

Run with its name, this module prints the table of docs/reference/runtimes.md.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from mayfly.domain.image import ProcessConfig
from tests.contract.facts import facts
from tests.support.containers import World, images_of, open_runtime

pytestmark = [pytest.mark.root, pytest.mark.F9]

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {
    "root": ProcessConfig(env=(("HOME", "/root"), ("A", "b"))),
    "a user": ProcessConfig(uid=1234, gid=1234, groups=(777,), cwd="/home/app", env=(("HOME", "/home/app"),)),
}


class Difference(NamedTuple):
    """One, between native and another driver."""

    facts: str
    """A regular expression for their names, as `facts` gives them."""

    native: str
    other: str
    why: str


DIFFERENCES: dict[str, tuple[Difference, ...]] = {
    "crun": (
        Difference(
            "command line of process 1|(device|mount) /dev/mayfly-init",
            "process 1 is called mayfly-init, and is no file in the container",
            "it was started from /dev/mayfly-init, a read-only mount",
            "The launcher is process 1 itself, crun has to be given one.",
        ),
        Difference(
            "mount (/proc|/sys)/.*",
            "what masks and protects parts of /proc and /sys is nosuid and noexec, and nodev where it is no device",
            "it is read-only and no more",
            "They are below mounts that are all of it; to say it again costs nothing.",
        ),
        Difference(
            "read /proc/1/fd",
            "nobody in the container can list the descriptors of process 1",
            "its root can: the names, not what is behind them",
            "The launcher was executed outside of the container's user namespace: the kernel lets nobody inside look.",
        ),
    ),
    "docker": (
        Difference(
            "users|groups|owner of /(proc|sys)|status SigIgn|process 1|status Groups|who am I",
            "root is one of 65,536 users of the container's own; a user is in the groups that the image gives it",
            "root is root; a user's own group is among its supplementary ones",
            "A daemon shifts users for all its containers or for none; its runtime adds the group.",
        ),
        Difference(
            "limit Max pending signals",
            "1,024",
            "what the daemon has",
            "A daemon cannot be asked for this limit.",
        ),
        Difference(
            "/etc/(hosts|hostname|resolv.conf)|owner of /etc/hosts|can write to /etc/hosts|mount /etc/.*",
            "/etc/hosts is Mayfly's and read-only, the others are the image's",
            "all three are the daemon's, and writable",
            "Without a network there is nobody to resolve; with one, /etc/resolv.conf is Mayfly's too.",
        ),
        Difference(
            "loopback|can bind a low port",
            "the loopback has an IPv6 address; ports below 1024 are root's",
            "none; they are everybody's",
            "Docker's own choices (`net.ipv6.conf.all.disable_ipv6`, `net.ipv4.ip_unprivileged_port_start`).",
        ),
        Difference(
            "command line of process 1|read /proc/1/fd",
            "process 1 is called mayfly-init, and is no file in the container",
            "it was started from /mayfly-init, in the container's root",
            "A daemon starts what is in the image or mounted into it.",
        ),
        Difference(
            "device /dev/(core|mqueue)|mount .*",
            "devices are mounts of the machine's; the root is nosuid and nodev; /tmp is the root's; no cgroups",
            "devices are the container's own; the root is neither; /tmp is a tmpfs; /sys/fs/cgroup is there, read-only",
            "As Docker has them; set-user-id programs and devices of an image are disarmed otherwise there "
            "(no_new_privs, the devices cgroup).",
        ),
    ),
}


@asynccontextmanager
async def a_world(driver: str, rootfs: Path) -> AsyncIterator[World]:
    """Containers of one driver."""
    with tempfile.TemporaryDirectory(prefix="mayfly-test-") as directory:
        Path(directory).chmod(0o711)
        runtime = open_runtime(driver, state_dir=Path(directory), images=images_of(rootfs))
        try:
            yield World(runtime, rootfs)
        finally:
            await runtime.close()


@pytest.mark.parametrize("other", DIFFERENCES)
async def test_every_difference_is_known_and_is_one(other: str, rootfs: Path, request: pytest.FixtureRequest) -> None:
    """Of some 170 facts, asked as root and as a user of the image: what differs is listed, what is listed differs."""
    if other == "docker":
        request.getfixturevalue("docker_daemon")
    differing: set[str] = set()
    for config in CONFIGS.values():
        async with a_world("native", rootfs) as ours, a_world(other, rootfs) as theirs:
            here, there = await facts(ours, config), await facts(theirs, config)
        assert len(here) > 100
        differing |= {name for name in here.keys() | there.keys() if here.get(name) != there.get(name)}
    known = {each: {name for name in differing if re.fullmatch(each.facts, name)} for each in DIFFERENCES[other]}
    unknown = differing - set().union(*known.values())
    assert not unknown
    assert all(known.values()), [each.facts for each, names in known.items() if not names]


@pytest.mark.parametrize("other", DIFFERENCES)
def test_the_page_has_the_table(other: str) -> None:
    """What the documentation shows is what is tested."""
    assert table(other) in (ROOT / "docs" / "reference" / "runtimes.md").read_text()


def table(other: str) -> str:
    """The differences between native and another, as the documentation shows them."""
    rows = [(each.native, each.other, each.why) for each in DIFFERENCES[other]]
    return "\n".join(f"| {' | '.join(row)} |" for row in (("native", other, ""), ("---",) * 3, *rows)) + "\n"


if __name__ == "__main__":
    print(table(sys.argv[1]), end="")
