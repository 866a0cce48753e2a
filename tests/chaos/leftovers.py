"""
What is left of an installation whose workers have ended: it should be nothing.

A namespace lives by a process or a mount, and both are looked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nats.js.errors import NoKeysError

from mayfly.bus.connection import Bus
from mayfly.bus.places import Places
from mayfly.bus.queue import in_flight
from mayfly.bus.stores import Stores
from mayfly.bus.subjects import IDEMPOTENCY, PLACES
from mayfly.containers import mounts
from mayfly.containers.choose import group_name
from tests.chaos.installation import Installation
from tests.support.files import directories_below


def on_this_machine(made: Installation) -> Iterator[str]:
    """Processes, mounts, cgroups and files of the workers'. Call it when they have ended."""
    yield from _processes(made)
    ours = {disk.directory for disk in made.disks.values()} | {node.disk.directory for node in made.nats.values()}
    for each in mounts.mounts():
        if made.directory in each.point.parents and each.point not in ours:
            yield f"mount {each.point}"
    for disk in made.disks.values():
        name = group_name(disk.directory / "state")
        yield from (f"cgroup {group}" for group in directories_below(Path("/sys/fs/cgroup")) if group.name == name)
        yield from _files(disk.directory)


def _processes(made: Installation) -> Iterator[str]:
    """Whatever has one of the workers' places in its command line or cgroup."""
    marks = [str(disk.directory) for disk in made.disks.values()]
    marks += [group_name(disk.directory / "state") for disk in made.disks.values()]
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                words += (process / "cgroup").read_text()
            except OSError:
                continue
            if any(mark in words for mark in marks):
                yield f"process {process.name}: {words.strip()[:200]}"


def _files(directory: Path) -> Iterator[str]:
    """What is neither the lock nor an unpacked image."""
    state, pulls = directory / "state", directory / "images" / "pulls"
    for path in state.iterdir() if state.is_dir() else ():
        if path.name != "containers.lock":
            yield f"file {path}"
    for path in pulls.iterdir() if pulls.is_dir() else ():
        yield f"unfinished pull {path}"


async def in_nats(bus: Bus, *, keys_used: int) -> list[str]:
    """Messages of the work stream, places, and idempotency entries beyond the keys that were used."""
    found: list[str] = []
    if count := await in_flight(bus):
        found.append(f"{count} messages in the work stream")
    records = Stores.on(bus).activations
    held = {taken.key: await records.get(taken.holder) async for taken in Places(bus).all_taken()}
    for key in await _keys(bus, PLACES):
        holder = held.get(key)
        found.append(f"place {key} of an activation that is {holder.value.state if holder else 'not recorded'}")
    if (count := len(await _keys(bus, IDEMPOTENCY))) > keys_used:
        found.append(f"{count} entries in the bucket {IDEMPOTENCY}, {keys_used} may be")
    return found


async def _keys(bus: Bus, bucket: str) -> list[str]:
    try:
        return await (await bus.js.key_value(bucket)).keys()
    except NoKeysError:
        return []
