"""
Containers by a Docker daemon, local or remote.

A container's life here: created from an imported root, attached, started; the held init says one byte (`held`); the
call goes in by the attached connection; the connection's end, and the daemon's word for it, say that the last process
of the container is dead; `remove` deletes it and looks whether it is gone.

Guarantees:
- A container ends when its connection does: the daemon closes its stdin, and the init takes everything along. So the
  death of a worker, by `kill -9` or of its machine, ends its containers; their remains are reaped by the next one. The
  crash of a daemon is not seen inside: then a function ends at its time limit, by the init's own clock.
- An ending is the init's own word, behind a secret that the function cannot know.
- No daemon holds a worker up: one that is away, frozen or cut off ends a call with `ran="unknown"`, at the latest some
  `DEATH_TIMEOUT_S` after the call's deadline; what it kept of the container is removed when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import socket
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from mayfly.containers import frame, seccomp
from mayfly.containers.docker import stream
from mayfly.containers.docker.config import OWNER_LABEL, STARTING_PIDS, container_config, container_name, pids_limit
from mayfly.containers.docker.engine import Address, Attached, DockerRefused, Engine, find_version
from mayfly.containers.docker.rootfs import Roots
from mayfly.containers.lock import take_lock
from mayfly.containers.programs import INIT, find_program
from mayfly.containers.removal import finish, remove_to_the_end
from mayfly.containers.runtime import NO_EGRESS, Call, Container, ContainerSpec, Ending, EndReason
from mayfly.containers.stdio import Result, Tail
from mayfly.domain.errors import RuntimeFailed
from mayfly.domain.function import Network

CREATE_TIMEOUT_S = 30.0
KILL_AFTER_S = 1.0  # from asking the init to end everything, to asking the daemon
DEATH_TIMEOUT_S = 15.0
ALONE_S = 5.0  # beyond a call's time limit its init ends it by itself, for there may be no daemon any more
RETRY_S = 5.0  # until the next attempt to remove what could not be removed
REMOVE_DELAYS_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
OLD_S = 3600.0
"""A container of whichever worker that does not run, and is older than any call can last, was left by a dead one."""

R = TypeVar("R")


class DockerRuntime:
    """Starts containers by a daemon."""

    name = "docker"

    def __init__(self, address: Address, *, state_dir: Path, launcher_dir: Path | None = None) -> None:
        """
        Take the place, and ask the daemon for its version.

        Raises: RuntimeFailed: one sentence, with the remedy.
        """
        init = find_program(INIT, launcher_dir).read_bytes()
        self.seccomp_program = seccomp.program()
        version = find_version(address)
        self.version = version.engine
        self.owner = owner_name(state_dir)
        self.home = ""
        self.engine = Engine(address, version)
        self.roots = Roots(self.engine, owner=self.owner, init=init)
        self._left: dict[str, int] = {}
        """Containers to be removed, with how often they must still be found gone."""
        self._clearing: asyncio.Task[None] | None = None
        self._lock = take_lock(state_dir / "containers.lock")

    async def create(self, spec: ContainerSpec) -> Container:
        if spec.network is not Network.NONE:
            raise RuntimeFailed(NO_EGRESS)
        if spec.has_secret_files:  # a daemon copies into a container's layer, on its disk
            raise RuntimeFailed(
                "This worker's Docker daemon cannot give secrets as files: set them again with `as=environment`."
            )
        container = DockerContainer(self, spec)
        try:
            await container.make()
        except BaseException:
            with contextlib.suppress(RuntimeFailed):  # then it is left to `_clear`
                await remove_to_the_end(container)
            raise
        return container

    @property
    def offers_egress(self) -> bool:
        """Never: the rules would have to be the daemon's host's."""
        return False

    async def reap(self) -> int:
        """As promised; and whatever any worker left an hour ago and more, whose own successor never came."""
        self.home = f"{(await self.engine.get('/info'))['ID']} {self.owner}"
        mine = {each["Id"] for each in await self.list(f"{OWNER_LABEL}={self.owner}")}
        now = time.time()
        old = {
            each["Id"]
            for each in await self.list(OWNER_LABEL)
            if each["State"] in ("created", "exited", "dead") and now - each["Created"] > OLD_S
        }
        for container in mine:
            await delete(self.engine, container)
        for container in old - mine:
            with contextlib.suppress(RuntimeFailed):  # another's need not keep us from starting
                await delete(self.engine, container)
        await self.roots.sweep()
        return len(mine)

    def leave(self, container: str) -> None:
        """
        Take over a container that could not be removed: it is tried again until it has been gone twice. Once proves
        nothing, where the daemon may still be about to answer an older request, to create it.
        """
        self._left[container] = 2
        if self._clearing is None or self._clearing.done():
            self._clearing = asyncio.create_task(self._clear(), name="clear")

    async def _clear(self) -> None:
        while self._left:
            await asyncio.sleep(RETRY_S)
            for container in tuple(self._left):
                with contextlib.suppress(RuntimeFailed):
                    await delete(self.engine, container)
                    self._left[container] -= 1
            self._left = {container: times for container, times in self._left.items() if times}

    async def close(self) -> None:
        if self._clearing is not None:
            self._clearing.cancel()
            await asyncio.wait({self._clearing})
        await self.roots.close()
        await self.engine.close()
        os.close(self._lock)

    async def list(self, label: str) -> list[dict[str, Any]]:
        """The daemon's containers with a label, running or not."""
        filters = json.dumps({"label": [label]})
        containers: list[dict[str, Any]] = await self.engine.get("/containers/json", all="1", filters=filters)
        return containers


class DockerContainer:
    """One container of a Docker daemon."""

    def __init__(self, runtime: DockerRuntime, spec: ContainerSpec) -> None:
        """Nothing is there yet."""
        self.id = spec.id
        self._runtime = runtime
        self._engine = runtime.engine
        self._spec = spec
        self._loop = asyncio.get_running_loop()
        self._name = container_name(spec.id)
        self._may_exist = False
        """The daemon may have a container of this name, and it is ours."""
        self._attached: Attached | None = None
        self._output: asyncio.Task[None] | None = None
        self._held: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        """The connection has ended, and with it all output."""
        self._result = Result(lambda: self._stop(EndReason.RESULT_TOO_LARGE))
        self._tail = Tail()
        self._withheld = stream.Withheld(self._tail)
        self._words: stream.LastWords | None = None
        self._secret = secrets.token_bytes(stream.SECRET_BYTES)
        self._first_byte_at: float | None = None
        self._reason: EndReason | None = None
        self._is_used = False
        self._is_killed = False
        self._is_overdue = False
        self._is_lost = False
        self._killing: asyncio.Task[None] | None = None
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._removing = asyncio.Lock()

    # --- creating -------------------------------------------------------------------------------------------------

    async def make(self) -> None:
        """
        Create, attach, start, and wait for the held init's byte.

        Raises: RuntimeFailed with the daemon's words.
        """
        try:
            await self._create()
            async with asyncio.timeout(CREATE_TIMEOUT_S):
                self._attached = await self._engine.attach(self._name)
                self._output = asyncio.create_task(self._read_output(self._attached), name=f"output-{self.id}")
                await uninterrupted(self._engine.post(f"/containers/{self._name}/start"))
                await self._wait_until_held()
                if pids_limit(self._spec) < STARTING_PIDS:
                    limit = {"PidsLimit": pids_limit(self._spec)}
                    await self._engine.post(f"/containers/{self._name}/update", limit)
        except TimeoutError:
            raise RuntimeFailed(f"docker did not start the container in {CREATE_TIMEOUT_S:.0f} s.") from None
        except DockerRefused as refusal:
            raise RuntimeFailed(f"docker could not start the container: {refusal.detail}") from refusal

    async def _create(self) -> None:
        """
        Create it; anew, with the root imported once more, if somebody has pruned the daemon's images. A large root may
        take its time: the caller's own limit is around this.
        """
        for attempt in (1, 2):
            root = await self._runtime.roots.have(self._spec.rootfs)
            body = container_config(self._spec, image=root.reference, owner=self._runtime.owner, has_tmp=root.has_tmp)
            self._may_exist = True  # also if no answer comes
            try:
                await uninterrupted(self._engine.post("/containers/create", body, name=self._name))
            except DockerRefused as refusal:
                self._may_exist = refusal.status != 409  # the name is another's
                if refusal.status != 404 or attempt == 2:
                    raise
                self._runtime.roots.forget(self._spec.rootfs)
            else:
                return

    async def _wait_until_held(self) -> None:
        await asyncio.wait({self._held, self._ended}, return_when=asyncio.FIRST_COMPLETED)
        if not self._held.done():
            words = self._tail.content().decode(errors="replace").strip()
            raise RuntimeFailed(f"docker could not start the container: {words or 'it gave no reason'}")

    async def _read_output(self, attached: Attached) -> None:
        """Pass on what comes, until the daemon closes the connection: then nothing of the container writes any more."""
        try:
            while True:
                kind, size = stream.decode_frame(await attached.reader.readexactly(stream.FRAME_BYTES))
                self._take(kind, await attached.reader.readexactly(size))
        except (OSError, EOFError):
            pass  # closed by the daemon, by us, or by the network: `_ending` asks the daemon which
        finally:
            _settle(self._ended)

    def _take(self, kind: int, chunk: bytes) -> None:
        if not self._held.done():
            if kind == stream.STDOUT and chunk == frame.READY:
                _settle(self._held)
            else:
                self._tail(chunk)  # the reason why it does not start
            return
        if self._first_byte_at is None and not chunk.startswith(self._secret):
            self._first_byte_at = time.monotonic()
        (self._result if kind == stream.STDOUT else self._withheld)(chunk)

    # --- running --------------------------------------------------------------------------------------------------

    async def run(self, call: Call, *, timeout_s: float) -> Ending:
        program, image_env = self._runtime.seccomp_program, self._spec.config.env
        message = stream.encode(call, program, image_env=image_env, secret=self._secret, limit_s=timeout_s + ALONE_S)
        if self._attached is None or self._is_used or self._is_killed or self._ended.done():
            raise RuntimeFailed("The container has been used or has ended already.")
        self._is_used = True
        self._is_idle.clear()
        try:
            return await self._run(self._attached, message, timeout_s)
        finally:
            self._is_idle.set()

    async def _run(self, attached: Attached, message: bytes, timeout_s: float) -> Ending:
        started_at, times_away = time.monotonic(), self._engine.times_away
        deadline = self._loop.call_later(timeout_s, self._stop, EndReason.TIMED_OUT)
        try:
            attached.writer.write(message)
            await self._until_dead()
        finally:
            deadline.cancel()
        ended_at, words = time.monotonic(), self._words
        if words is None and (self._is_lost or times_away != self._engine.times_away):
            raise RuntimeFailed("The Docker daemon was away during the call, which was ended.", ran="unknown")
        return await self._ending(words, started_at=started_at, ended_at=ended_at)

    async def _until_dead(self) -> None:
        """Return when the daemon says that the container is dead, however often we are cancelled meanwhile."""
        dead = asyncio.create_task(self._death(), name=f"death-{self.id}")
        try:
            await asyncio.shield(dead)
        except asyncio.CancelledError:
            self.kill()
            await finish(dead)
            raise

    async def _death(self) -> None:
        """
        The end of the output comes first. With last words all is known: the init said them as the last one alive, and
        the connection ended because it ended. Without, the daemon has to say that the container is dead.

        Raises: RuntimeFailed when it does not.
        """
        await asyncio.wait({self._ended})
        self._words = self._withheld.end(self._secret)
        if self._words is not None and self._words.oom_kills is not None:
            return
        if self._is_overdue:
            raise RuntimeFailed(
                f"The Docker daemon has not ended the container within {DEATH_TIMEOUT_S:.0f} s.", ran="unknown"
            )
        try:
            async with asyncio.timeout(DEATH_TIMEOUT_S):
                await self._end_if_lost()
        except TimeoutError:
            raise RuntimeFailed(
                "The container was lost: the Docker daemon does not say that it is dead.", ran="unknown"
            ) from None
        except RuntimeFailed as error:
            raise RuntimeFailed(f"The container was lost. {error.detail}", ran="unknown") from error

    async def _end_if_lost(self) -> None:
        """
        When the connection ends because the container does, the daemon knows within a moment. Else the container lives
        (a daemon with `live-restore` keeps it through a restart), but nobody will hear its last words.
        """
        try:
            async with asyncio.timeout(KILL_AFTER_S):
                await self._engine.post(f"/containers/{self._name}/wait")
        except TimeoutError:
            self._is_lost = True
            with contextlib.suppress(DockerRefused):  # it is dead by now
                await self._engine.post(f"/containers/{self._name}/kill")
            await self._engine.post(f"/containers/{self._name}/wait")

    async def _ending(self, words: stream.LastWords | None, *, started_at: float, ended_at: float) -> Ending:
        state = {} if words is not None and words.oom_kills is not None else await self._state()
        is_out_of_memory = bool(words.oom_kills) if words and words.oom_kills is not None else state["OOMKilled"]
        reason = self._why(words, is_out_of_memory=is_out_of_memory)
        first = ended_at if self._first_byte_at is None else self._first_byte_at
        return Ending(
            reason=reason,
            exit_code=self._exit_code(words, state) if reason is EndReason.EXITED else None,
            stdout=self._result.hand_out(),
            stderr=self._tail.content(),
            stderr_truncated=self._tail.is_truncated,
            cpu_us=words.cpu_us if words else 0,
            memory_peak_bytes=words.memory_peak_bytes if words else self._spec.limits.memory_bytes,
            start_s=max(0.0, min(first, ended_at) - started_at),
            run_s=ended_at - started_at,
        )

    def _exit_code(self, words: stream.LastWords | None, state: dict[str, Any]) -> int:
        if words is not None and words.report.kind == frame.REFUSED:
            raise RuntimeFailed(f"The held init refused its frame: {os.strerror(words.report.value)}.")
        if words is not None:
            return words.report.exit_code
        # The init itself was killed: by the function (with a limit on its cpu time, say), or from outside, and then it
        # may have been before the function began. What it has written says that it ran.
        code: int = state["ExitCode"]
        if code > 128 and not state["Running"] and self._first_byte_at is not None:
            return code
        raise RuntimeFailed(f"The container's processes vanished (docker: {code}).", ran="unknown")

    async def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = (await self._engine.get(f"/containers/{self._name}/json"))["State"]
        except RuntimeFailed as error:
            raise RuntimeFailed(f"The container was lost. {error.detail}", ran="unknown") from error
        return state

    def _why(self, words: stream.LastWords | None, *, is_out_of_memory: bool) -> EndReason:
        """What came first is the reason, but a command that had ended before it could be killed did end by itself."""
        has_ended = words is not None and words.report.kind != frame.KILLED
        if self._reason is EndReason.CANCELLED and not has_ended:
            return EndReason.CANCELLED
        if is_out_of_memory:
            return EndReason.OUT_OF_MEMORY
        if self._result.is_too_large:
            return EndReason.RESULT_TOO_LARGE
        return EndReason.EXITED if has_ended or self._reason is None else self._reason

    # --- ending ---------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        self._is_killed = True
        self._stop(EndReason.CANCELLED)

    def _stop(self, reason: EndReason) -> None:
        """Have the init kill everything, and if it does not, the daemon; the first reason stands."""
        self._reason = self._reason or reason
        if self._attached is None or self._ended.done() or self._killing is not None:
            return
        if self._is_used:
            self._attached.writer.write(stream.KILL)
        else:
            self._attached.close()  # it waits for a call, and ends when there can be none
        self._killing = asyncio.create_task(self._kill_if_alive(), name=f"kill-{self.id}")

    async def _kill_if_alive(self) -> None:
        await asyncio.wait({self._ended}, timeout=KILL_AFTER_S)
        if not self._ended.done():
            # It is dead; or the daemon is away, or does not answer any more, which must not hold us up.
            with contextlib.suppress(RuntimeFailed, TimeoutError):
                async with asyncio.timeout(DEATH_TIMEOUT_S):
                    await self._engine.post(f"/containers/{self._name}/kill")
                    await asyncio.wait({self._ended})
        if not self._ended.done():
            self._is_overdue = True
            _settle(self._ended)

    async def remove(self) -> None:
        async with self._removing:
            self.kill()
            await self._is_idle.wait()  # a running call reads what it wrote to the end
            try:
                if self._may_exist:
                    await delete(self._engine, self._name)
            except RuntimeFailed:
                self._runtime.leave(self._name)
                raise
            finally:
                self._may_exist = False
                await self._let_go()

    async def _let_go(self) -> None:
        if self._attached is not None:
            self._attached.writer.transport.abort()  # not `close`: the other side may not read any more
            with contextlib.suppress(OSError):
                await self._attached.writer.wait_closed()
            self._attached = None
        for task in (self._output, self._killing):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})


async def delete(engine: Engine, container: str) -> None:
    """
    Remove a container, running or not, and see that it is gone.

    Raises: RuntimeFailed when it is still there after bounded retries.
    """
    problem = ""
    for delay_s in REMOVE_DELAYS_S:
        try:
            await uninterrupted(engine.delete(f"/containers/{container}", force="1", v="1"))
        except DockerRefused as refusal:
            if refusal.status == 404:
                return
            problem = refusal.detail
        else:
            continue  # once more, which has to be 404
        await asyncio.sleep(delay_s)
    raise RuntimeFailed(f"Container {container} cannot be removed: {problem}")


async def uninterrupted(request: Coroutine[Any, Any, R]) -> R:
    """Finish a request that changes the daemon, however often we are cancelled: else nobody would know what it did."""
    task = asyncio.ensure_future(request)
    cancelled = await finish(task)
    if cancelled is None:
        return task.result()
    task.exception()  # nobody else asks for it
    raise cancelled


def owner_name(state_dir: Path) -> str:
    """The label of a worker's containers: the same after a restart, another for another machine or state directory."""
    words = f"{socket.gethostname()}\0".encode() + os.fsencode(state_dir.resolve())
    return f"mayfly-{hashlib.sha256(words).hexdigest()[:12]}"


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
