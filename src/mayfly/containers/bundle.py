"""
What a container is, in the words of the OCI runtime specification: a pure function from a spec to config.json.

Everything here is for a process of the image, so nothing of the host shows: no host environment, no host paths, and
no device that the image brought along (the root is mounted nodev by `oci`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mayfly.containers.runtime import ContainerSpec
from mayfly.domain.limits import MIB, SCRATCH_INODES, Limits

FIRST_HOST_ID, ID_COUNT = 100_000, 65_536
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ROOT, HOSTS = "root", "hosts"  # in the bundle's directory
INIT, INIT_SOURCE = "/dev/mayfly-init", "../mayfly-init"
NOFILE_SOFT, NOFILE_HARD = 1024, 65_536

MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

INODE_BYTES = 2048  # kernel memory of a file in the scratch layer, measured: 35 MB for 16,384 empty ones
PLAIN_INODE_BYTES = 1024  # the same without an overlay above
DEV_BYTES, DEV_INODES = 64 * 1024, 128
SHM_MAX_BYTES, SHM_INODES = 64 * MIB, 1024


@dataclass(frozen=True, slots=True)
class Room:
    """Sizes of what a function can fill: its writable layer and /dev/shm."""

    scratch_bytes: int
    scratch_inodes: int
    shm_bytes: int

    @classmethod
    def of(cls, limits: Limits) -> Room:
        """
        Share out the memory limit less 16 MiB, so that filling all of it, inodes too, is ENOSPC and not a kill.

        That matters beyond the function: memory held by a tmpfs is not freed by killing, so the kernel would go on to
        kill the runtime too. A large function has the full SCRATCH_BYTES and SCRATCH_INODES, a small one its share.
        """
        budget = limits.memory_bytes - 16 * MIB
        scratch = min(limits.scratch_bytes, budget * 4 // 7)
        inodes = min(SCRATCH_INODES, budget * 2 // 7 // INODE_BYTES)
        left = budget - scratch - inodes * INODE_BYTES - DEV_BYTES - (DEV_INODES + SHM_INODES) * PLAIN_INODE_BYTES
        return cls(scratch, inodes, min(SHM_MAX_BYTES, left) & ~4095)


def oci_config(spec: ContainerSpec, *, nofile_max: int = NOFILE_HARD) -> dict[str, Any]:
    """
    Write the configuration of *spec*'s container.

    Paths are relative to the bundle's directory, as container root may not be able to search what is above it.
    """
    return {
        "ociVersion": "1.0.2",
        "root": {"path": ROOT},
        "hostname": spec.id,
        "process": _process(spec, nofile_max),
        "mounts": _mounts(Room.of(spec.limits)),
        "linux": {
            "uidMappings": [_mapping()],
            "gidMappings": [_mapping()],
            "namespaces": [{"type": kind} for kind in ("user", "pid", "mount", "network", "ipc", "uts", "cgroup")],
            "maskedPaths": list(MASKED),
            "readonlyPaths": list(READ_ONLY),
        },
    }


def hosts_file(spec: ContainerSpec) -> str:
    """The container's /etc/hosts: itself, and nobody else."""
    return f"127.0.0.1\tlocalhost {spec.id}\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def _process(spec: ContainerSpec, nofile_max: int) -> dict[str, Any]:
    env = dict(spec.config.env)
    env.setdefault("PATH", DEFAULT_PATH)  # HOME is set by the runtime, from the image's /etc/passwd, if it is missing
    return {
        "args": [INIT],
        "env": [f"{name}={value}" for name, value in env.items()],
        "cwd": spec.config.cwd,
        "user": {"uid": spec.config.uid, "gid": spec.config.gid, "additionalGids": list(spec.config.groups)},
        "noNewPrivileges": True,
        "oomScoreAdj": 1000,
        "capabilities": {kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")},
        "rlimits": [
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            {"type": "RLIMIT_NOFILE", "soft": min(NOFILE_SOFT, nofile_max), "hard": nofile_max},
        ],
    }


def _mounts(room: Room) -> list[dict[str, Any]]:
    return [
        _mount("/proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "nosuid", "noexec", "mode=755", f"size={DEV_BYTES}", f"nr_inodes={DEV_INODES}"),
        _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
        _mount(
            "/dev/shm",  # noqa: S108 - the container's
            "tmpfs",
            "nosuid",
            "noexec",
            "nodev",
            "mode=1777",
            f"size={room.shm_bytes}",
            f"nr_inodes={SHM_INODES}",
        ),
        _mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        _bind(INIT, INIT_SOURCE, "ro", "nosuid", "nodev"),
        _bind("/etc/hosts", HOSTS, "ro", "nosuid", "nodev", "noexec"),
    ]


def _mount(destination: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": list(options)}


def _bind(destination: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": source, "options": ["bind", *options]}


def _mapping() -> dict[str, int]:
    return {"containerID": 0, "hostID": FIRST_HOST_ID, "size": ID_COUNT}
