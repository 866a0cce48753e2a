"""
Containers by our own launcher: no container runtime, no files of a container outside of it.

A container's life here: a plan goes into the control socket, and the launcher (`launch.c`) makes of it a process 1 that
is a child of this process and holds the container; one frame makes it run. All that is mounted for it is in a mount
namespace that ends with its last process, so what is left to remove is its cgroup. (And, for a function with secrets as
files, the small tmpfs that those are written to from outside.)

Guarantees: those of `oci`. Process 1 is in the process group of the launcher, so both can be killed and reaped from the
first moment on, before anybody has said which process it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import tempfile
from dataclasses import replace
from pathlib import Path

from mayfly import __version__
from mayfly.containers import bundle, cgroups, frame, mounts, secret_files
from mayfly.containers.held import HeldContainer, first_words, settle
from mayfly.containers.local import REMOVE_DELAYS_S, LocalRuntime, Means
from mayfly.containers.native.plan import Plan
from mayfly.containers.runtime import Call, ContainerSpec
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.ids import UserId, new_id
from mayfly.domain.image import ProcessConfig
from mayfly.domain.limits import Limits
from mayfly.domain.sandbox import FIRST_HOST_ID

STAGE = "stage"
FAILURE, FAILURE_MAX_BYTES = b"F", 512
EXTRA_PIDS = 1  # process 1
INIT = "mayfly-init"
"""What it is called inside, where everybody can see its command line."""


class NotHere(RuntimeFailed):
    """This host does not let the launcher make containers."""


class NativeRuntime(LocalRuntime):
    """Starts containers by the launcher."""

    name = "native"
    version = __version__

    def __init__(self, means: Means) -> None:
        """
        Make the directory that each container's root is mounted on, in a mount namespace of its own.

        Raises: OSError.
        """
        super().__init__(means)
        self.stage = self.place.directory / STAGE
        self.stage.mkdir(mode=0o700)
        self.resolv_conf = self.place.directory / bundle.RESOLV_CONF
        if self.networks:
            self.resolv_conf.write_text(self.networks.resolv_conf, encoding="ascii")
        self.taken: set[str] = set()

    async def reap(self) -> int:
        """
        Do as all do, and see that a container can be made here: a kernel, a seccomp profile or a file system that
        refuses one step would refuse it in each call.

        Raises: NotHere; RuntimeFailed.
        """
        found = await super().reap()
        with tempfile.TemporaryDirectory(prefix=".try-", dir=self.images or self.place.directory) as image:
            os.chown(image, FIRST_HOST_ID, FIRST_HOST_ID)
            spec = ContainerSpec(
                id=new_id(), owner=UserId(new_id()), rootfs=Path(image), config=ProcessConfig(), limits=Limits()
            )
            try:
                container = await self.create(spec)
            except RuntimeFailed as error:
                raise NotHere(f"No container can be made here as MAYFLY_RUNTIME=native does: {error.detail}") from error
            await container.remove()
        return found

    def claim(self, spec: ContainerSpec) -> NativeContainer:
        if spec.id in self.taken:
            raise RuntimeFailed(f"There is a container {spec.id} already.")
        self.taken.add(spec.id)
        return NativeContainer(self, spec)


class NativeContainer(HeldContainer):
    """One container of the launcher."""

    _runtime: NativeRuntime

    def __init__(self, runtime: NativeRuntime, spec: ContainerSpec) -> None:
        super().__init__(runtime, spec)
        self._group_id = 0
        """The launcher's process id, and its process group: process 1 is in it, and nobody of the function's."""
        self._is_reaped = False
        """There is nobody left in the group, and its number may be another's."""
        self._init = 0
        self._init_code = 0
        self._plan: Plan | None = None
        self._environment = {"PATH": bundle.DEFAULT_PATH, **dict(spec.config.env)}

    @property
    def _secrets(self) -> Path:
        return self._runtime.place.directory / f"{self.id}.{bundle.SECRETS}"

    # --- creating -------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        runtime, spec, network = self._runtime, self._spec, self._network
        self._group, settings = runtime.groups.plan(spec.owner, self.id, spec.limits, extra_pids=EXTRA_PIDS)
        if spec.has_secret_files:
            secret_files.make_room(self._secrets)
        self._plan = Plan(
            spec=spec,
            ids=self._ids_now(),
            worker=os.getpid(),
            stage=runtime.stage,
            cgroups=self._group.directories,
            is_unified=runtime.groups.version == 2,
            settings=settings,
            nofile_max=runtime.nofile_max,
            hosts=bundle.hosts_file(spec),
            resolv_conf=runtime.resolv_conf if network else None,
            sys=network.sys if network else None,
            secrets=self._secrets if spec.has_secret_files else None,
            network=network.descriptor if network else None,
        )

    async def _spawn(self) -> None:
        assert self._plan is not None  # noqa: S101 - laid out before
        stdio = self._stdio
        message = self._plan.encode()
        if socket.send_fds(stdio.control, [message], self._plan.descriptors) < len(message):
            raise RuntimeFailed(f"The container's plan is too long: {len(message)} bytes.")
        self._group_id = stdio.spawn(self._runtime.programs.launch, [INIT], {})
        await self._readable(stdio.control)
        words, pid = first_words(stdio.control, FAILURE_MAX_BYTES)
        if words != frame.READY or pid is None:
            raise RuntimeFailed(f"native could not start the container: {self._why_not(words)}.")
        self._init = pid
        self._watch(pid)
        self._reap()  # mostly the launcher, which has no more to do

    async def _readable(self, file: socket.socket) -> None:
        seen: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(file, settle, seen)
        try:
            await seen
        finally:
            self._loop.remove_reader(file)

    def _why_not(self, words: bytes) -> str:
        if words[:1] == FAILURE:
            return words[1:].decode(errors="replace")
        refusal = frame.decode(words)
        if refusal is not None:
            return f"its plan is refused: {os.strerror(refusal.value)}"
        return self._stdio.words() or "the launcher ended without a word"

    # --- running --------------------------------------------------------------------------------------------------

    def _whole(self, call: Call) -> Call:
        return replace(call, env=(*self._environment.items(), *call.env))

    async def _exit_without_report(self) -> int:
        return self._init_code

    # --- ending ---------------------------------------------------------------------------------------------------

    def _on_death(self) -> None:
        super()._on_death()
        self._reap()

    def _kill_what_starts(self) -> None:
        if self._group_id and not self._is_reaped:
            os.killpg(self._group_id, signal.SIGKILL)

    def _reap(self) -> None:
        """Reap the launcher and process 1, as far as they have ended."""
        try:
            while not self._is_reaped:
                pid, status = os.waitpid(-self._group_id, os.WNOHANG)
                if not pid:
                    return
                if pid == self._init:
                    code = os.waitstatus_to_exitcode(status)
                    self._init_code = code if code >= 0 else 128 - code
        except ChildProcessError:
            self._is_reaped = True

    async def _clear(self) -> None:
        left: list[str] = []
        for delay_s in REMOVE_DELAYS_S:
            left = self._clear_once()
            if not left:
                self._runtime.taken.discard(self.id)
                return
            self._kill_what_starts()
            await asyncio.sleep(delay_s)
            cgroups.kill_all(self._group.directories)
        raise RuntimeFailed(f"Of container {self.id} there is left: {', '.join(left)}.")

    def _clear_once(self) -> list[str]:
        """Remove what can be removed; return what is left, in words. What is not there is fine."""
        if self._group_id:
            self._reap()
        left = [] if self._is_reaped or not self._group_id else ["a process"]
        left += [str(path) for path in cgroups.remove(self._group.directories)]
        if self._spec.has_secret_files:
            mounts.unmount(self._secrets, detach=True)  # its last user is dead
            with contextlib.suppress(FileNotFoundError):
                self._secrets.rmdir()
        return left
