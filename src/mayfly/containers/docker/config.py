"""
What a container is, in the words of the Engine API: a pure function from a spec to the body of /containers/create.

It asks for as much of `bundle`'s profile as a daemon offers. What a daemon does not offer (a user namespace of the
container's own, a size for its writable root) is said in docs/howto/run-on-docker.md.
"""

from __future__ import annotations

from typing import Any

from mayfly.containers.runtime import ContainerSpec
from mayfly.domain import sandbox
from mayfly.domain.sandbox import Room

INIT = "/mayfly-init"
"""Where `rootfs` puts the held init into every root."""

OWNER_LABEL = "mayfly.worker"

EXTRA_PIDS = 1  # the init
STARTING_PIDS = 24  # runc has so many threads for a moment, inside
CPU_PERIOD_US = 100_000
CPU_SHARES = 128  # of 1024: everything else on the machine goes first


def container_name(container_id: str) -> str:
    """The container's name at the daemon."""
    return f"mayfly-{container_id}"


def pids_limit(spec: ContainerSpec) -> int:
    """Processes and threads, the init's included."""
    return spec.limits.pids + EXTRA_PIDS


def container_config(spec: ContainerSpec, *, image: str, owner: str, has_tmp: bool) -> dict[str, Any]:
    """Write the configuration; *has_tmp*: the image has files in /tmp, so nothing may be mounted there."""
    config = spec.config
    return {
        "Image": image,
        "Hostname": spec.id,
        "User": f"{config.uid}:{config.gid}",
        "WorkingDir": config.cwd,
        "Entrypoint": [INIT],
        "Cmd": ["stdio", spec.id],
        "Env": [f"{name}={value}" for name, value in config.env if name == "HOME"],  # the rest goes with the call
        "Labels": {OWNER_LABEL: owner},
        "OpenStdin": True,
        "StdinOnce": True,  # the end of our connection is the end of stdin, and so of the container
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": False,
        "HostConfig": _host_config(spec, has_tmp=has_tmp),
    }


def _host_config(spec: ContainerSpec, *, has_tmp: bool) -> dict[str, Any]:
    limits, room = spec.limits, Room.of(spec.limits)
    tmp = f"rw,exec,nosuid,nodev,mode=1777,size={room.scratch_bytes},nr_inodes={room.scratch_inodes}"
    return {
        "NetworkMode": "none",
        "ExtraHosts": [f"{spec.id}:127.0.0.1"],
        "Dns": ["127.0.0.1"],  # else the host's resolv.conf shows
        "DnsSearch": ["."],
        "GroupAdd": [str(group) for group in spec.config.groups],
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],  # the daemon's seccomp profile stays, below ours
        "Privileged": False,
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes + sandbox.SWAP_BYTES,
        "CpuPeriod": CPU_PERIOD_US,
        "CpuQuota": round(limits.cpus * CPU_PERIOD_US),
        "CpuShares": CPU_SHARES,
        "PidsLimit": max(pids_limit(spec), STARTING_PIDS),
        # Open files are limited by the init: it can lower what the daemon has, and the daemon may not raise it.
        "Ulimits": [{"Name": "core", "Soft": sandbox.CORE_BYTES, "Hard": sandbox.CORE_BYTES}],
        "ShmSize": room.shm_bytes,
        "Tmpfs": {} if has_tmp else {"/tmp": tmp},  # noqa: S108 - the container's
        "OomScoreAdj": sandbox.OOM_SCORE_ADJ,
        "MaskedPaths": list(sandbox.MASKED),
        "ReadonlyPaths": list(sandbox.READ_ONLY),
        "LogConfig": {"Type": "none"},
        "RestartPolicy": {"Name": "no"},
        "Init": False,
        "AutoRemove": False,
    }
