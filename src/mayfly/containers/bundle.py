"""
What a container is, in the words of the OCI runtime specification: a pure function from a spec to config.json.

Everything here is for a process of the image, so nothing of the host shows: no host environment, no host paths, and
no device that the image brought along (the root is mounted nodev by `oci`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mayfly.containers.ids import IdRange
from mayfly.containers.runtime import ContainerSpec
from mayfly.domain import sandbox
from mayfly.domain.sandbox import Room
from mayfly.domain.secret import DIRECTORY

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# In the bundle's directory:
ROOT, HOSTS, RESOLV_CONF, SECRETS = "root", "hosts", "resolv.conf", "secrets"
CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
INIT, INIT_SOURCE = "/dev/mayfly-init", "../mayfly-init"


@dataclass(frozen=True, slots=True)
class Joined:
    """A network namespace that is there already: by which path it is opened, and where its /sys is mounted."""

    path: str
    sys: str


def oci_config(
    spec: ContainerSpec,
    *,
    ids: IdRange | None = None,
    nofile_max: int = sandbox.NOFILE_HARD,
    joined: Joined | None = None,
) -> dict[str, Any]:
    """
    Write the configuration of *spec*'s container, whose users are *ids*. It has a network namespace of its own, or the
    one *joined*.

    Paths are relative to the bundle's directory, as container root may not be able to search what is above it.
    """
    ids = ids or IdRange()
    return {
        "ociVersion": "1.0.2",
        "root": {"path": ROOT},
        "hostname": spec.id,
        "process": _process(spec, nofile_max),
        "mounts": [*_mounts(Room.of(spec.limits), joined), *([_secrets()] if spec.has_secret_files else [])],
        "linux": {
            "uidMappings": [_mapping(ids)],
            "gidMappings": [_mapping(ids)],
            "namespaces": _namespaces(ids, joined),
            "maskedPaths": list(sandbox.MASKED),
            "readonlyPaths": list(sandbox.READ_ONLY),
        },
    }


def _namespaces(ids: IdRange, joined: Joined | None) -> list[dict[str, str]]:
    """One of each kind: of two for the network, crun takes the last."""
    paths = {"user": ids.user_namespace_path, "network": joined.path if joined else None}
    return [{"type": kind} | ({"path": path} if (path := paths.get(kind)) else {}) for kind in sandbox.NAMESPACES]


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
        "noNewPrivileges": sandbox.NO_NEW_PRIVILEGES,
        "oomScoreAdj": sandbox.OOM_SCORE_ADJ,
        "capabilities": {kind: list(sandbox.CAPABILITIES) for kind in CAPABILITY_SETS},
        "rlimits": [
            {"type": "RLIMIT_CORE", "soft": sandbox.CORE_BYTES, "hard": sandbox.CORE_BYTES},
            {"type": "RLIMIT_NOFILE", "soft": min(sandbox.NOFILE_SOFT, nofile_max), "hard": nofile_max},
        ],
    }


def _mounts(room: Room, joined: Joined | None) -> list[dict[str, Any]]:
    size_of_dev, inodes_of_dev = f"size={sandbox.DEV_BYTES}", f"nr_inodes={sandbox.DEV_INODES}"
    made = [
        _mount("/proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "nosuid", "noexec", "mode=755", size_of_dev, inodes_of_dev),
        _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
        _mount(
            "/dev/shm",  # noqa: S108 - the container's
            "tmpfs",
            "nosuid",
            "noexec",
            "nodev",
            "mode=1777",
            f"size={room.shm_bytes}",
            f"nr_inodes={sandbox.SHM_INODES}",
        ),
        _sys(joined),
        _bind(INIT, INIT_SOURCE, "ro", "nosuid", "nodev"),
        _bind("/etc/hosts", HOSTS, "ro", "nosuid", "nodev", "noexec"),
    ]
    if joined:
        made.append(_bind("/etc/resolv.conf", RESOLV_CONF, "ro", "nosuid", "nodev", "noexec"))
    return made


def _sys(joined: Joined | None) -> dict[str, Any]:
    """
    A /sys shows one network namespace, and only who owns that may mount it: of one that is joined, and is not the
    container's own, it is bound. Left to itself, crun would bind the worker's.
    """
    if joined is None:
        return _mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro")
    return _bind("/sys", joined.sys, "ro", "nosuid", "nodev", "noexec")


def _secrets() -> dict[str, Any]:
    """The runtime follows links of the image within its root, so this hides a place in the container and no other."""
    return _bind(DIRECTORY, SECRETS, "ro", "nosuid", "nodev", "noexec")


def _mount(destination: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": list(options)}


def _bind(destination: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": source, "options": ["bind", *options]}


def _mapping(ids: IdRange) -> dict[str, int]:
    return {"containerID": 0, "hostID": ids.first, "size": sandbox.ID_COUNT}
