"""A world for container tests: a real root file system, attackers compiled for it, and a look at what is left."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mayfly.containers import mounts
from mayfly.containers.oci import OciContainer, OciRuntime
from mayfly.containers.runtime import Call, ContainerSpec, Ending
from mayfly.domain.ids import new_ulid
from mayfly.domain.image import ProcessConfig
from mayfly.domain.limits import Limits

SCALE = float(os.environ.get("TEST_TIME_SCALE", "1"))
"""How much slower than a real machine this one is: an emulated guest is some ten times."""

BUSYBOX = Path("/bin/busybox")
ATTACKERS = Path(__file__).parent.parent / "contract" / "attackers"
SHIFT = 100_000


def make_rootfs(directory: Path) -> Path:
    """Make an image's root: busybox, a few accounts, the attackers, and what a hostile image would bring."""
    for name in ("bin", "sbin", "etc", "tmp", "home/app", "opt", "root"):
        (directory / name).mkdir(parents=True)
    (directory / "tmp").chmod(0o1777)
    shutil.copy(BUSYBOX, directory / "bin" / "busybox")
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            (directory / "bin" / applet).symlink_to("busybox")
    (directory / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1234:1234::/home/app:/bin/sh\n")
    (directory / "etc" / "secret").write_text("of the image's root\n")
    (directory / "etc" / "secret").chmod(0o600)
    (directory / "opt" / "only-here").symlink_to("/bin/busybox")
    (directory / "opt" / "not-executable").write_text("no program\n")
    (directory / "opt" / "no-format").write_text("no program either\n")
    (directory / "opt" / "no-format").chmod(0o755)
    for source in ATTACKERS.glob("*.c"):
        program = directory / "bin" / source.stem
        subprocess.run(["cc", "-static", "-O1", "-w", "-o", program, source], check=True)
    _shift(directory)
    (directory / "bin" / "su-id").symlink_to("id")
    setuid = directory / "bin" / "setuid-id"
    shutil.copy(BUSYBOX, setuid)
    os.chown(setuid, SHIFT, SHIFT)
    setuid.chmod(0o4755)
    os.mknod(directory / "etc" / "zero", 0o020666, os.makedev(1, 5))
    os.chown(directory / "etc" / "zero", SHIFT, SHIFT)
    return directory


def _shift(directory: Path) -> None:
    for path in (directory, *directory.rglob("*")):
        os.chown(path, SHIFT, SHIFT, follow_symlinks=False)
    for path in (directory / "home" / "app",):
        os.chown(path, SHIFT + 1234, SHIFT + 1234)


@dataclass(frozen=True, kw_only=True)
class Leftovers:
    """What of containers there is on this machine now."""

    processes: tuple[str, ...]
    mounts: tuple[str, ...]
    cgroups: tuple[str, ...]
    files: tuple[str, ...]

    def __bool__(self) -> bool:
        return any((self.processes, self.mounts, self.cgroups, self.files))


class World:
    """One runtime under test, and what tests do with it again and again."""

    def __init__(self, runtime: OciRuntime, rootfs: Path) -> None:
        self.runtime = runtime
        self.rootfs = rootfs

    def spec(self, config: ProcessConfig | None = None, **limits: float) -> ContainerSpec:
        """A spec with an id of its own."""
        return ContainerSpec(
            id=new_ulid(),
            rootfs=self.rootfs,
            config=config or ProcessConfig(),
            limits=Limits(**limits),  # type: ignore[arg-type]
        )

    @asynccontextmanager
    async def held(self, spec: ContainerSpec | None = None) -> AsyncIterator[OciContainer]:
        """A held container, removed in the end."""
        container = await self.runtime.create(spec or self.spec())
        assert isinstance(container, OciContainer)
        try:
            yield container
        finally:
            await container.remove()

    async def run(
        self,
        *argv: str,
        stdin: bytes = b"",
        env: tuple[tuple[str, str], ...] = (),
        timeout_s: float = 20.0,
        spec: ContainerSpec | None = None,
    ) -> Ending:
        """Create, run, remove."""
        async with self.held(spec) as container:
            return await container.run(Call(argv=argv, stdin=stdin, env=env), timeout_s=timeout_s * SCALE)

    async def shell(self, script: str, **options: object) -> Ending:
        """Run a shell script."""
        return await self.run("sh", "-c", script, **options)  # type: ignore[arg-type]

    def left(self) -> Leftovers:
        """Whatever is there of this runtime's containers."""
        return leftovers(self.runtime)


async def spoken(container: OciContainer) -> None:
    """Return when the function has written to stdout, so that it certainly runs; a test's time limit is around."""
    async with asyncio.timeout(20 * SCALE):
        while not container._result.content:
            await asyncio.sleep(0.005)


def processes_of(container_id: str) -> list[int]:
    """The living processes with this id in their cgroup or command line, the zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cgroup").read_text() + (entry / "cmdline").read_text()
                dead = (entry / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
            except (FileNotFoundError, ProcessLookupError):
                continue
            if container_id in words and not dead:
                found.append(int(entry.name))
    return found


def leftovers(runtime: OciRuntime) -> Leftovers:
    """Look for containers of this runtime."""
    place = runtime.place.directory
    ids = runtime.groups.ids()
    return Leftovers(
        processes=tuple(str(pid) for pid in processes_of(str(place))),
        mounts=tuple(str(each.point) for each in mounts.mounts() if place in each.point.parents),
        cgroups=tuple(ids),
        files=tuple(
            str(path)
            for path in (*place.iterdir(), *runtime.state.iterdir())
            if path.is_dir() and path != runtime.state
        ),
    )


def open_descriptors() -> int:
    """How many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


IS_AMD64 = platform.machine() == "x86_64"
