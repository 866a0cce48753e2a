"""What the launcher is told of a container that it is to make; the other side is `struct plan` in `launch.c`."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from mayfly.containers.cgroups import Settings
from mayfly.containers.ids import IdRange
from mayfly.containers.runtime import ContainerSpec
from mayfly.domain import sandbox
from mayfly.domain.errors import RuntimeFailed

PROTOCOL = 0x4D460001
HAS_SHIFT, HAS_NETWORK, IS_UNIFIED = 1, 2, 4
MAX_STRINGS_BYTES = 1 << 20
HEADER = struct.Struct("=16I6Q")
PROFILE = b"".join(path.encode() + b"\0" for path in (*sandbox.MASKED, *sandbox.READ_ONLY))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One container, and where its parts are on this machine."""

    spec: ContainerSpec
    ids: IdRange
    worker: int
    """Our process id."""

    stage: Path
    """An empty directory; what the launcher mounts there, nobody else sees."""

    cgroups: tuple[Path, ...]
    """Directories to make and enter."""

    is_unified: bool
    """It is one directory, of version 2."""

    settings: Settings
    nofile_max: int
    hosts: str
    """The content of /etc/hosts."""

    resolv_conf: Path | None = None
    sys: Path | None = None
    """Where the /sys of a network namespace that is joined is mounted; without it the container mounts its own."""

    secrets: Path | None = None
    network: int | None = None
    """A descriptor of a network namespace to join."""

    @property
    def descriptors(self) -> list[int]:
        """What goes along with the message, in the order that the launcher takes them in."""
        given = (self.ids.user_namespace, self.ids.shift, self.network)
        return [descriptor for descriptor in given if descriptor is not None]

    def encode(self) -> bytes:
        """
        Write the message.

        Raises: RuntimeFailed when it does not fit.
        """
        spec, room = self.spec, sandbox.Room.of(self.spec.limits)
        process = spec.config
        strings = self._strings()
        if len(strings) > MAX_STRINGS_BYTES:
            raise RuntimeFailed(f"The container's paths are too long: {len(strings)} bytes.")
        return (
            HEADER.pack(
                PROTOCOL,
                self.worker,
                (HAS_SHIFT if self.ids.shift is not None else 0)
                | (HAS_NETWORK if self.network is not None else 0)
                | (IS_UNIFIED if self.is_unified else 0),
                process.uid,
                process.gid,
                self.ids.host_id(process.uid),
                self.ids.host_id(process.gid),
                len(process.groups),
                min(sandbox.NOFILE_SOFT, self.nofile_max),
                self.nofile_max,
                sandbox.OOM_SCORE_ADJ,
                len(self.cgroups),
                len(self.settings),
                len(sandbox.MASKED),
                len(sandbox.READ_ONLY),
                len(strings),
                room.scratch_bytes,
                room.scratch_inodes,
                room.shm_bytes,
                sandbox.SHM_INODES,
                sandbox.DEV_BYTES,
                sandbox.DEV_INODES,
            )
            + struct.pack(f"={len(process.groups)}I", *process.groups)
            + strings
        )

    def _strings(self) -> bytes:
        words: list[Path | str] = [self.stage, self.spec.rootfs, self.spec.id, self.spec.config.cwd, self.hosts]
        words += [self.resolv_conf or "", self.sys or "", self.secrets or "", *self.cgroups]
        words += [word for setting in self.settings for word in setting]
        return "\0".join(map(str, words)).encode("utf-8", "surrogateescape") + b"\0" + PROFILE
