"""A function with the sandbox that its calls run in, read from where it is applied from. Rows: F4, F9."""

from __future__ import annotations

from mayfly.api.shapes import FunctionShape, Shape
from mayfly.domain import sandbox
from mayfly.domain.function import Function, Network
from mayfly.domain.limits import Limits
from mayfly.domain.sandbox import Room


class SandboxShape(Shape):
    """
    What each call of a function is held in. So a worker does it that starts containers itself, by native, crun or runc;
    what is lost where a Docker daemon does that is in `lost_with_docker`, and where there are no containers, in
    `lost_with_confined`.
    """

    namespaces: list[str]
    """What a call has of its own."""

    first_host_id: int
    """The user on the machine whose the unpacked images are, and who root in a container is where ids are shared."""

    ids: int
    """How many user and group ids a container has."""

    host_ids: str
    """Which those are on the machine."""

    capabilities: list[str]
    """Of all five sets."""

    no_new_privileges: bool
    """Set-user-id files and capabilities of files give nothing."""

    denied_system_calls: list[str]
    """Refused on top of what the installed seccomp profile of containers-common refuses, which is everything that it
    does not name."""

    socket_families: list[str]
    """The only ones."""

    masked_paths: list[str]
    """Empty, whatever the kernel has there."""

    read_only_paths: list[str]
    """What can be read of the kernel's, and not written; all of /sys as well."""

    memory_bytes: int
    """Files that a call writes count as memory."""

    swap_bytes: int
    """Swap beside the memory."""

    writable_bytes: int
    """Room in the writable layer over the image, part of the memory."""

    writable_inodes: int
    """Files and directories in it."""

    shared_memory_bytes: int
    """Room in /dev/shm, part of the memory."""

    cpus: float
    """
    At most, and less where the worker's machine has less: all calls together leave a quarter of a core, and what they
    have is shared out evenly among the users who have any.
    """

    pids: int
    """Processes and threads."""

    open_files: int
    """Of one process; fewer where the worker itself may have fewer."""

    open_files_max: int
    """How far a process may raise it; no further than the worker itself may."""

    core_bytes: int
    """The size of a core dump."""

    signals_pending: int
    """Signals and timers that wait, of all processes together; fewer where the worker itself may have fewer."""

    reaches: str
    """What a call can reach. Which addresses the operator allows or denies is the workers' setting, and not shown."""

    lost_with_docker: dict[str, str]
    """What does not hold where a worker has a Docker daemon start its containers, and what there is instead."""

    lost_with_confined: dict[str, str]
    """What does not hold where a worker has no privileges and runs calls as confined processes, and what there is
    instead."""

    @classmethod
    def of(cls, limits: Limits, network: Network) -> SandboxShape:
        """Show the profile with these limits and this network."""
        room = Room.of(limits)
        return cls(
            namespaces=list(sandbox.NAMESPACES),
            first_host_id=sandbox.FIRST_HOST_ID,
            ids=sandbox.ID_COUNT,
            host_ids=sandbox.HOST_IDS,
            capabilities=list(sandbox.CAPABILITIES),
            no_new_privileges=sandbox.NO_NEW_PRIVILEGES,
            denied_system_calls=sorted(sandbox.DENIED_CALLS),
            socket_families=list(sandbox.SOCKET_FAMILIES),
            masked_paths=list(sandbox.MASKED),
            read_only_paths=list(sandbox.READ_ONLY),
            memory_bytes=limits.memory_bytes,
            swap_bytes=sandbox.SWAP_BYTES,
            writable_bytes=room.scratch_bytes,
            writable_inodes=room.scratch_inodes,
            shared_memory_bytes=room.shm_bytes,
            cpus=float(limits.cpus),
            pids=limits.pids,
            open_files=sandbox.NOFILE_SOFT,
            open_files_max=sandbox.NOFILE_HARD,
            core_bytes=sandbox.CORE_BYTES,
            signals_pending=sandbox.SIGNALS_PENDING,
            reaches=sandbox.REACHED[network],
            lost_with_docker=dict(sandbox.LOST_WITH_DOCKER),
            lost_with_confined=dict(sandbox.LOST_WITH_CONFINED),
        )


class FunctionDetail(FunctionShape):
    """A function, and what its calls are held in."""

    sandbox: SandboxShape
    """What its calls are held in."""

    @classmethod
    def of(cls, function: Function) -> FunctionDetail:
        """Show a function."""
        shown = FunctionShape.of(function)
        return cls(**dict(shown), sandbox=SandboxShape.of(function.limits, function.network))
