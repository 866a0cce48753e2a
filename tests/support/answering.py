"""
A worker without containers: it prepares any image and answers any call, by the protocol of the real one.

For tests of the API server alone. `echo` gives the parameter back; set `answer` for another behaviour.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from mayfly.bus.connection import Bus, connect
from mayfly.bus.queue import Claim, PullLoop
from mayfly.bus.requests import answering_images, answering_operator, answering_owner
from mayfly.bus.responses import publish_response
from mayfly.bus.stores import Stores
from mayfly.domain.activation import Response, State, Steps, Work
from mayfly.domain.ids import Digest, WorkerId, new_id
from mayfly.domain.image import ImageAnswer, PrepareImage, ProcessConfig
from mayfly.settings import NatsSettings

DIGEST = Digest(f"sha256:{'a' * 64}")
STEPS = Steps(admit_s=0.0002, queue_s=0.0001, image_s=0.0004, start_s=0.0002, run_s=0.0003)
"""Invented, and together less than the fastest machine really takes: what they leave of the whole is told as well."""


@dataclass
class Ending:
    """How the next calls end."""

    result: bytes | None = None
    state: State = State.SUCCEEDED
    stderr: bytes = b"logged\n"
    changes: dict[str, Any] = field(default_factory=dict)


def echo(work: Work) -> Ending:
    """Give the parameter back."""
    return Ending(result=work.parameter)


CANCELLED = Ending(state=State.CANCELLED, changes={"code": "cancelled", "detail": "Cancelled."})


async def _first_set(*events: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


class AnsweringWorker:
    """It. `claimed` are the calls it has run, `asked` the images it was asked for, `hold` keeps calls running."""

    def __init__(self, bus: Bus) -> None:
        """Work on an open bus."""
        self._bus = bus
        self._records = Stores.on(bus).activations
        self.id = WorkerId(new_id())
        self.answer: Callable[[Work], Ending] = echo
        self.image: Callable[[PrepareImage], ImageAnswer] = lambda _: ImageAnswer(
            digest=DIGEST, process=ProcessConfig(cmd=("cat",))
        )
        self.claimed: list[Work] = []
        self.asked: list[PrepareImage] = []
        self.drains: list[bool] = []  # what it was told of that
        self.hold = asyncio.Event()
        self.hold.set()
        self._owned: dict[str, asyncio.Event] = {}  # by the record's key; set when it is to be cancelled
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Work."""
        loop = PullLoop(self._bus, free_slots=lambda: 8 - len(self._tasks), on_claim=self._on_claim)
        async with (
            answering_images(self._bus, self._prepare, at_once=4, per_owner=4),
            answering_owner(self._bus, self.id, self._owned.__contains__, self._cancel),
            answering_operator(self._bus, self.id, self._drain),
        ):
            pulling = asyncio.create_task(loop.run(), name="pull")
            try:
                yield
            finally:
                loop.stop()
                await pulling

    async def _prepare(self, request: PrepareImage) -> ImageAnswer:
        self.asked.append(request)
        return self.image(request)

    async def _drain(self, drained: bool) -> None:
        self.drains.append(drained)

    def _cancel(self, key: str, _by_operator: bool) -> bool:
        if key in self._owned:
            self._owned[key].set()
        return key in self._owned

    def _on_claim(self, claim: Claim) -> None:
        task = asyncio.create_task(self._run(claim), name="run")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, claim: Claim) -> None:
        work = claim.work
        cancelled = self._owned[work.key] = asyncio.Event()
        self.claimed.append(work)
        attempt = new_id()
        running = work.record.moved(
            State.RUNNING, nonce=attempt, attempt=attempt, worker=self.id, ran="yes", started_at=time.time()
        )
        revision = await self._records.update(work.key, running, revision=work.revision, ttl_s=3600)
        await _first_set(self.hold, cancelled)
        ending = CANCELLED if cancelled.is_set() else self.answer(work)
        response = Response(attempt=attempt, result=ending.result, stderr=ending.stderr)
        seq = await publish_response(self._bus, work.key, response, keep_s=3600)
        final = running.moved(
            ending.state,
            nonce=new_id(),
            response_seq=seq,
            ended_at=time.time(),
            steps=STEPS,
            **ending.changes,
        )
        await self._records.update(work.key, final, revision=revision, ttl_s=3600)
        del self._owned[work.key]
        await claim.ack()


@asynccontextmanager
async def answering_worker(nats_url: str) -> AsyncIterator[AnsweringWorker]:
    """Connect one and let it work."""
    async with connect(NatsSettings(nats_url=nats_url), role="worker") as bus:
        worker = AnsweringWorker(bus)
        async with worker.working():
            yield worker
