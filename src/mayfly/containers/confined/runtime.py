"""
Containers where none can be made: each call is a confined process of the worker's own container.

A call's life here: it is given a user that is nobody else's and an empty directory in its image's /dev; the launcher
(`native/confine.c`) moves into the image and reports (`held`); one frame makes it run the function; when the function
ends, or we close our end of the control socket, it kills all of the user, says how it ended, and ends; `remove` takes
away the directory, and the user is free again.

Guarantees:
- A call's processes end with it and with the worker: the launcher outlives both for as long as it takes to kill.
- Should the launcher itself be killed, the function is killed with it, and the rest by us, before the call has ended.
- A user is given to another call only when the kernel counts no process of it. Rows: F9, F11.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from mayfly.containers import bundle, frame, seccomp
from mayfly.containers.confined import requirements, room
from mayfly.containers.confined.users import User, Users
from mayfly.containers.lock import take_lock
from mayfly.containers.programs import CONFINE, find_program
from mayfly.containers.removal import finish, made_whole
from mayfly.containers.runtime import NO_EGRESS, Call, Container, ContainerSpec, Ending, EndReason
from mayfly.containers.stdio import Stdio
from mayfly.domain import sandbox
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.function import Network

CREATE_TIMEOUT_S = 30.0
DEATH_TIMEOUT_S = 10.0  # from SIGKILL to death; only a process stuck in the kernel takes longer than milliseconds
USERS_TRIED = 3
TAKEN = 124
"""The launcher's exit code where somebody lives as the call's user."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

NO_FILES = (
    "This worker's confined runtime cannot give secrets as files, as it mounts nothing: set them again with "
    "`as=environment`."
)

_CPU_LIMIT = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class LastWords:
    """What a launcher says when all of its call are dead."""

    report: frame.Report
    cpu_us: int
    memory_peak_bytes: int

    @classmethod
    def decode(cls, message: bytes) -> LastWords | None:
        """Read them; None when it died without."""
        if len(message) != _LAST_WORDS.size:
            return None
        kind, value, cpu_us, memory_peak_bytes = _LAST_WORDS.unpack(message)
        return cls(frame.Report(kind, value), cpu_us, memory_peak_bytes)


_LAST_WORDS = struct.Struct("=2I2Q")


class SomebodyLives(RuntimeFailed):
    """A call's user has processes that are not the call's."""


class ConfinedRuntime:
    """Starts calls as confined processes."""

    name = "confined"
    offers_egress = False
    """Never: calls have no network of their own, so there is nothing to put rules on."""

    def __init__(self, *, state_dir: Path, launcher_dir: Path | None = None) -> None:
        """
        Take the place, and a block of users.

        Raises: RuntimeFailed: one sentence, with the remedy.
        """
        requirements.check()
        self.program = find_program(CONFINE, launcher_dir)
        self.seccomp_program = seccomp.program(hardening=seccomp.CONFINED)
        self.version = os.uname().release  # what confines is the kernel
        self.home = ""
        self._lock = take_lock(state_dir / "containers.lock")
        self.records = state_dir / "confined"
        """A link for each call, by its id, to its directory: what the next worker finds and removes."""
        try:
            self.records.mkdir(mode=0o700, exist_ok=True)
            self.users = Users.claim(filter(None, map(_owner_of, self.records.iterdir())))
        except BaseException:
            os.close(self._lock)
            raise
        self.ids: set[str] = set()
        self._furnished: set[tuple[int, ...]] = set()
        # What a function left may be a million files.
        self.cleaner = ThreadPoolExecutor(max_workers=2, thread_name_prefix="container-remove")

    async def create(self, spec: ContainerSpec) -> Container:
        if spec.network is not Network.NONE:
            raise RuntimeFailed(NO_EGRESS)
        if spec.has_secret_files:
            raise RuntimeFailed(NO_FILES)
        if spec.id in self.ids:
            raise RuntimeFailed(f"There is a container {spec.id} already.")
        for _ in range(USERS_TRIED - 1):
            with contextlib.suppress(SomebodyLives):
                return await self._create(spec)
        return await self._create(spec)

    async def _create(self, spec: ContainerSpec) -> Container:
        container = ConfinedContainer(self, spec, self.users.take())
        self.ids.add(spec.id)
        async with made_whole(container):
            self._furnish(spec.rootfs)
            container.lay_out()
            await container.spawn()
        return container

    async def reap(self) -> int:
        self.home = _home(self.records)
        left = list(self.records.iterdir())
        for record in left:
            await self.beside(self._reap, record)
        return len(left)

    async def close(self) -> None:
        self.cleaner.shutdown(wait=True)
        self.users.close()
        with contextlib.suppress(OSError):  # not empty: what could not be removed is for the next worker
            self.records.rmdir()
        os.close(self._lock)

    def kill_all_of(self, user: User) -> None:
        """
        Kill what lives as *user*, without a launcher, and see that nobody is left. It may take its time.

        Raises: RuntimeFailed.
        """
        command = [str(self.program), "kill", str(user.uid), str(user.killer)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={})
        if done.returncode:
            raise RuntimeFailed(f"What is left of a call is still alive: {done.stderr.strip()}.", ran="yes")

    async def beside(self, work: Callable[..., None], *arguments: object) -> None:
        """Do what may take its time in a thread."""
        await asyncio.get_running_loop().run_in_executor(self.cleaner, work, *arguments)

    def _furnish(self, rootfs: Path) -> None:
        status = rootfs.stat()
        tree = (status.st_dev, status.st_ino, status.st_ctime_ns)  # a number may be another image's by now
        if tree not in self._furnished:
            room.furnish(rootfs)
            self._furnished.add(tree)

    def _reap(self, record: Path) -> None:
        uid = _owner_of(record)
        if uid is not None and self.users.owns(uid):  # those of another block have been killed by their launchers
            self.kill_all_of(self.users.of(uid))
        room.clear(record.readlink())
        record.unlink()


class ConfinedContainer:
    """One confined call."""

    def __init__(self, runtime: ConfinedRuntime, spec: ContainerSpec, user: User) -> None:
        """Nothing is there yet."""
        self.id = spec.id
        self.user = user
        self._runtime = runtime
        self._spec = spec
        self._loop = asyncio.get_running_loop()
        self._record = runtime.records / spec.id
        self._room: Path | None = None
        self._open_stdio: Stdio | None = None
        self._pid = 0
        self._launcher_fd = -1
        self._dead: asyncio.Future[int] = self._loop.create_future()
        """The launcher is dead: its exit code."""
        self._words: LastWords | None = None
        self._is_used = False
        self._is_killed = False
        self._reason: EndReason | None = None
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._removing = asyncio.Lock()
        self._is_removed = False

    # --- creating -------------------------------------------------------------------------------------------------

    def lay_out(self) -> None:
        """
        Make the call's directory; its record comes first, so that none is ever forgotten.

        Raises: OSError.
        """
        directory = room.place(self._spec.rootfs, self.id)
        self._record.symlink_to(directory)
        self._room = directory
        room.make(directory, self.user)

    async def spawn(self) -> None:
        """
        Start the launcher and wait until it holds the call.

        Raises: RuntimeFailed with the launcher's words; OSError.
        """
        self._open_stdio = stdio = Stdio(on_too_large=lambda: self._stop(EndReason.RESULT_TOO_LARGE))
        # Its environment is empty: the image's is for the function alone.
        self._pid = stdio.spawn(self._runtime.program, self._command(), {})
        self._launcher_fd = os.pidfd_open(self._pid)
        self._loop.add_reader(self._launcher_fd, self._on_death)
        try:
            async with asyncio.timeout(CREATE_TIMEOUT_S):
                await self._held()
        except TimeoutError:
            raise RuntimeFailed(f"confined did not start the container in {CREATE_TIMEOUT_S:.0f} s.") from None

    def _command(self) -> list[str]:
        limits = self._spec.limits
        numbers = (
            limits.memory_bytes,
            limits.scratch_bytes,
            limits.pids,
            sandbox.NOFILE_SOFT,
            sandbox.SIGNALS_PENDING,
        )
        users = (str(self.user.uid), str(self.user.killer))
        places = (str(self._spec.rootfs), str(room.inside(self.id)), self._spec.config.cwd)
        return [str(self._runtime.program), "hold", *users, *places, *map(str, numbers)]

    @property
    def _stdio(self) -> Stdio:
        assert self._open_stdio is not None  # noqa: S101 - open since creation
        return self._open_stdio

    async def _held(self) -> None:
        try:
            ready = await self._loop.sock_recv(self._stdio.control, 1)
        except OSError:
            ready = b""
        if ready != frame.READY:
            await asyncio.wait({self._dead}, timeout=DEATH_TIMEOUT_S)
            failed = SomebodyLives if self._dead.done() and self._dead.result() == TAKEN else RuntimeFailed
            words = self._stdio.words() or "it gave no reason"
            raise failed(f"confined could not start the container: {words}")

    # --- running --------------------------------------------------------------------------------------------------

    async def run(self, call: Call, *, timeout_s: float) -> Ending:
        if call.files:
            raise RuntimeFailed(NO_FILES)
        limit_s = math.ceil(timeout_s * max(1.0, self._spec.limits.cpus)) + 1
        whole = replace(call, env=(*self._base_env(), *call.env))
        message = _CPU_LIMIT.pack(limit_s) + frame.encode(whole, self._runtime.seccomp_program)
        if self._is_used or self._is_killed or self._dead.done():
            raise RuntimeFailed("The container has been used or has ended already.")
        self._is_used = True
        self._is_idle.clear()
        try:
            return await self._run(message, call.stdin, timeout_s)
        finally:
            self._is_idle.set()

    def _base_env(self) -> tuple[tuple[str, str], ...]:
        """The image's environment, with a home and a place for temporary files that can be written to."""
        own = str(room.inside(self.id))
        env = {"PATH": bundle.DEFAULT_PATH, **dict(self._spec.config.env), "HOME": own, "TMPDIR": own}
        return tuple(env.items())

    async def _run(self, message: bytes, stdin: bytes, timeout_s: float) -> Ending:
        started_at = time.monotonic()
        deadline = self._loop.call_later(timeout_s, self._stop, EndReason.TIMED_OUT)
        try:
            await self._hand_over(message, stdin)
            await self._until_dead()
        finally:
            deadline.cancel()
        ended_at = time.monotonic()
        ending = self._ending(started_at=started_at, ended_at=ended_at)
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
            await self._until_dead()
            raise

    async def _until_dead(self) -> None:
        """Return when the last process of the call is dead, however often we are cancelled meanwhile."""
        death = asyncio.create_task(self._death(), name=f"death-{self.id}")
        try:
            await asyncio.shield(death)
        except asyncio.CancelledError:
            self.kill()
            await finish(death)
            raise

    async def _death(self) -> None:
        """
        A launcher's last words say that all are dead. One that was killed had none: then we see to it.

        Raises: RuntimeFailed when a process cannot be killed.
        """
        await asyncio.wait({self._dead})
        with contextlib.suppress(OSError):
            self._words = LastWords.decode(self._stdio.control.recv(_LAST_WORDS.size))
        if self._words is None:
            await self._runtime.beside(self._runtime.kill_all_of, self.user)

    def _ending(self, *, started_at: float, ended_at: float) -> Ending:
        self._stdio.drain()
        reason = self._why()
        return Ending(
            reason=reason,
            exit_code=self._exit_code() if reason is EndReason.EXITED else None,
            stdout=self._stdio.result.hand_out(),
            stderr=self._stdio.tail.content(),
            stderr_truncated=self._stdio.tail.is_truncated,
            cpu_us=self._words.cpu_us if self._words else 0,
            memory_peak_bytes=self._words.memory_peak_bytes if self._words else 0,
            start_s=min(self._stdio.first_byte_at or ended_at, ended_at) - started_at,
            run_s=ended_at - started_at,
        )

    def _why(self) -> EndReason:
        """
        What came first is the reason, but a command that had ended before it could be killed did end by itself. Never
        OUT_OF_MEMORY: a process at its limit is refused more, and what it makes of that is its own affair.
        """
        has_ended = self._words is not None and self._words.report.kind != frame.KILLED
        if self._reason is EndReason.CANCELLED and not has_ended:
            return EndReason.CANCELLED
        if self._stdio.result.is_too_large:
            return EndReason.RESULT_TOO_LARGE
        return EndReason.EXITED if has_ended or self._reason is None else self._reason

    def _exit_code(self) -> int:
        if self._words is not None and self._words.report.kind == frame.REFUSED:
            raise RuntimeFailed(f"The launcher refused its frame: {os.strerror(self._words.report.value)}.")
        if self._words is not None and self._words.report.kind != frame.KILLED:
            return self._words.report.exit_code
        # It was killed from outside, perhaps before the function began. What that has written says that it ran.
        code = self._dead.result()
        if code > 128 and self._stdio.first_byte_at is not None:
            return code
        raise RuntimeFailed(f"The container's processes vanished (confined: {code}).", ran="unknown")

    # --- ending ---------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        self._is_killed = True
        self._stop(EndReason.CANCELLED)

    def _stop(self, reason: EndReason) -> None:
        """Close our end: a launcher that waits ends, one with a call kills first. The first reason stands."""
        self._reason = self._reason or reason
        if self._open_stdio is not None:
            with contextlib.suppress(OSError):
                self._open_stdio.control.shutdown(socket.SHUT_WR)

    def _on_death(self) -> None:
        self._loop.remove_reader(self._launcher_fd)
        os.close(self._launcher_fd)
        _, status = os.waitpid(self._pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._dead.set_result(code if code >= 0 else 128 - code)

    async def remove(self) -> None:
        async with self._removing:
            if self._is_removed:
                return
            self.kill()
            await self._is_idle.wait()  # a running call reads what it wrote to the end
            await self._see_the_launcher_off()
            if self._is_used and self._words is None:  # `_death` may have failed, and the user is to be another's
                await self._runtime.beside(self._runtime.kill_all_of, self.user)
            self._close_stdio()
            await self._clear()
            self._runtime.ids.discard(self.id)
            self._runtime.users.give_back(self.user)
            self._is_removed = True

    async def _see_the_launcher_off(self) -> None:
        """
        Raises: RuntimeFailed when it goes on.
        """
        if not self._pid:
            return
        await asyncio.wait({self._dead}, timeout=DEATH_TIMEOUT_S)
        if not self._dead.done():
            os.kill(self._pid, signal.SIGKILL)
            raise RuntimeFailed(f"The launcher of container {self.id} did not end.")

    async def _clear(self) -> None:
        """
        Remove the directory, and see that it is gone. The user is another's only after that.

        Raises: RuntimeFailed.
        """
        if self._room is None:
            return
        try:
            if not room.is_cleared(self._room):
                await self._runtime.beside(room.clear, self._room)
            self._record.unlink(missing_ok=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise RuntimeFailed(f"Of container {self.id} there is left: {self._room} ({error}).") from error

    def _close_stdio(self) -> None:
        if self._open_stdio is not None:
            self._open_stdio.close()


def _home(records: Path) -> str:
    """Names the calls that were recorded here, as far as this boot and this pid namespace go: no others can we see."""
    place = records.stat()
    namespace = Path("/proc/self/ns/pid").stat().st_ino
    return f"{BOOT_ID.read_text(encoding='ascii').strip()} {namespace} {place.st_dev}:{place.st_ino}"


def _owner_of(record: Path) -> int | None:
    """The user of a call that an earlier worker left; None when it had not come so far as to have one."""
    try:
        uid = room.user_of(record)
    except FileNotFoundError:
        return None
    return uid or None
