"""
A container whose process 1 is ours (`native/hold.h`), whoever made it: running its one call, and its end.

The init's process descriptor says when the last process of the container is dead: it is readable only after the kernel
has reaped everything in its pid namespace, and a pipe then holds all that will ever come.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from mayfly.containers import cgroups, frame, secret_files
from mayfly.containers.ids import IdRange
from mayfly.containers.local import REMOVE_DELAYS_S, LocalRuntime
from mayfly.containers.removal import finish
from mayfly.containers.runtime import NO_EGRESS, Call, ContainerSpec, Ending, EndReason
from mayfly.containers.stdio import Stdio
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.function import Network

if TYPE_CHECKING:  # netlink takes 0.1 s to import
    from mayfly.containers.egress.namespace import Namespace

CREATE_TIMEOUT_S = 30.0
DEATH_TIMEOUT_S = 10.0  # from SIGKILL to death; only a process stuck in the kernel takes longer than milliseconds

_CREDENTIALS = struct.Struct("=3i")


class HeldContainer(ABC):
    """One container, from its claim to its removal."""

    def __init__(self, runtime: LocalRuntime, spec: ContainerSpec) -> None:
        """Nothing is there yet."""
        self.id = spec.id
        self._runtime = runtime
        self._spec = spec
        self._loop = asyncio.get_running_loop()
        self._group: cgroups.Cgroup = runtime.groups.of(spec.owner, spec.id)
        self._ids: IdRange | None = None
        self._network: Namespace | None = None
        self._open_stdio: Stdio | None = None
        self._init_fd = -1
        self._dead: asyncio.Future[None] = self._loop.create_future()
        self._is_used = False
        self._is_killed = False
        self._reason: EndReason | None = None
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._removing = asyncio.Lock()
        self._is_removed = False

    # --- what differs ---------------------------------------------------------------------------------------------

    @abstractmethod
    def _lay_out(self) -> None:
        """
        Make what the container needs before it is started.

        Raises: OSError.
        """

    @abstractmethod
    async def _spawn(self) -> None:
        """
        Start it, and return when its init holds it.

        Raises: RuntimeFailed, OSError.
        """

    @abstractmethod
    async def _exit_without_report(self) -> int:
        """
        Say with what exit code the init ended that could not say how the command did.

        Raises: RuntimeFailed.
        """

    @abstractmethod
    def _kill_what_starts(self) -> None:
        """Kill whoever is about to start the init, if somebody is."""

    @abstractmethod
    async def _clear(self) -> None:
        """
        Remove all that is left of a dead container, but its users and network, and see that it is gone.

        Raises: RuntimeFailed when something is left after bounded retries.
        """

    @property
    @abstractmethod
    def _secrets(self) -> Path:
        """Where the files of a call are written."""

    def _ours_inside(self) -> set[int]:
        """Processes in the container's cgroup that are not the container's."""
        return set()

    # --- creating -------------------------------------------------------------------------------------------------

    async def make(self) -> None:
        """
        Make it, as far as `create` promises.

        Raises: RuntimeFailed, OSError.
        """
        self._ids = self._runtime.ids.take()
        await self._join_network()
        self._lay_out()
        self._open_stdio = stdio = Stdio(on_too_large=lambda: self._stop(EndReason.RESULT_TOO_LARGE))
        stdio.control.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        try:
            async with asyncio.timeout(CREATE_TIMEOUT_S):
                await self._spawn()
        except TimeoutError:
            raise RuntimeFailed(
                f"{self._runtime.name} did not start the container in {CREATE_TIMEOUT_S:.0f} s."
            ) from None

    async def _join_network(self) -> None:
        """Take a network namespace, if the function is to have more than a loopback."""
        if self._spec.network is Network.NONE:
            return
        if self._runtime.networks is None:
            raise RuntimeFailed(NO_EGRESS)
        self._network = await self._runtime.networks.take()

    def _ids_now(self) -> IdRange:
        assert self._ids is not None  # noqa: S101 - taken first of all
        return self._ids

    @property
    def _stdio(self) -> Stdio:
        assert self._open_stdio is not None  # noqa: S101 - open since creation
        return self._open_stdio

    def _watch(self, init: int) -> None:
        """Take the process *init* for process 1 of the container."""
        self._init_fd = os.pidfd_open(init)
        self._loop.add_reader(self._init_fd, self._on_death)

    # --- running --------------------------------------------------------------------------------------------------

    async def run(self, call: Call, *, timeout_s: float) -> Ending:
        message = frame.encode(self._whole(call), self._runtime.seccomp_program)
        if self._is_used or self._is_killed or self._dead.done():
            raise RuntimeFailed("The container has been used or has ended already.")
        self._is_used = True
        self._write_files(call)
        self._is_idle.clear()
        try:
            return await self._run(message, call.stdin, timeout_s)
        finally:
            self._is_idle.set()

    def _whole(self, call: Call) -> Call:
        """*call* with what the init does not have already."""
        return call

    def _write_files(self, call: Call) -> None:
        if not call.files:
            return
        if not self._spec.has_secret_files:
            raise RuntimeFailed("The container was made without room for files.")
        try:
            secret_files.write(self._secrets, call.files, self._spec.config, self._ids_now())
        except OSError as error:
            raise RuntimeFailed(f"A secret could not be put into the container: {error.strerror}.") from error

    async def _run(self, message: bytes, stdin: bytes, timeout_s: float) -> Ending:
        cpu_before_us = self._group.cpu_us()
        started_at = time.monotonic()
        deadline = self._loop.call_later(timeout_s, self._stop, EndReason.TIMED_OUT)
        try:
            await self._hand_over(message, stdin)
            await self._wait_for_death()
        finally:
            deadline.cancel()
        ended_at = time.monotonic()
        await self._verify_death()
        ending = await self._ending(cpu_before_us=cpu_before_us, started_at=started_at, ended_at=ended_at)
        self._close_stdio()
        return ending

    async def _hand_over(self, message: bytes, stdin: bytes) -> None:
        try:
            await self._stdio.hand_over(message, stdin)
        except OSError as error:
            if self._reason is None:
                raise RuntimeFailed(f"The held container had died: {error}.") from error
        except asyncio.CancelledError:
            self.kill()
            await self._wait_for_death()
            raise

    async def _wait_for_death(self) -> None:
        """Return when the kernel has reaped the last process, however often we are cancelled meanwhile."""
        try:
            await asyncio.shield(self._dead)
        except asyncio.CancelledError:
            self.kill()
            await finish(asyncio.ensure_future(asyncio.wait({self._dead}, timeout=DEATH_TIMEOUT_S)))
            if not self._dead.done():
                raise TimeoutError from None
            raise

    async def _verify_death(self) -> None:
        """
        Look whether the cgroup agrees. Of several hierarchies one is enough: nobody inside can leave any.

        Raises: RuntimeFailed when something in it cannot be killed.
        """
        directories = self._group.directories
        for delay_s in REMOVE_DELAYS_S:
            if not cgroups.pids_in(directories[:1]) - self._ours_inside():
                return
            await asyncio.sleep(delay_s)
            cgroups.kill_all(directories)
        raise RuntimeFailed("A process of the container cannot be killed.", ran="yes")

    async def _ending(self, *, cpu_before_us: int, started_at: float, ended_at: float) -> Ending:
        self._stdio.drain()
        report = self._report()
        reason = self._why(report)
        code = await self._exit_code(report) if reason is EndReason.EXITED else None
        return Ending(
            reason=reason,
            exit_code=code,
            stdout=self._stdio.result.hand_out(),
            stderr=self._stdio.tail.content(),
            stderr_truncated=self._stdio.tail.is_truncated,
            cpu_us=max(0, self._group.cpu_us() - cpu_before_us),
            memory_peak_bytes=self._group.memory_peak_bytes(),
            start_s=min(self._stdio.first_byte_at or ended_at, ended_at) - started_at,
            run_s=ended_at - started_at,
        )

    def _why(self, report: frame.Report | None) -> EndReason:
        """What came first is the reason, but a command that had ended before it could be killed did end by itself."""
        if self._reason is EndReason.CANCELLED and report is None:
            return EndReason.CANCELLED
        if self._group.oom_kills():
            return EndReason.OUT_OF_MEMORY if self._group.has_met_its_limit() else EndReason.NO_MEMORY_LEFT
        if self._stdio.result.is_too_large:
            return EndReason.RESULT_TOO_LARGE
        return EndReason.EXITED if report is not None or self._reason is None else self._reason

    async def _exit_code(self, report: frame.Report | None) -> int:
        if report is not None and report.kind == frame.REFUSED:
            raise RuntimeFailed(f"The held init refused its frame: {os.strerror(report.value)}.")
        if report is not None:
            return report.exit_code
        # The init itself was killed: by the function (with a limit on its cpu time, say), or from outside, and then it
        # may have been before the function began. What it has written says that it ran.
        code = await self._exit_without_report()
        if code > 128 and self._stdio.first_byte_at is not None:
            return code
        raise RuntimeFailed(f"The container's processes vanished ({self._runtime.name}: {code}).", ran="unknown")

    def _report(self) -> frame.Report | None:
        try:
            return frame.decode(self._stdio.control.recv(frame.REPORT_BYTES))
        except OSError:
            return None

    # --- ending ---------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        self._is_killed = True
        self._stop(EndReason.CANCELLED)

    def _stop(self, reason: EndReason) -> None:
        """Kill process 1, and with it everything; the first reason stands."""
        self._reason = self._reason or reason
        if self._init_fd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init_fd, signal.SIGKILL)
        else:
            self._kill_what_starts()

    def _on_death(self) -> None:
        self._loop.remove_reader(self._init_fd)
        settle(self._dead)

    async def remove(self) -> None:
        async with self._removing:
            if self._is_removed:
                return
            self.kill()
            await self._is_idle.wait()  # a running call reads what it wrote to the end
            self._close_stdio()
            await self._clear()
            self._leave_network()
            self._give_back_ids()
            self._forget_init()
            self._runtime.groups.forget(self._spec.owner, self.id)
            self._is_removed = True

    def _leave_network(self) -> None:
        """Only now that no process is in it: one that was given away while it is used would be another's as well."""
        if self._network and self._runtime.networks:
            self._runtime.networks.retire(self._network)
            self._network = None

    def _give_back_ids(self) -> None:
        """Only now, as well: two containers with the same users would have the same quotas."""
        if self._ids is not None:
            self._runtime.ids.give_back(self._ids)
            self._ids = None

    def _close_stdio(self) -> None:
        if self._open_stdio is not None:
            self._open_stdio.close()

    def _forget_init(self) -> None:
        if self._init_fd >= 0:
            self._loop.remove_reader(self._init_fd)
            os.close(self._init_fd)
            self._init_fd = -1


def settle(future: asyncio.Future[None]) -> None:
    """Say that it has happened, if nobody has."""
    if not future.done():
        future.set_result(None)


def first_words(control: socket.socket, size: int = 1) -> tuple[bytes, int | None]:
    """
    Read what there is on a control socket, and from the kernel who sent it, as a process id of our namespace. Nothing
    and None when nobody is there any more, or has said anything.
    """
    try:
        message, ancillary, _, _ = control.recvmsg(size, socket.CMSG_SPACE(_CREDENTIALS.size))
    except OSError:
        return b"", None
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            pid: int = _CREDENTIALS.unpack(content)[0]
            return message, pid
    return message, None
