"""
The worker: as many claims as it has slots, each carried out by a `Run`; a sign of life a second; a stop that loses
nothing. Rows: A5, F13.
"""

from __future__ import annotations

import asyncio
import platform
import time

import structlog

from mayfly import __version__
from mayfly.bus.queue import Claim, PullLoop
from mayfly.bus.requests import answering_images, answering_owner
from mayfly.domain.errors import QueueUnavailable
from mayfly.domain.worker import BEAT_EVERY_S, BEAT_LIVES_S, WorkerBeat
from mayfly.worker.images import image_answerer
from mayfly.worker.run import Run, Tools

log = structlog.get_logger()

IMAGES_AT_ONCE, IMAGES_PER_OWNER = 6, 2  # pulls and unpacks beside the calls that run; most of it is waiting


class Worker:
    """Claims activations and carries them out, until it is told to stop."""

    def __init__(self, tools: Tools, *, slots: int) -> None:
        """*slots* is how many run at once."""
        self._tools = tools
        self._slots = slots
        self._runs: dict[str, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pulls = PullLoop(tools.bus, free_slots=self._free_slots, on_claim=self._on_claim)
        self._started_at = time.time()
        tools.metrics.slots.set(slots)
        tools.metrics.slots_in_use.set_function(lambda: len(self._tasks))

    async def run(self, stop: asyncio.Event, *, grace_s: float) -> None:
        """
        Work until *stop* is set. Then claim nothing more, let what runs finish for up to *grace_s*, and kill the rest.

        Raises: QueueUnavailable when NATS cannot be reached at the start.
        """
        tools = self._tools
        async with (
            answering_owner(tools.bus, tools.worker_id, self._owns, self._cancel),
            answering_images(
                tools.bus, image_answerer(tools.images), at_once=IMAGES_AT_ONCE, per_owner=IMAGES_PER_OWNER
            ),
        ):
            stopping = asyncio.create_task(stop.wait(), name="stop")
            pulling = asyncio.create_task(self._pulls.run(), name="pull")
            beating = asyncio.create_task(self._beat(), name="beat")
            log.info("worker.ready", worker=tools.worker_id, slots=self._slots, runtime=tools.runtime.name)
            try:
                await asyncio.wait((stopping, pulling, beating), return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._pulls.stop()
                await self._finish(grace_s)
                stopping.cancel()
                beating.cancel()
                ends = await asyncio.gather(stopping, pulling, beating, return_exceptions=True)
                await self._say_goodbye()
        for end in ends:
            if isinstance(end, Exception):
                raise end

    def _free_slots(self) -> int:
        return self._slots - len(self._tasks)

    def _owns(self, key: str) -> bool:
        return key in self._runs

    def _cancel(self, key: str) -> bool:
        run = self._runs.get(key)
        if run:
            run.cancel()
        return run is not None

    def _on_claim(self, claim: Claim) -> None:
        """Start on a claim. One delivered again while it still runs here has an owner already: this very worker."""
        key = claim.work.key
        if key in self._runs:
            return
        run = self._runs[key] = Run(claim, self._tools)
        task = asyncio.create_task(run.carry_out(), name=f"activation-{claim.work.ulid}")
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._on_done(key, done))

    def _on_done(self, key: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        del self._runs[key]
        self._pulls.slot_freed()
        if not task.cancelled() and (error := task.exception()):
            log.error("activation.crashed", activation=key, exc_info=error)

    async def _finish(self, grace_s: float) -> None:
        if not self._tasks:
            return
        log.info("worker.finishing", running=len(self._tasks), grace_s=grace_s)
        _, late = await asyncio.wait(self._tasks, timeout=grace_s)
        for run in list(self._runs.values()):
            run.kill()
        if late:
            await asyncio.wait(late)

    async def _beat(self) -> None:
        while True:
            try:
                await self._tools.stores.workers.put(self._tools.worker_id, self._sign(), ttl_s=BEAT_LIVES_S)
            except QueueUnavailable as error:
                log.warning("worker.beat-failed", reason=error.detail)
            await asyncio.sleep(BEAT_EVERY_S)

    def _sign(self) -> WorkerBeat:
        return WorkerBeat(
            id=self._tools.worker_id,
            host=platform.node(),
            version=__version__,
            runtime=self._tools.runtime.name,
            slots=self._slots,
            running=len(self._tasks),
            images=len(self._tools.images.list()),
            started_at=self._started_at,
            beat_at=time.time(),
        )

    async def _say_goodbye(self) -> None:
        try:
            entry = await self._tools.stores.workers.get(self._tools.worker_id)
            if entry:
                await self._tools.stores.workers.delete(entry.key, revision=entry.revision)
        except QueueUnavailable:
            log.info("worker.left-without-goodbye", worker=self._tools.worker_id)
