"""
What the drivers that start containers themselves have in common: where those have their files, cgroups, users, networks
and filter, and how a worker puts right what a dead one left. `oci` and `native` differ in how a container is made.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mayfly.containers import cgroups
from mayfly.containers.ids import Ids, SharedIds
from mayfly.containers.place import Place
from mayfly.containers.programs import Programs
from mayfly.containers.removal import made_whole
from mayfly.containers.runtime import Container, ContainerSpec
from mayfly.domain import sandbox
from mayfly.domain.errors import RuntimeFailed

if TYPE_CHECKING:  # netlink takes 0.1 s to import
    from mayfly.containers.egress.pool import Pool

REMOVE_DELAYS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.1, 0.2, 0.3)


class Making(Container, Protocol):
    """A container that is not there yet."""

    def make(self) -> Awaitable[None]:
        """
        Make it, as far as `create` promises.

        Raises: RuntimeFailed, OSError.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a worker's containers are made of, on this machine."""

    place: Place
    programs: Programs
    groups: cgroups.Cgroups
    seccomp_program: bytes
    ids: Ids = field(default_factory=SharedIds)
    nofile_max: int = sandbox.NOFILE_HARD
    networks: Pool | None = None
    images: Path | None = None
    """Where unpacked ones are."""


class LocalRuntime(ABC):
    """Starts containers as children of this process."""

    name: str
    version: str

    def __init__(self, means: Means) -> None:
        self.place = means.place
        self.programs = means.programs
        self.groups = means.groups
        self.seccomp_program = means.seccomp_program
        self.nofile_max = means.nofile_max
        self.ids = means.ids
        self.networks = means.networks
        self.images = means.images
        # Unmounting what a function has filled takes milliseconds, so that is done beside the event loop.
        self.cleaner = ThreadPoolExecutor(max_workers=2, thread_name_prefix="container-remove")

    @property
    def home(self) -> str:
        return self.groups.home

    @property
    def offers_egress(self) -> bool:
        return self.networks is not None

    @abstractmethod
    def claim(self, spec: ContainerSpec) -> Making:
        """
        Say that nobody else may have a container of this id.

        Raises: RuntimeFailed when somebody has.
        """

    async def create(self, spec: ContainerSpec) -> Container:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeFailed("Containers are started from the main thread only: they die with the one that does.")
        container = self.claim(spec)
        async with made_whole(container):
            await container.make()
        return container

    async def reap(self) -> int:
        dead = self.groups.found()
        for directories in dead.values():
            await _reap(directories)
        _raise_if_left(self.groups.sweep())
        if self.networks:
            await self.networks.open()
        return len(dead)

    async def close(self) -> None:
        if self.networks:
            await self.networks.close()
        self.cleaner.shutdown(wait=True)
        self.groups.close()
        self.ids.close()
        self.place.close()


async def _reap(directories: tuple[Path, ...]) -> None:
    left: list[Path] = []
    for delay_s in REMOVE_DELAYS_S:
        cgroups.kill_all(directories)
        left = cgroups.remove(directories)
        if not left:
            return
        await asyncio.sleep(delay_s)
    _raise_if_left(left)


def _raise_if_left(paths: list[Path]) -> None:
    if paths:
        raise RuntimeFailed(f"What a dead worker left cannot be removed: {', '.join(map(str, paths))}.")
