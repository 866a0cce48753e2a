"""
What every way of running a container promises: the protocol, and the values that cross it.

A container is created (held: its root, limits and init are there, its command has not started), runs one call, and is
removed. Nothing here starts anything: `native` does by our own launcher, `oci` with crun or runc; `fake` pretends to,
for unit tests of the worker.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mayfly.domain.function import Network
from mayfly.domain.ids import UserId
from mayfly.domain.image import ProcessConfig
from mayfly.domain.limits import Limits

NO_EGRESS = (
    "The function has `network: egress`, and the worker that was to run it gives functions no network but their own "
    "loopback. The operator can change that: MAYFLY_EGRESS=on, for every worker."
)
"""Why `create` fails where `offers_egress` is false."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """All that is known of a container before the call that will use it."""

    id: str
    """Random, `[a-z0-9]{20,32}`, never used before: also not by an earlier worker on this machine."""

    owner: UserId
    """Whose function it is. Processor time is shared out by owner."""

    rootfs: Path
    """The unpacked image, its ownership shifted to FIRST_HOST_ID and up; only ever a lower layer."""

    config: ProcessConfig
    """Environment, working directory, user and groups (the container's ids) that the image asks for."""

    limits: Limits
    """Memory, cpu, processes. The time limit belongs to the call."""

    network: Network = Network.NONE
    """Whether it has more than a loopback."""

    has_secret_files: bool = False
    """Whether the call may bring files for /run/secrets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The one thing that a container will do."""

    argv: tuple[str, ...]
    """The whole command line, the parameter included when it goes by argument."""

    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Additions to the image's environment. A later one wins, over the image's as well."""

    files: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)
    """Files of these names in /run/secrets, for the image's user to read; nothing writes there."""

    stdin: bytes = b""
    """Written to the command, then end of file."""


class EndReason(enum.Enum):
    """Why a call ended."""

    EXITED = "exited"  # by itself, whatever its exit code
    TIMED_OUT = "timed-out"  # killed at its deadline
    OUT_OF_MEMORY = "out-of-memory"  # the kernel killed a process of it at its memory limit
    NO_MEMORY_LEFT = (
        "no-memory-left"  # the same below its limit: at the worker's, which all its calls share, or the machine's
    )
    RESULT_TOO_LARGE = "result-too-large"  # killed when stdout exceeded RESULT_MAX_BYTES
    CANCELLED = "cancelled"  # killed by `kill()`


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a call ended, and what it left. Times count from the moment the command was sent into the container."""

    reason: EndReason
    exit_code: int | None
    """None when it did not end by itself. 128+n for signal n; 127 or 126 when the command was not there or could
    not be run, and then the end of stderr says which."""

    stdout: bytes
    """Complete when EXITED; never anything of ours."""

    stderr: bytes
    """The last STDERR_MAX_BYTES, with a mark in front when it was more."""

    stderr_truncated: bool
    cpu_us: int
    """CPU time of the whole process tree during the call, user and system."""

    memory_peak_bytes: int
    start_s: float
    """Until the first byte of output, or the end if there was none."""

    run_s: float
    """Until every process of the container was dead."""


class Container(Protocol):
    """One container, used once."""

    @property
    def id(self) -> str:
        """The id of its spec."""
        ...

    async def run(self, call: Call, *, timeout_s: float) -> Ending:
        """
        Run the container's command; return when every process of the container is dead. Once only.

        A cancelled `run` kills the container and re-raises once it is dead.

        Raises: RuntimeFailed with `ran="no"` when the command certainly did not start, `ran="unknown"` otherwise.
        """
        ...

    def kill(self) -> None:
        """Kill the container, at any time, idempotent: a running one ends as CANCELLED, a held one just dies."""
        ...

    async def remove(self) -> None:
        """
        Remove processes, mount, cgroup and directory, and verify that they are gone. Idempotent.

        Raises: RuntimeFailed when something is left after bounded retries.
        """
        ...


class Runtime(Protocol):
    """What starts containers on this machine."""

    @property
    def name(self) -> str:
        """The driver's word for itself, as `choose_runtime` takes it: native, crun, runc."""
        ...

    @property
    def version(self) -> str:
        """The version of the program underneath."""
        ...

    @property
    def offers_egress(self) -> bool:
        """Whether `create` takes a spec with `network: egress`."""
        ...

    @property
    def home(self) -> str:
        """
        Names where `reap` has looked. Whoever had its containers under the same name has none any more; another name
        says nothing of them. Known once `reap` has returned.
        """
        ...

    async def create(self, spec: ContainerSpec) -> Container:
        """
        Make a held container: its command has not started.

        Raises: RuntimeFailed with the runtime's own words; nothing of it is left then.
        """
        ...

    async def reap(self) -> int:
        """Remove what a dead incarnation of this worker left; return the number of containers. Call before `create`."""
        ...

    async def close(self) -> None:
        """Give back what the runtime itself holds. Its containers must have been removed."""
        ...
