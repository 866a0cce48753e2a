"""
Containers by an OCI runtime, crun or runc: the one place that starts one.

A container's life here: its scratch and root are mounted and its cgroup is made, the spawner starts the runtime inside
it, the held init reports (`held`); one frame makes it run; the init's process descriptor says when the kernel has
killed the last process of the container; `remove` takes away the rest and looks whether it is gone.

Guarantees:
- The runtime's children die with the worker: the spawner asks for it (which binds to the *thread* that spawns, so
  only the main thread does), the held init asks for it, and the worker is the first process of a pid namespace.
- Nobody waits for crun's own exit before answering: an init's process descriptor is readable only after the kernel has
  reaped everything in its pid namespace, and a pipe then holds all that will ever come. (Runc copies, and is awaited.)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mayfly.containers import bundle, cgroups, frame, mounts, secret_files
from mayfly.containers.ids import IdRange, Ids, SharedIds
from mayfly.containers.place import Place
from mayfly.containers.programs import Programs
from mayfly.containers.runtime import NO_EGRESS, Call, Container, ContainerSpec, Ending, EndReason
from mayfly.containers.stdio import Stdio
from mayfly.domain import sandbox
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.function import Network

if TYPE_CHECKING:  # netlink takes 0.1 s to import
    from mayfly.containers.egress.namespace import Namespace
    from mayfly.containers.egress.pool import Pool

CREATE_TIMEOUT_S = 30.0
DEATH_TIMEOUT_S = 10.0  # from SIGKILL to death; only a process stuck in the kernel takes longer than milliseconds
RUNTIME_EXIT_S = 0.3  # from the death of the container to the exit of the runtime, before it is killed too
REMOVE_DELAYS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.1, 0.2, 0.3)
TMPFS_FLAGS = mounts.MS_NOSUID | mounts.MS_NODEV
"""A device node or a setuid file in an image is then neither (they are made on the host, when it is unpacked)."""

SCRATCH = "scratch"

_CREDENTIALS = struct.Struct("=3i")


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """What differs between the runtimes."""

    name: str
    program: Path
    version: str

    @property
    def leaves_cgroups_alone(self) -> bool:
        """
        Crun can be told so, and is then started inside the container's cgroup.

        Runc cannot. It does without where it is not allowed to write, so the spawner makes cgroups read-only for it;
        and as it needs tens of megabytes and a dozen threads, only the held init is moved inside.
        """
        return self.name == "crun"

    @property
    def copies_output(self) -> bool:
        """Runc gives a container pipes of its own and copies, so the output is complete only when runc has ended."""
        return self.name == "runc"

    @property
    def joins_user_namespaces(self) -> bool:
        """
        Crun does, whoever has made them.

        Runc sets limits of the container's first process from outside, and without CAP_SYS_RESOURCE only the maker of
        its user namespace may: it makes them itself.
        """
        return self.name == "crun"

    @property
    def needs_searchable_paths(self) -> bool:
        """Runc opens the bundle by its whole path, as the container's root; crun stays in its directory."""
        return self.name == "runc"

    @property
    def extra_pids(self) -> int:
        """Processes in a container's cgroup that are not the function's: the init, and crun itself."""
        return 2 if self.leaves_cgroups_alone else 1

    def command(self, *, state: Path, bundle_dir: Path, container_id: str) -> list[str]:
        """The command line that runs the bundle, with fd 3 passed on."""
        options = ["--cgroup-manager=disabled"] if self.leaves_cgroups_alone else ["--rootless=true"]
        run = ["run", "--preserve-fds=1", f"--bundle={bundle_dir}"]
        keyring = ["--no-new-keyring"]  # nobody in a container may use one, and key quotas count by user
        return [str(self.program), f"--root={state}", *options, *run, *keyring, container_id]


class OciRuntime:
    """Starts containers by crun or runc."""

    def __init__(
        self,
        driver: Driver,
        *,
        place: Place,
        programs: Programs,
        groups: cgroups.Cgroups,
        seccomp_program: bytes,
        ids: Ids | None = None,
        nofile_max: int = sandbox.NOFILE_HARD,
        networks: Pool | None = None,
    ) -> None:
        self.name = driver.name
        self.version = driver.version
        self.driver = driver
        self.place = place
        self.state = place.directory / "runtime"
        self.programs = programs
        self.groups = groups
        self.seccomp_program = seccomp_program
        self.nofile_max = nofile_max
        self.ids = ids or SharedIds()
        self.networks = networks
        # Unmounting a full scratch layer takes milliseconds, so that is done beside the event loop.
        self.cleaner = ThreadPoolExecutor(max_workers=2, thread_name_prefix="container-remove")

    @property
    def home(self) -> str:
        return self.groups.home

    @property
    def offers_egress(self) -> bool:
        return self.networks is not None

    async def create(self, spec: ContainerSpec) -> Container:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeFailed("Containers are started from the main thread only: they die with the one that does.")
        container = OciContainer(self, spec)
        container.claim()
        try:
            container.take_ids()
            await container.join_network()
            container.lay_out()
            await container.spawn()
        except OSError as error:
            await container.remove()
            raise RuntimeFailed(f"The container could not be prepared: {error}.") from error
        except BaseException:
            await container.remove()
            raise
        return container

    async def reap(self) -> int:
        dead = self.groups.found()
        for directories in dead.values():
            await self._reap(directories)
        _raise_if_left(self.groups.sweep())
        if self.networks:
            await self.networks.open()
        return len(dead)

    async def close(self) -> None:
        if self.networks:
            await self.networks.close()
        self.cleaner.shutdown(wait=True)
        self.groups.close()
        self.ids.close()
        self.place.close()

    @staticmethod
    async def _reap(directories: tuple[Path, ...]) -> None:
        left: list[Path] = []
        for delay_s in REMOVE_DELAYS_S:
            cgroups.kill_all(directories)
            left = cgroups.remove(directories)
            if not left:
                return
            await asyncio.sleep(delay_s)
        _raise_if_left(left)


class OciContainer:
    """One container of crun or runc."""

    def __init__(self, runtime: OciRuntime, spec: ContainerSpec) -> None:
        self.id = spec.id
        self._runtime = runtime
        self._spec = spec
        self._directory = runtime.place.directory / spec.id
        self._loop = asyncio.get_running_loop()
        self._group: cgroups.Cgroup = runtime.groups.of(spec.owner, spec.id)
        self._ids: IdRange | None = None
        self._network: Namespace | None = None
        self._open_stdio: Stdio | None = None
        self._runtime_pid = 0
        self._runtime_exit: asyncio.Future[int] = self._loop.create_future()
        self._init_fd = -1
        self._dead: asyncio.Future[None] = self._loop.create_future()
        self._is_used = False
        self._is_killed = False
        self._reason: EndReason | None = None
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._removing = asyncio.Lock()
        self._is_removed = False

    # --- creating -------------------------------------------------------------------------------------------------

    def claim(self) -> None:
        """
        Make the directory, which no other container of this id may have.

        Raises: RuntimeFailed.
        """
        try:
            self._directory.mkdir(mode=0o711)
        except OSError as error:
            raise RuntimeFailed(f"The container's directory cannot be made: {error}.") from error

    def take_ids(self) -> None:
        """
        Be somebody on this machine.

        Raises: OSError.
        """
        self._ids = self._runtime.ids.take()

    async def join_network(self) -> None:
        """
        Take a network namespace, if the function is to have more than a loopback.

        Raises: RuntimeFailed.
        """
        if self._spec.network is Network.NONE:
            return
        if self._runtime.networks is None:
            raise RuntimeFailed(NO_EGRESS)
        self._network = await self._runtime.networks.take()

    def lay_out(self) -> None:
        """
        Make the cgroup, the scratch layer, the root and the bundle.

        Raises: OSError.
        """
        runtime, room = self._runtime, sandbox.Room.of(self._spec.limits)
        runtime.groups.create(self._spec.owner, self.id, self._spec.limits, extra_pids=runtime.driver.extra_pids)
        scratch, root = self._directory / SCRATCH, self._directory / bundle.ROOT
        scratch.mkdir(mode=0o700)
        root.mkdir(mode=0o711)
        size = f"mode=700,size={room.scratch_bytes},nr_inodes={room.scratch_inodes}"
        mounts.mount("mayfly", scratch, "tmpfs", flags=TMPFS_FLAGS, data=size)
        upper, work = scratch / "upper", scratch / "work"
        upper.mkdir()
        work.mkdir()
        with self._ids_now().layer(self._spec.rootfs, at=scratch / "lower") as lower:
            top = lower.stat()  # the top of an overlay looks like its upper directory
            upper.chmod(top.st_mode & 0o7777)
            os.chown(upper, top.st_uid, top.st_gid)  # in this order: changing the mode of another's needs CAP_FOWNER
            mounts.mount_overlay(root, lower=lower, upper=upper, work=work, flags=TMPFS_FLAGS)
        if self._spec.has_secret_files:
            secret_files.make_room(self._directory / bundle.SECRETS)
        self._write_bundle()

    def _write_bundle(self) -> None:
        (self._directory / bundle.HOSTS).write_text(bundle.hosts_file(self._spec), encoding="ascii")
        config = bundle.oci_config(
            self._spec, ids=self._ids_now(), nofile_max=self._runtime.nofile_max, joined=self._joined()
        )
        (self._directory / "config.json").write_text(json.dumps(config), encoding="utf-8")

    def _ids_now(self) -> IdRange:
        assert self._ids is not None  # noqa: S101 - taken first of all
        return self._ids

    def _joined(self) -> bundle.Joined | None:
        if self._network is None or self._runtime.networks is None:
            return None
        (self._directory / bundle.RESOLV_CONF).write_text(self._runtime.networks.resolv_conf, encoding="ascii")
        return bundle.Joined(self._network.path, os.path.relpath(self._network.sys, self._directory))

    async def spawn(self) -> None:
        """
        Start the runtime and wait until the held init reports.

        Raises: RuntimeFailed with the runtime's words; OSError.
        """
        self._open_stdio = stdio = Stdio(on_too_large=lambda: self._stop(EndReason.RESULT_TOO_LARGE))
        stdio.control.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._runtime_pid = stdio.spawn(
            self._runtime.programs.spawn, self._spawn_command(), {"PATH": bundle.DEFAULT_PATH}
        )
        self._watch_runtime()
        try:
            async with asyncio.timeout(CREATE_TIMEOUT_S):
                await self._held()
        except TimeoutError:
            raise RuntimeFailed(
                f"{self._runtime.name} did not start the container in {CREATE_TIMEOUT_S:.0f} s."
            ) from None

    @property
    def _stdio(self) -> Stdio:
        assert self._open_stdio is not None  # noqa: S101 - open since creation
        return self._open_stdio

    def _spawn_command(self) -> list[str]:
        runtime, driver = self._runtime, self._runtime.driver
        inside = [str(path) for path in self._group.directories] if driver.leaves_cgroups_alone else []
        without = [] if driver.leaves_cgroups_alone else ["-r"]
        command = driver.command(state=runtime.state, bundle_dir=self._directory, container_id=self.id)
        return [str(runtime.programs.spawn), *without, str(os.getpid()), *inside, "--", *command]

    def _watch_runtime(self) -> None:
        descriptor = os.pidfd_open(self._runtime_pid)

        def ended() -> None:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
            _, status = os.waitpid(self._runtime_pid, 0)
            if not self._runtime_exit.done():
                self._runtime_exit.set_result(os.waitstatus_to_exitcode(status))

        self._loop.add_reader(descriptor, ended)

    async def _held(self) -> None:
        """Wait for the init's one byte, and learn from the kernel who sent it."""
        control = self._stdio.control
        arrived: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(control, _settle, arrived)
        both: set[asyncio.Future[Any]] = {arrived, self._runtime_exit}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._loop.remove_reader(control)
            arrived.cancel()
        pid = _sender(control)
        if pid is None:
            await self._fail_to_start()
            return
        self._init_fd = os.pidfd_open(pid)
        self._loop.add_reader(self._init_fd, self._on_death)
        self._stdio.forget_words()
        if not self._runtime.driver.leaves_cgroups_alone:
            cgroups.enter(self._group.directories, pid)

    async def _fail_to_start(self) -> None:
        await asyncio.wait({self._runtime_exit}, timeout=RUNTIME_EXIT_S)
        words = self._stdio.words() or "it gave no reason"
        raise RuntimeFailed(f"{self._runtime.name} could not start the container: {words}")

    # --- running --------------------------------------------------------------------------------------------------

    async def run(self, call: Call, *, timeout_s: float) -> Ending:
        message = frame.encode(call, self._runtime.seccomp_program)
        if self._is_used or self._is_killed or self._dead.done():
            raise RuntimeFailed("The container has been used or has ended already.")
        self._is_used = True
        self._write_files(call)
        self._is_idle.clear()
        try:
            return await self._run(message, call.stdin, timeout_s)
        finally:
            self._is_idle.set()

    def _write_files(self, call: Call) -> None:
        if not call.files:
            return
        if not self._spec.has_secret_files:
            raise RuntimeFailed("The container was made without room for files.")
        try:
            secret_files.write(self._directory / bundle.SECRETS, call.files, self._spec.config, self._ids_now())
        except OSError as error:
            raise RuntimeFailed(f"A secret could not be put into the container: {error.strerror}.") from error

    async def _run(self, message: bytes, stdin: bytes, timeout_s: float) -> Ending:
        cpu_before_us = self._group.cpu_us()
        started_at = self._loop.time()
        deadline = self._loop.call_later(timeout_s, self._stop, EndReason.TIMED_OUT)
        try:
            await self._hand_over(message, stdin)
            await self._wait_for_death()
        finally:
            deadline.cancel()
        ended_at = self._loop.time()
        await self._verify_death()
        if self._runtime.driver.copies_output:
            await self._exit_of_runtime()
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
            async with asyncio.timeout(DEATH_TIMEOUT_S):
                await asyncio.shield(self._dead)
            raise

    async def _verify_death(self) -> None:
        """
        Look whether the cgroup agrees.

        Raises: RuntimeFailed when something in it cannot be killed.
        """
        directories = self._group.directories
        for delay_s in REMOVE_DELAYS_S:
            if not cgroups.pids_in(directories) - {self._runtime_pid}:
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
            stdout=bytes(self._stdio.result.content),
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
            return EndReason.OUT_OF_MEMORY
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
        code = await self._exit_of_runtime()
        if code > 128 and self._stdio.first_byte_at is not None:
            return code
        raise RuntimeFailed(f"The container's processes vanished ({self._runtime.name}: {code}).", ran="unknown")

    async def _exit_of_runtime(self) -> int:
        await asyncio.wait({self._runtime_exit}, timeout=DEATH_TIMEOUT_S)
        if not self._runtime_exit.done():
            raise RuntimeFailed(f"{self._runtime.name} goes on without its container.", ran="yes")
        return self._runtime_exit.result()

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
        elif self._runtime_pid and not self._runtime_exit.done():
            os.kill(self._runtime_pid, signal.SIGKILL)

    def _on_death(self) -> None:
        self._loop.remove_reader(self._init_fd)
        _settle(self._dead)

    async def remove(self) -> None:
        async with self._removing:
            if self._is_removed:
                return
            self.kill()
            await self._is_idle.wait()  # a running call reads what it wrote to the end
            self._close_stdio()
            await self._see_the_runtime_off()
            await self._clear()
            self._leave_network()
            self._give_back_ids()
            self._forget_init()
            self._runtime.groups.forget(self._spec.owner, self.id)
            self._is_removed = True

    async def _see_the_runtime_off(self) -> None:
        if not self._runtime_pid:
            return
        await asyncio.wait({self._runtime_exit}, timeout=RUNTIME_EXIT_S)
        if not self._runtime_exit.done():
            os.kill(self._runtime_pid, signal.SIGKILL)
            await asyncio.wait({self._runtime_exit}, timeout=RUNTIME_EXIT_S)

    async def _clear(self) -> None:
        left: list[str] = []
        for attempt, delay_s in enumerate(REMOVE_DELAYS_S):
            left = await self._loop.run_in_executor(self._runtime.cleaner, self._clear_once, attempt > 4)
            if not left:
                return
            await asyncio.sleep(delay_s)
        raise RuntimeFailed(f"Of container {self.id} there is left: {', '.join(left)}.")

    def _clear_once(self, detach: bool) -> list[str]:
        """Remove what can be removed, in a thread; return what is left, in words. What is not there is fine."""
        directories = self._group.directories
        if cgroups.pids_in(directories):
            cgroups.kill_all(directories)
        left = [str(path) for path in cgroups.remove(directories)]
        for name in (bundle.ROOT, SCRATCH, bundle.SECRETS):
            try:
                mounts.unmount(self._directory / name, detach=detach)
            except OSError as error:
                left.append(str(error))
        state = self._runtime.state / self.id  # only there if the runtime was killed
        shutil.rmtree(state, ignore_errors=True)
        _remove_bundle(self._directory)
        return left + [str(path) for path in (state, self._directory) if path.exists()]

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


def _raise_if_left(paths: list[Path]) -> None:
    if paths:
        raise RuntimeFailed(f"What a dead worker left cannot be removed: {', '.join(map(str, paths))}.")


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _sender(control: socket.socket) -> int | None:
    """Who sent the ready byte, as a process id of our namespace; None if nobody did."""
    try:
        message, ancillary, _, _ = control.recvmsg(1, socket.CMSG_SPACE(_CREDENTIALS.size))
    except OSError:
        return None
    if message != frame.READY:
        return None
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            pid: int = _CREDENTIALS.unpack(content)[0]
            return pid
    return None


def _remove_bundle(directory: Path) -> None:
    """Remove exactly what `lay_out` made: never a tree, below which an image could still be mounted."""
    for name in ("config.json", bundle.HOSTS, bundle.RESOLV_CONF):
        (directory / name).unlink(missing_ok=True)
    for path in (directory / bundle.ROOT, directory / SCRATCH, directory / bundle.SECRETS, directory):
        with contextlib.suppress(OSError):
            path.rmdir()
