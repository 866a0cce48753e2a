"""
The worker: as many claims as it has slots, each carried out by a `Run`; a sign of life a second, which is part of the
proof that it may go on (`worker.lease`); a stop that loses nothing; and a rest, when an operator drains it, that ends
as it began. Rows: A5, F13.
"""

from __future__ import annotations

import asyncio
import platform
import time

import structlog
from msgspec.structs import replace

from mayfly import __version__
from mayfly.bus.queue import Claim, PullLoop
from mayfly.bus.requests import answering_images, answering_operator, answering_owner
from mayfly.containers.watchdog import Feed
from mayfly.domain.errors import QueueUnavailable
from mayfly.domain.worker import BEAT_LIVES_S, GONE_LIVES_S, WorkerBeat
from mayfly.worker.images import image_answerer
from mayfly.worker.lease import Lease
from mayfly.worker.run import Run, Tools

log = structlog.get_logger()

IMAGES_AT_ONCE, IMAGES_PER_OWNER = 6, 2  # pulls and unpacks beside the calls that run; most of it is waiting


class Worker:
    """Claims activations and carries them out, until it is told to stop."""

    def __init__(self, tools: Tools, *, slots: int, feed: Feed | None = None) -> None:
        """*slots* is how many run at once; *feed* is the watchdog's, if there is one."""
        self._tools = tools
        self._slots = slots
        self._runs: dict[str, Run] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._feed = feed or Feed()
        self._lease = Lease(self._feed, beat=self._beat, runs=self._runs.values)
        self._is_stopping = False
        self._is_drained = False  # by an operator, until he lets it claim again
        self._may_have_left_one = False
        self._pulls = PullLoop(tools.bus, free_slots=self._free_slots, on_claim=self._on_claim)
        self._started_at = time.time()
        tools.metrics.slots.set(slots)
        tools.metrics.slots_in_use.set_function(lambda: len(self._tasks))

    async def run(self, stop: asyncio.Event, *, grace_s: float) -> bool:
        """
        Work until *stop* is set. Then claim nothing more, give back what has not started, let what runs finish for up
        to *grace_s*, and kill the rest. Return whether NATS has confirmed the goodbye: no container is left.

        Raises: QueueUnavailable when NATS cannot be reached at the start; OSError, in a group, without its watchdog.
        """
        tools = self._tools
        async with (
            answering_owner(tools.bus, tools.worker_id, self._owns, self._cancel),
            answering_operator(tools.bus, tools.worker_id, self._drain),
            answering_images(
                tools.bus, image_answerer(tools.images), at_once=IMAGES_AT_ONCE, per_owner=IMAGES_PER_OWNER
            ),
        ):
            stopping = asyncio.create_task(stop.wait(), name="stop")
            self._lease.begin()
            pulling = asyncio.create_task(self._pulls.run(), name="pull")
            proving = asyncio.create_task(self._lease.keep(), name="lease")
            log.info("worker.ready", worker=tools.worker_id, slots=self._slots, runtime=tools.runtime.name)
            try:
                await asyncio.wait((stopping, pulling, proving), return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._is_stopping = True
                self._pulls.stop()
                await self._finish(grace_s)
                stopping.cancel()
                proving.cancel()
                ends = await asyncio.gather(stopping, pulling, proving, return_exceptions=True)
                is_told = await self._say_goodbye()
        for end in ends:
            if isinstance(end, Exception):
                raise end
        return is_told

    def _free_slots(self) -> int:
        return 0 if self._is_drained else self._slots - len(self._tasks)

    def _owns(self, key: str) -> bool:
        return key in self._runs

    def _cancel(self, key: str, by_operator: bool) -> bool:
        run = self._runs.get(key)
        if run:
            run.cancel(by_operator=by_operator)
        return run is not None

    async def _drain(self, drained: bool) -> None:
        """
        Claim nothing more, and give back what has not started; or claim again. What runs goes on either way. The list
        of workers says so by the time that it is answered, unless NATS cannot be reached: then soon after.
        """
        self._is_drained = drained
        log.info("worker.drained" if drained else "worker.undrained", running=len(self._tasks))
        if drained:
            await self._give_back_what_has_not_started()
        else:
            self._pulls.slot_freed()
        try:
            await self._beat()
        except QueueUnavailable as error:
            log.info("worker.not-told", reason=error.detail)

    def _on_claim(self, claim: Claim) -> None:
        """Start on a claim. One delivered again while it still runs here has an owner already: this very worker."""
        key = claim.work.key
        if key in self._runs:
            return
        run = self._runs[key] = Run(claim, self._tools)
        task = self._tasks[key] = asyncio.create_task(run.carry_out(), name=f"activation-{claim.work.ulid}")
        task.add_done_callback(lambda done: self._on_done(key, done))

    def _on_done(self, key: str, task: asyncio.Task[None]) -> None:
        del self._tasks[key]
        self._may_have_left_one |= self._runs.pop(key).may_live
        self._pulls.slot_freed()
        if not task.cancelled() and (error := task.exception()):
            log.error("activation.crashed", activation=key, exc_info=error)

    async def _finish(self, grace_s: float) -> None:
        await self._give_back_what_has_not_started()
        if not self._tasks:
            return
        log.info("worker.finishing", running=len(self._tasks), grace_s=grace_s)
        _, late = await asyncio.wait(self._tasks.values(), timeout=grace_s)
        for run in list(self._runs.values()):
            run.kill()
        if late:
            await asyncio.wait(late)

    async def _give_back_what_has_not_started(self) -> None:
        """At once, to whoever has room: an image may take minutes, and is there with the others or as slow."""
        await asyncio.sleep(0)  # a task that has not begun yet could not give anything back
        for key, run in self._runs.items():
            if run.is_preparing and not self._tasks[key].cancelling():  # a second time would interrupt the tidying up
                self._tasks[key].cancel()

    async def _beat(self) -> None:
        """
        Give a sign of life; return when NATS has it.

        Raises: QueueUnavailable.
        """
        await self._tools.stores.workers.put(self._tools.worker_id, self._sign(), ttl_s=BEAT_LIVES_S)

    def _sign(self) -> WorkerBeat:
        return WorkerBeat(
            id=self._tools.worker_id,
            host=platform.node(),
            version=__version__,
            runtime=self._tools.runtime.name,
            slots=self._slots,
            running=len(self._tasks),
            images=self._tools.images.count,
            started_at=self._started_at,
            beat_at=time.time(),
            egress=self._tools.runtime.offers_egress,
            draining=self._is_stopping or self._is_drained,
        )

    async def _say_goodbye(self) -> bool:
        """Prove that this worker is gone, if nothing of it can live; its successor does it otherwise."""
        if self._may_have_left_one:
            return False
        self._feed.release()
        try:
            await self._tools.stores.workers.put(
                self._tools.worker_id, replace(self._sign(), gone=True), ttl_s=GONE_LIVES_S
            )
        except QueueUnavailable:
            log.info("worker.left-without-goodbye", worker=self._tools.worker_id)
            return False
        return True
