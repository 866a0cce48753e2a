"""Which runtime starts containers here, and why."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import shutil
import stat
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import structlog

from mayfly import __version__
from mayfly.containers import cgroups, seccomp
from mayfly.containers.confined import requirements
from mayfly.containers.confined.runtime import ConfinedRuntime
from mayfly.containers.docker.engine import Address, find_version
from mayfly.containers.docker.runtime import DockerRuntime
from mayfly.containers.egress import rules
from mayfly.containers.egress.resolvers import resolvers
from mayfly.containers.ids import Ids, OwnIds, SharedIds
from mayfly.containers.local import Means
from mayfly.containers.native.runtime import NativeRuntime, NotHere
from mayfly.containers.oci import Driver, OciRuntime
from mayfly.containers.place import Place
from mayfly.containers.programs import BUILT, LAUNCH, install_programs
from mayfly.containers.runtime import Runtime
from mayfly.domain import sandbox
from mayfly.domain.egress import EgressPolicy
from mayfly.domain.errors import RuntimeFailed

if TYPE_CHECKING:
    from mayfly.containers.egress.pool import Pool

log = structlog.get_logger()

NATIVE, NATIVE_MIN_LINUX = "native", (5, 12)
NAMES = (NATIVE, "crun", "runc")  # in the order of preference
NEVER_UNASKED = ("docker", "confined")
MIN_VERSIONS = {"crun": (1, 0), "runc": (1, 1)}
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Explanation(NamedTuple):
    """What `mayfly settings` shows."""

    name: str
    version: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerAddress:
    """Where the docker driver finds its daemon; the other drivers need none of it."""

    host: str = "unix:///var/run/docker.sock"
    tls_dir: Path | None = None


def explain_runtime(name: str, *, docker: DockerAddress = DockerAddress()) -> Explanation:
    """
    Say which runtime *name* (auto, native, crun, runc, docker, confined) means here. Needs no privileges; docker, its
    socket.

    Raises: RuntimeFailed when there is none that will do, with the remedy.
    """
    if name == "docker":
        version = find_version(Address.of(docker.host, docker.tls_dir))
        return Explanation(name, version.engine, f"set by the operator; {docker.host}, API {version.api}")
    if name == "confined":
        losses = [f"\n  lost: {lost}: {instead}" for lost, instead in sandbox.LOST_WITH_CONFINED.items()]
        reason = f"set by the operator, for code of his own only; Landlock {requirements.landlock_version()}"
        return Explanation(name, os.uname().release, reason + "".join(losses))
    driver, reason = _choose(name)
    return Explanation(driver.name, driver.version, reason)


def choose_runtime(
    name: str,
    *,
    state_dir: Path,
    launcher_dir: Path | None = None,
    docker: DockerAddress = DockerAddress(),
    egress: EgressPolicy | None = None,
    images: Path | None = None,
    slots: int = 1,
    skip: Sequence[str] = (),
    siblings: Path | None = None,
) -> Runtime:
    """
    Make the runtime *name* (for auto, none of *skip*) ready to start containers, its files on a tmpfs of our own below
    *state_dir*.

    Call it after `host.prepare_host` (which those that are never taken unasked can do without), and `reap` it before
    the first container. *launcher_dir* is where the C programs are, if not in the package. With *egress*, functions may
    have a network. With *images*, where unpacked ones are, each container has user ids of its own, if this host can do
    that. *slots* is how many run at once. *siblings* is below which directory all workers of this machine have their
    state that are to be capped together.

    Raises: RuntimeFailed with the remedy when this host, or another worker in the same place, stands in the way.
    """
    if egress and name in NEVER_UNASKED:
        raise RuntimeFailed(
            f"MAYFLY_EGRESS: the {name} driver has no rules for it: MAYFLY_EGRESS=off, or another runtime."
        )
    if name == "confined":
        return ConfinedRuntime(state_dir=state_dir, launcher_dir=launcher_dir)
    if name == "docker":
        address = Address.of(docker.host, docker.tls_dir)
        return DockerRuntime(address, state_dir=state_dir, launcher_dir=launcher_dir)
    driver, _ = _choose(name, skip=skip)
    if driver.needs_searchable_paths:
        _require_searchable(driver, state_dir.resolve())
    seccomp_program = seccomp.program()
    place = Place.open(state_dir / "containers")
    ids: Ids = SharedIds()
    try:
        programs = install_programs(place.directory, launcher_dir)
        own = OwnIds(programs.userns, is_joined=driver.joins_user_namespaces)
        if images is None or not _is_possible(own, slots, images=images, directory=place.directory / "try"):
            ids = SharedIds(programs.userns if driver.name == NATIVE else None)
        else:
            ids = own
        networks = _networks(egress, state_dir=state_dir, directory=place.directory / "networks", slots=slots)
        means = Means(
            place=place,
            programs=programs,
            groups=cgroups.open_cgroups(
                group_name(state_dir), within=f"{group_name(siblings)}-all" if siblings else None
            ),
            seccomp_program=seccomp_program,
            ids=ids,
            nofile_max=_nofile_max(),
            networks=networks,
            images=images,
        )
        return NativeRuntime(means) if driver.name == NATIVE else OciRuntime(driver, means)
    except OSError as error:
        ids.close()
        place.close()
        raise RuntimeFailed(f"{driver.name} cannot be made ready: {error}.") from error
    except BaseException:
        ids.close()
        place.close()
        raise


async def first_that_works(name: str, make: Callable[..., Runtime]) -> tuple[Runtime, int]:
    """
    Have the runtime *name* by *make* (`choose_runtime`, with all but the name) and `reap` it; return it, and how many
    containers that found. Where `auto` meant native, and that cannot make containers here, the next one is taken, and
    the log says why.

    Raises: RuntimeFailed.
    """
    try:
        return await _reaped(make(name))
    except NotHere as why:
        if name != "auto":
            raise
        log.warning("worker.not-native", reason=why.detail, remedy="MAYFLY_RUNTIME=crun, if that is to stay so.")
        return await _reaped(make(name, skip=(NATIVE,)))


async def _reaped(runtime: Runtime) -> tuple[Runtime, int]:
    try:
        return runtime, await runtime.reap()
    except BaseException:
        await runtime.close()
        raise


def _is_possible(own: OwnIds, slots: int, *, images: Path, directory: Path) -> bool:
    """Have a range of user ids for each container; where this host cannot, say so, and that there is one for all."""
    try:
        own.open(slots, images=images, directory=directory)
    except OSError as error:
        log.warning(
            sandbox.SHARED_IDS,
            reason=str(error),
            effect="All functions of this worker share what the kernel counts by user.",
            remedy=f"Linux 5.19, and {images} on ext4, xfs or btrfs.",
        )
        return False
    return True


def group_name(state_dir: Path) -> str:
    """The cgroup of all containers of the worker whose state is in *state_dir*: the same after a restart."""
    return f"mayfly-{hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:12]}"


def _networks(policy: EgressPolicy | None, *, state_dir: Path, directory: Path, slots: int) -> Pool | None:
    """Have networks for functions, or nothing left of a killed worker's; *mark* says that it had some."""
    mark = state_dir / "egress"
    name = group_name(state_dir).rpartition("-")[2]
    if policy is None:
        if mark.exists():
            rules.uninstall(rules.table_name(name))
            mark.unlink()
        return None
    from mayfly.containers.egress.pool import Pool  # noqa: PLC0415 - netlink takes 0.1 s to import

    chosen = replace(policy, resolvers=resolvers(policy.resolvers))
    return Pool(chosen, name=name, directory=directory, mark=mark, size=slots)


def _choose(name: str, *, skip: Sequence[str] = ()) -> tuple[Driver, str]:
    if name not in ("auto", *NAMES):
        raise RuntimeFailed(f"There is no runtime {name!r}: auto, native, crun, runc, docker and confined are known.")
    refusals: list[str] = []
    for candidate in [each for each in NAMES if each not in skip] if name == "auto" else [name]:
        found = _find(candidate)
        if isinstance(found, Driver):
            why = "; ".join([*refusals, "the first choice" if candidate == NAMES[0] else "the next choice"])
            return found, f"auto: {why}" if name == "auto" else "set by the operator"
        refusals.append(found)
    raise RuntimeFailed(f"{'; '.join(refusals)}. Install one: apt-get install crun.")


def _native() -> Driver | str:
    release = os.uname().release
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < NATIVE_MIN_LINUX:
        return f"native needs Linux {'.'.join(map(str, NATIVE_MIN_LINUX))}, and this is {release}"
    return Driver(name=NATIVE, program=BUILT / LAUNCH, version=__version__)


def _find(name: str) -> Driver | str:
    """The driver of this name, or why it will not do."""
    if name == NATIVE:
        return _native()
    program = shutil.which(name, path=SEARCH_PATH)
    if program is None:
        return f"{name} is not installed"
    try:
        words = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"{name} does not work ({error})"
    match = re.search(r"version (\d+)\.(\d+)(\S*)", words)
    if match is None:
        return f"{name} does not say its version"
    if (int(match[1]), int(match[2])) < MIN_VERSIONS[name]:
        return f"{name} {match[1]}.{match[2]}{match[3]} is older than {'.'.join(map(str, MIN_VERSIONS[name]))}"
    return Driver(name=name, program=Path(program), version=f"{match[1]}.{match[2]}{match[3]}")


def _require_searchable(driver: Driver, directory: Path) -> None:
    for above in (directory, *directory.parents):
        if above.exists() and not above.stat().st_mode & stat.S_IXOTH:
            raise RuntimeFailed(
                f"{driver.name} cannot reach {directory}, as root in a container is nobody outside: chmod o+x {above}, "
                "or choose another state directory."
            )


def _nofile_max() -> int:
    """Raising it would need a capability (CAP_SYS_RESOURCE) that the worker can do without."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return sandbox.NOFILE_HARD if hard == resource.RLIM_INFINITY else min(hard, sandbox.NOFILE_HARD)
