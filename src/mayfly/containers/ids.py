"""
Who a container's processes are on the machine: users of a range of its own while it lives, or of one range for all.

The kernel counts some things by user and not by container: pages of pipes, descriptors in flight, watches, queued
signals. With a range of its own, and a user namespace made by that range's first user, a function uses up its own share
of them and nobody else's.

Images are unpacked once, for FIRST_HOST_ID. Under a container's root they are mounted with their ids shifted to its
own. That needs Linux 5.19, and a file system that can be mounted so; where it cannot be had, all containers have the
range of the images.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from mayfly.containers import mounts
from mayfly.containers.id_blocks import Blocks
from mayfly.domain.sandbox import FIRST_HOST_ID, ID_COUNT, OWN_HOST_IDS

log = structlog.get_logger()

READY_MAX = 16  # ranges that are made at the start, some 4 ms each; more are when they are wanted
MAPS = ("uid_map", "gid_map", "projid_map")
"""Of a user namespace, each written once. The last, if we did not, could be by anybody inside, for others to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdRange:
    """The users of one container."""

    first: int = FIRST_HOST_ID
    """Root."""

    user_namespace: int | None = None
    """The namespace that the container joins, as a descriptor; without it the runtime makes one."""

    shift: int | None = None
    """A descriptor of a user namespace whose maps lead from the images' ids to these; without it they are the same."""

    @property
    def user_namespace_path(self) -> str | None:
        """By which a runtime opens it."""
        return None if self.user_namespace is None else f"/proc/{os.getpid()}/fd/{self.user_namespace}"

    @contextmanager
    def layer(self, rootfs: Path, *, at: Path) -> Iterator[Path]:
        """
        Have the unpacked image at *rootfs* as one of this range, long enough to mount an overlay above, which keeps it.
        The directory *at* is made for that.

        Raises: OSError.
        """
        if self.shift is None:
            yield rootfs
            return
        at.mkdir()
        mounts.bind_shifted(rootfs, at, user_namespace=self.shift)
        try:
            yield at
        finally:
            mounts.unmount(at, detach=True)

    def host_id(self, container_id: int) -> int:
        """Say who a user or group of the container is on the machine."""
        return self.first + container_id


class SharedIds:
    """
    One range for all. Where containers join their user namespaces, each has one of its own all the same: a limit of
    queued signals, for one, is compared with what is queued in the namespace.
    """

    def __init__(self, program: Path | None = None) -> None:
        """
        *program* makes the namespaces that containers join, the first of them now; without it the runtime makes them.

        Raises: OSError.
        """
        self._program = program
        self._free: deque[IdRange] = deque()
        self._descriptors = ExitStack()
        self.give_back(self.take())

    def take(self) -> IdRange:
        """
        Take it, with a namespace that nobody else has.

        Raises: OSError.
        """
        if self._program is None:
            return IdRange()
        return self._free.popleft() if self._free else self._make(self._program)

    def give_back(self, ids: IdRange) -> None:
        """Let another container have the namespace, as no process is in it any more."""
        if ids.user_namespace is not None:
            self._free.append(ids)

    def close(self) -> None:
        """Close the namespaces. No container may be in one."""
        self._free.clear()
        self._descriptors.close()

    def _make(self, program: Path) -> IdRange:
        joined = user_namespace(program, maker=FIRST_HOST_ID, inside=0, outside=FIRST_HOST_ID)
        self._descriptors.callback(os.close, joined)
        return IdRange(user_namespace=joined)


class OwnIds:
    """A range for each container."""

    def __init__(self, program: Path, *, is_joined: bool) -> None:
        """Have none yet. *program* makes user namespaces, also those of containers if they are to be joined."""
        self._program = program
        self._is_joined = is_joined
        self._blocks: Blocks | None = None
        self._unmade: deque[int] = deque()  # where ranges of our blocks begin
        self._free: deque[IdRange] = deque()
        self._descriptors = ExitStack()

    def open(self, count: int, *, images: Path, directory: Path) -> None:
        """
        Make *count*, at most READY_MAX, and see in *directory* whether what is in *images* can be theirs.

        Raises: OSError when it cannot; nothing is left then.
        """
        try:
            images.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._blocks = Blocks(images / "users", OWN_HOST_IDS)
            self._free.extend(self._make() for _ in range(min(count, READY_MAX)))
            _try(self._free[0], images=images, directory=directory)
        except OSError:
            self.close()
            raise

    def take(self) -> IdRange:
        """
        Take a range that nobody else has: the longest unused, as the kernel may still be cleaning up after its last
        process; a new one when none is free.

        Raises: OSError.
        """
        return self._free.popleft() if self._free else self._make()

    def give_back(self, ids: IdRange) -> None:
        """Let another container have it, as no process has it any more."""
        self._free.append(ids)

    def close(self) -> None:
        """Give back all of it. No container may have any."""
        self._free.clear()
        self._descriptors.close()
        if self._blocks:
            self._blocks.close()

    def _make(self) -> IdRange:
        if not self._unmade and self._blocks:
            self._unmade.extend(self._blocks.take())
        first = self._unmade[0]
        with ExitStack() as made:
            shift = self._namespace(made, maker=0, inside=FIRST_HOST_ID, first=first)
            # All containers of a range have this one after the other: its maps are written, and for all else that could
            # be changed for the next one they lack the capability. The kernel counts for its maker, too, what is used
            # in it; that must not be root.
            joined = self._namespace(made, maker=first, inside=0, first=first) if self._is_joined else None
            self._descriptors.push(made.pop_all())
        self._unmade.popleft()
        return IdRange(first=first, user_namespace=joined, shift=shift)

    def _namespace(self, made: ExitStack, *, maker: int, inside: int, first: int) -> int:
        descriptor = user_namespace(self._program, maker=maker, inside=inside, outside=first)
        made.callback(os.close, descriptor)
        return descriptor


Ids = OwnIds | SharedIds


def _try(ids: IdRange, *, images: Path, directory: Path) -> None:
    """
    Mount what a container would, and look whose it is.

    Raises: OSError when that is refused or does not come out.
    """
    with tempfile.TemporaryDirectory(prefix=".try-", dir=images) as name, ExitStack() as undo:
        (Path(name) / "file").touch()
        for path in (Path(name), Path(name) / "file"):
            os.chown(path, FIRST_HOST_ID, FIRST_HOST_ID)
        directory.mkdir(mode=0o700)
        undo.callback(directory.rmdir)
        mounts.mount("mayfly", directory, "tmpfs")
        undo.callback(mounts.unmount, directory)
        upper, work, root = (directory / each for each in ("upper", "work", "root"))
        for each in (upper, work, root):
            each.mkdir()
        with ids.layer(Path(name), at=directory / "lower") as lower:
            mounts.mount_overlay(root, lower=lower, upper=upper, work=work, flags=0)
            undo.callback(mounts.unmount, root)
        owner = (root / "file").stat().st_uid
        if owner != ids.first:
            raise OSError(f"a file of user {FIRST_HOST_ID} that was shifted to {ids.first} is {owner}'s")


def user_namespace(program: Path, *, maker: int, inside: int, outside: int) -> int:
    """
    Make a user namespace as user *maker*, and return a descriptor of it: ID_COUNT users, groups and projects from
    *inside* on are those from *outside* on.

    Raises: OSError.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)]
        child = os.posix_spawn(program, [str(program), str(maker)], {}, file_actions=actions)
    received: list[int] = []
    try:
        with ours:  # the child ends when it is closed
            _, received, _, _ = socket.recv_fds(ours, 1, 1)
            for descriptor in received:
                os.set_inheritable(descriptor, False)  # received ones are inherited
            for kind in MAPS if received else ():
                Path(f"/proc/{child}/{kind}").write_text(f"{inside} {outside} {ID_COUNT}", encoding="ascii")
    except OSError:
        for descriptor in received:
            os.close(descriptor)
        raise
    finally:
        os.waitpid(child, 0)
    if not received:
        raise OSError(f"{program.name} could make no user namespace for user {maker}; it said why")
    return received[0]
