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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mayfly.containers import bundle, cgroups, frame, mounts, secret_files
from mayfly.containers.held import DEATH_TIMEOUT_S, HeldContainer, first_words, settle
from mayfly.containers.local import REMOVE_DELAYS_S, LocalRuntime, Means
from mayfly.containers.runtime import ContainerSpec
from mayfly.domain import sandbox
from mayfly.domain.errors import RuntimeFailed

RUNTIME_EXIT_S = 0.3  # from the death of the container to the exit of the runtime, before it is killed too
TMPFS_FLAGS = mounts.MS_NOSUID | mounts.MS_NODEV
"""A device node or a setuid file in an image is then neither (they are made on the host, when it is unpacked)."""

SCRATCH = "scratch"


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
        Crun and our own launcher do, whoever has made them.

        Runc sets limits of the container's first process from outside, and without CAP_SYS_RESOURCE only the maker of
        its user namespace may: it makes them itself.
        """
        return self.name in ("crun", "native")

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


class OciRuntime(LocalRuntime):
    """Starts containers by crun or runc."""

    def __init__(self, driver: Driver, means: Means) -> None:
        super().__init__(means)
        self.name = driver.name
        self.version = driver.version
        self.driver = driver
        self.state = self.place.directory / "runtime"

    def claim(self, spec: ContainerSpec) -> OciContainer:
        return OciContainer(self, spec)


class OciContainer(HeldContainer):
    """One container of crun or runc."""

    _runtime: OciRuntime

    def __init__(self, runtime: OciRuntime, spec: ContainerSpec) -> None:
        """
        Make its directory, which no other container of this id may have.

        Raises: RuntimeFailed.
        """
        super().__init__(runtime, spec)
        self._directory = runtime.place.directory / spec.id
        self._runtime_pid = 0
        self._runtime_exit: asyncio.Future[int] = self._loop.create_future()
        try:
            self._directory.mkdir(mode=0o711)
        except OSError as error:
            raise RuntimeFailed(f"The container's directory cannot be made: {error}.") from error

    @property
    def _secrets(self) -> Path:
        return self._directory / bundle.SECRETS

    # --- creating -------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        """Make the cgroup, the scratch layer, the root and the bundle."""
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
            secret_files.make_room(self._secrets)
        self._write_bundle()

    def _write_bundle(self) -> None:
        (self._directory / bundle.HOSTS).write_text(bundle.hosts_file(self._spec), encoding="ascii")
        config = bundle.oci_config(
            self._spec, ids=self._ids_now(), nofile_max=self._runtime.nofile_max, joined=self._joined()
        )
        (self._directory / "config.json").write_text(json.dumps(config), encoding="utf-8")

    def _joined(self) -> bundle.Joined | None:
        if self._network is None or self._runtime.networks is None:
            return None
        (self._directory / bundle.RESOLV_CONF).write_text(self._runtime.networks.resolv_conf, encoding="ascii")
        return bundle.Joined(self._network.path, os.path.relpath(self._network.sys, self._directory))

    async def _spawn(self) -> None:
        """Start the runtime and wait until the held init reports."""
        self._runtime_pid = self._stdio.spawn(
            self._runtime.programs.spawn, self._spawn_command(), {"PATH": bundle.DEFAULT_PATH}
        )
        self._watch_runtime()
        await self._held()

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
        self._loop.add_reader(control, settle, arrived)
        both: set[asyncio.Future[Any]] = {arrived, self._runtime_exit}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._loop.remove_reader(control)
            arrived.cancel()
        words, pid = first_words(control)
        if words != frame.READY or pid is None:
            await self._fail_to_start()
            return
        self._watch(pid)
        self._stdio.forget_words()
        if not self._runtime.driver.leaves_cgroups_alone:
            cgroups.enter(self._group.directories, pid)

    async def _fail_to_start(self) -> None:
        await asyncio.wait({self._runtime_exit}, timeout=RUNTIME_EXIT_S)
        words = self._stdio.words() or "it gave no reason"
        raise RuntimeFailed(f"{self._runtime.name} could not start the container: {words}")

    # --- ending ---------------------------------------------------------------------------------------------------

    def _ours_inside(self) -> set[int]:
        return {self._runtime_pid}

    async def _verify_death(self) -> None:
        await super()._verify_death()
        if self._runtime.driver.copies_output:
            await self._exit_without_report()

    async def _exit_without_report(self) -> int:
        await asyncio.wait({self._runtime_exit}, timeout=DEATH_TIMEOUT_S)
        if not self._runtime_exit.done():
            raise RuntimeFailed(f"{self._runtime.name} goes on without its container.", ran="yes")
        return self._runtime_exit.result()

    def _kill_what_starts(self) -> None:
        if self._runtime_pid and not self._runtime_exit.done():
            os.kill(self._runtime_pid, signal.SIGKILL)

    async def _see_the_runtime_off(self) -> None:
        if not self._runtime_pid:
            return
        await asyncio.wait({self._runtime_exit}, timeout=RUNTIME_EXIT_S)
        if not self._runtime_exit.done():
            os.kill(self._runtime_pid, signal.SIGKILL)
            await asyncio.wait({self._runtime_exit}, timeout=RUNTIME_EXIT_S)

    async def _clear(self) -> None:
        await self._see_the_runtime_off()
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


def _remove_bundle(directory: Path) -> None:
    """Remove exactly what `lay_out` made: never a tree, below which an image could still be mounted."""
    for name in ("config.json", bundle.HOSTS, bundle.RESOLV_CONF):
        (directory / name).unlink(missing_ok=True)
    for path in (directory / bundle.ROOT, directory / SCRATCH, directory / bundle.SECRETS, directory):
        with contextlib.suppress(OSError):
            path.rmdir()
