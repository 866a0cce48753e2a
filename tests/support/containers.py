"""A world for container tests: a real root file system, attackers compiled for it, and a look at what is left."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import subprocess
from collections.abc import AsyncIterator, Collection, Container
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from mayfly.containers import mounts
from mayfly.containers.cgroups import pids_in
from mayfly.containers.choose import DockerAddress, choose_runtime
from mayfly.containers.confined.runtime import ConfinedContainer, ConfinedRuntime
from mayfly.containers.confined.users import CALLS
from mayfly.containers.docker.config import INIT as DOCKER_INIT
from mayfly.containers.docker.config import OWNER_LABEL, container_name
from mayfly.containers.docker.runtime import DockerContainer, DockerRuntime
from mayfly.containers.held import HeldContainer
from mayfly.containers.local import LocalRuntime
from mayfly.containers.oci import OciRuntime
from mayfly.containers.runtime import Call, ContainerSpec, Ending, EndReason
from mayfly.domain.ids import UserId, new_ulid
from mayfly.domain.image import ProcessConfig
from mayfly.domain.limits import Limits
from tests.support.files import directories_below
from tests.support.processes import descendants

SCALE = float(os.environ.get("TEST_TIME_SCALE", "1"))
"""How much slower than a real machine this one is: an emulated guest is some ten times."""

DOCKER_HOST = "TEST_DOCKER_HOST"
"""The variable with the address of the tests' own daemon."""

OurRuntime = LocalRuntime | DockerRuntime | ConfinedRuntime
OurContainer = HeldContainer | DockerContainer | ConfinedContainer

BUSYBOX = Path("/bin/busybox")
ATTACKERS = Path(__file__).parent.parent / "contract" / "attackers"
SHIFT = 100_000
OWNER = UserId("w0rld0owner0w0rld0owner0")
"""Whose containers they are, where it does not matter."""


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
    setuid = directory / "bin" / "setuid-show_user"
    shutil.copy(directory / "bin" / "show_user", setuid)
    os.chown(setuid, SHIFT, SHIFT)
    setuid.chmod(0o4755)
    os.mknod(directory / "etc" / "zero", 0o020666, os.makedev(1, 5))
    os.chown(directory / "etc" / "zero", SHIFT, SHIFT)
    return directory


def copy_rootfs(rootfs: Path, directory: Path) -> Path:
    """Another image of the same content, without compiling anything."""
    subprocess.run(["cp", "--archive", rootfs, directory], check=True)
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
    containers: tuple[str, ...] = ()
    """The daemon's, if one has them."""

    def __bool__(self) -> bool:
        return any((self.processes, self.mounts, self.cgroups, self.files, self.containers))


class World:
    """One runtime under test, and what tests do with it again and again."""

    def __init__(self, runtime: OurRuntime, rootfs: Path) -> None:
        self.runtime = runtime
        self.rootfs = rootfs

    def spec(self, config: ProcessConfig | None = None, *, owner: UserId = OWNER, **limits: float) -> ContainerSpec:
        """A spec with an id of its own."""
        return ContainerSpec(
            id=new_ulid(),
            owner=owner,
            rootfs=self.rootfs,
            config=config or ProcessConfig(),
            limits=Limits(**limits),  # type: ignore[arg-type]
        )

    async def create(self, spec: ContainerSpec | None = None) -> OurContainer:
        """A held container, which the caller removes."""
        container = await self.runtime.create(spec or self.spec())
        assert isinstance(container, OurContainer)
        return container

    @asynccontextmanager
    async def held(self, spec: ContainerSpec | None = None) -> AsyncIterator[OurContainer]:
        """A held container, removed in the end."""
        container = await self.create(spec)
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

    def ids(self) -> set[str]:
        """The containers that are there now, held, running or left behind."""
        return ids_of(self.runtime)

    @property
    def init_path(self) -> str:
        """Where the held init is inside a container."""
        return DOCKER_INIT if isinstance(self.runtime, DockerRuntime) else "/dev/mayfly-init"

    @property
    def extra_pids(self) -> int:
        """Processes in a container's cgroup that are not the function's."""
        return self.runtime.driver.extra_pids if isinstance(self.runtime, OciRuntime) else 1

    def cgroups(self, container: OurContainer) -> tuple[Path, ...]:
        """The directories of a container's cgroup."""
        if isinstance(self.runtime, LocalRuntime):
            return self.runtime.groups.of(container._spec.owner, container.id).directories
        pid = processes_of(container.id)[0]
        found = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
        directories = (Path(f"/sys/fs/cgroup/{each}{path}") for _, names, path in found for each in names.split(","))
        return tuple(directory for directory in directories if directory.is_dir())

    def living(self, container: OurContainer) -> set[int]:
        """The container's processes that live, the runtime that waits for it left out."""
        if isinstance(container, ConfinedContainer):
            return {*processes_of(container.id), *processes_of_user(container.user.uid)}
        if isinstance(container, DockerContainer):
            return set(processes_of(container.id))
        inside = pids_in(self.cgroups(container))
        return inside - container._ours_inside()


def open_runtime(
    driver: str, *, state_dir: Path, launcher_dir: Path | None = None, images: Path | None = None
) -> OurRuntime:
    """A runtime in a place of its own; docker at the tests' own daemon. With *images*, each container has own ids."""
    docker = DockerAddress(host=os.environ.get(DOCKER_HOST, "unix:///nowhere"))
    runtime = choose_runtime(driver, state_dir=state_dir, launcher_dir=launcher_dir, docker=docker, images=images)
    assert isinstance(runtime, OurRuntime)
    return runtime


def images_of(rootfs: Path) -> Path:
    """Where a run of the tests has its images, all of them."""
    return rootfs.parent.parent


async def died(container: OurContainer) -> None:
    """Kill a container's init behind its back, and return when it is dead."""
    container._stop(EndReason.TIMED_OUT)
    end = container._ended if isinstance(container, DockerContainer) else container._dead
    await asyncio.wait_for(asyncio.shield(end), 5 * SCALE)


def ids_of(runtime: OurRuntime) -> set[str]:
    """The ids of a runtime's containers."""
    if isinstance(runtime, LocalRuntime):
        return set(runtime.groups.found())
    if isinstance(runtime, ConfinedRuntime):
        return {record.name for record in runtime.records.iterdir()}
    socket = os.environ[DOCKER_HOST].removeprefix("unix://")
    filters = json.dumps({"label": [f"{OWNER_LABEL}={runtime.owner}"]})
    with httpx.Client(transport=httpx.HTTPTransport(uds=socket), base_url="http://docker") as client:
        listed = client.get("/containers/json", params={"all": "1", "filters": filters}, timeout=60).json()
    return {each["Names"][0].removeprefix(f"/{container_name('')}") for each in listed}


def written(container: OurContainer) -> bytes:
    """What the function has written to stdout so far."""
    result = container._result if isinstance(container, DockerContainer) else container._stdio.result
    return bytes(result.content)


async def spoken(container: OurContainer) -> None:
    """Return when the function has written to stdout, so that it certainly runs; a test's time limit is around."""
    async with asyncio.timeout(20 * SCALE):
        while not written(container):
            await asyncio.sleep(0.005)


def processes_of(container_id: str) -> list[int]:
    """The living processes with this id in their cgroup or command line, the zombies left out."""
    alive: dict[int, tuple[str, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                cgroup, command = (entry / "cgroup").read_text(), (entry / "cmdline").read_text(errors="replace")
                dead = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[0] in "ZX"
            except (FileNotFoundError, ProcessLookupError):
                continue
            if not dead:
                alive[int(entry.name)] = (cgroup, command)
    # A Docker container's cgroup has another name, but its init is told the id, and the rest share its cgroup.
    dockers = {cgroup for cgroup, command in alive.values() if container_id in command and "docker" in cgroup}
    return [
        pid
        for pid, (cgroup, command) in alive.items()
        if container_id in cgroup or container_id in command or cgroup in dockers
    ]


def users_of(container_ids: Collection[str]) -> set[int]:
    """As whom the processes of these containers, and those below them, live, and nobody else on this machine."""
    theirs = {process for each in container_ids for process in processes_of(each)}
    theirs |= {below for each in theirs for below in descendants(each)}
    users = user_of_each_process()
    return {uid for pid, uid in users.items() if pid in theirs} - {
        uid for pid, uid in users.items() if pid not in theirs
    }


def processes_of_user(*uids: int) -> list[int]:
    """The living processes of users, the zombies left out."""
    return processes_of_users(uids)


def processes_of_users(uids: Container[int]) -> list[int]:
    """The same of many."""
    return [pid for pid, uid in user_of_each_process().items() if uid in uids]


def user_of_each_process() -> dict[int, int]:
    """Of all that live on this machine, the zombies left out."""
    alive = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "status").read_text(errors="replace")  # a process calls itself whatever it likes
                status = dict(line.split(":", 1) for line in text.splitlines())
            except (FileNotFoundError, ProcessLookupError):
                continue
            if status["State"].split()[0] not in "ZX":
                alive[int(entry.name)] = int(status["Uid"].split()[0])
    return alive


def leftovers(runtime: OurRuntime) -> Leftovers:
    """Look for containers of this runtime."""
    if isinstance(runtime, DockerRuntime):
        return Leftovers(processes=(), mounts=(), cgroups=(), files=(), containers=tuple(ids_of(runtime)))
    if isinstance(runtime, ConfinedRuntime):
        ours = processes_of_users(range(runtime.users.first, runtime.users.first + 2 * CALLS))
        return Leftovers(
            processes=tuple(map(str, ours)),
            mounts=(),
            cgroups=(),
            files=tuple(str(record.readlink()) for record in runtime.records.iterdir()),
        )
    place = runtime.place.directory
    state = place / "runtime"
    networks = place / "networks"  # those that wait, `tests.support.egress` looks for those that should be gone
    return Leftovers(
        processes=tuple(str(pid) for pid in processes_of(str(place))),
        mounts=tuple(
            str(each.point)
            for each in mounts.mounts()
            if place in each.point.parents and networks not in each.point.parents
        ),
        cgroups=tuple(str(path) for path in groups_of(runtime)),
        files=tuple(
            str(path)
            for path in (*place.iterdir(), *state.iterdir())
            if path.is_dir() and path not in (state, networks, place / "stage")
        ),
    )


def groups_of(runtime: LocalRuntime) -> set[Path]:
    """Every cgroup below those for all containers: of containers and of users."""
    parents = set(runtime.groups._parents.values())
    return {path for parent in parents for path in directories_below(parent)}


def open_descriptors() -> int:
    """How many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


IS_AMD64 = platform.machine() == "x86_64"
