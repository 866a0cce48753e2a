"""
An API server's services and workers in one process, on a real nats-server, over a runtime that starts nothing.

For tests of what becomes of an activation, whoever does what to it when.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from mayfly.bus.clock_reading import keeping_time
from mayfly.bus.connection import Bus
from mayfly.bus.queue import in_flight, submit
from mayfly.bus.responses import Listener
from mayfly.bus.stores import Stores
from mayfly.containers.fake import FakeRuntime
from mayfly.domain.activation import Activation, State, Steps, Work
from mayfly.domain.function import Function
from mayfly.domain.ids import Digest, FunctionName, UserId, WorkerId, new_id, new_ulid
from mayfly.domain.image import ProcessConfig
from mayfly.images.trees import PreparedImage
from mayfly.services.call import PLAIN, Call, CallOptions
from mayfly.services.cancel import Canceller
from mayfly.services.invoke import Invoker
from mayfly.services.janitor import Janitor
from mayfly.services.sealing import Opener
from mayfly.worker.loop import Worker
from mayfly.worker.run import Tools
from tests.support.bus import Installation
from tests.support.cluster import Cluster

KEEP_S = 3600


class OneImage:
    """An image store that has one image. The real one is tested against a registry."""

    error: Exception | None = None
    delay_s = 0.0
    count = 1
    rootfs = Path("/")

    def __init__(self) -> None:
        """Nobody has asked."""
        self.asked = asyncio.Event()

    async def prepare(self, *_: object, **__: object) -> PreparedImage:
        """The image, or the error."""
        await asyncio.sleep(self.delay_s)
        self.asked.set()
        if self.error:
            raise self.error
        config = ProcessConfig(cmd=("cat",))
        return PreparedImage(digest=Digest("sha256:" + "0" * 64), rootfs=self.rootfs, config=config, size_bytes=1)

    resolve = prepare

    def lease(self, _: Digest) -> nullcontext[None]:
        """Nothing is ever removed."""
        return nullcontext()


class World:
    """One server with an invoker, and workers that come and go."""

    def __init__(self, nats: Installation | Cluster, bus: Bus) -> None:
        """Nothing runs yet."""
        self.nats = nats
        self.bus = bus
        self.stores = Stores.on(bus)
        self.listener = Listener(new_id())
        self.invoker = Invoker(bus, self.stores, self.listener, wait_ms=0, keep_s=KEEP_S)
        self.canceller = Canceller(bus, self.stores, self.listener, keep_s=KEEP_S)
        self.janitor = Janitor(bus, self.stores, keep_s=KEEP_S)
        self.images = OneImage()
        self.runtime = FakeRuntime()
        self.opener = Opener({})

    @asynccontextmanager
    async def worker(self, slots: int = 4, grace_s: float = 5) -> AsyncIterator[Worker]:
        """Run a worker; it is stopped in good order at the end."""
        async with self.nats.connect("worker") as bus, keeping_time(bus):
            worker, stop = Worker(self.tools(bus), slots=slots), asyncio.Event()
            running = asyncio.create_task(worker.run(stop, grace_s=grace_s))
            try:
                yield worker
            finally:
                stop.set()
                await running

    def tools(self, bus: Bus) -> Tools:
        """What a worker works with, on a connection of its own."""
        return Tools(
            worker_id=WorkerId(new_id()),
            bus=bus,
            stores=Stores.on(bus),
            images=self.images,  # type: ignore[arg-type]
            runtime=self.runtime,
            keep_s=KEEP_S,
            opener=self.opener,
        )

    async def function(self, **given: Any) -> Function:
        """Register a function."""
        values: dict[str, Any] = {"image": "busybox", "digest": "sha256:" + "0" * 64, **given}
        function = Function(
            id=new_id(), user_id=UserId(new_id()), name=FunctionName("f"), created_at=1, updated_at=1, **values
        )
        await self.stores.functions.create(function.key, function)
        return function

    async def invoke(self, function: Function, parameter: bytes = b"x", options: CallOptions = PLAIN) -> bytes:
        """Call it."""
        return (await self.invoker.invoke(Call(function.user_id, function, parameter, options))).result

    async def record(self, function: Function) -> Activation:
        """The one record of the function's owner."""
        [key] = await self.stores.activations.keys(function.user_id)
        entry = await self.stores.activations.get(key)
        assert entry
        return entry.value

    async def until(self, count: int, *, timeout_s: float = 10) -> None:
        """Wait until so many are in flight."""
        async with asyncio.timeout(timeout_s):
            while await in_flight(self.bus) != count:
                await asyncio.sleep(0.01)

    async def until_started(self, count: int) -> None:
        """Wait until so many commands have been started."""
        async with asyncio.timeout(10):
            while len(self.runtime.calls) < count:
                await asyncio.sleep(0.01)

    async def queued(self, function: Function, **changes: Any) -> Work:
        """Put an activation into the queue as an API server does, without waiting for it."""
        values: dict[str, Any] = {"deadline_at": 4_000_000_000.0, **changes}
        record = Activation(
            state=State.QUEUED,
            nonce=new_id(),
            user_id=function.user_id,
            instance=self.listener.instance,
            ulid=new_ulid(),
            function=function.name,
            function_id=function.id,
            image=function.image,
            digest=function.digest,
            parameter_bytes=1,
            parameter_sha256="",
            created_at=1.0,
            **values,
        )
        revision = await self.stores.activations.create(record.key, record)
        work = Work(
            user_id=record.user_id,
            instance=record.instance,
            ulid=record.ulid,
            revision=revision,
            record=replace(record, steps=Steps(admit_s=0)),
            function=function,
            parameter=b"x",
            budget_s=30,
        )
        await submit(self.bus, work, wait_s=0)
        return work

    async def move(self, work: Work, state: State, **changes: Any) -> None:
        """Move its record."""
        entry = await self.stores.activations.get(work.key)
        assert entry
        moved = entry.value.moved(state, nonce=new_id(), **changes)
        await self.stores.activations.update(work.key, moved, revision=entry.revision)


class Crashing:
    """A worker that can die."""

    def __init__(self, world: World, bus: Bus, *, slots: int) -> None:
        """It has a connection of its own."""
        self._world, self._bus = world, bus
        self._tools = world.tools(bus)
        self.worker = Worker(self._tools, slots=slots)

    async def crash(self) -> None:
        """Die: the connection goes, and nothing more is said."""
        await self._bus.client.close()

    async def is_succeeded(self) -> None:
        """Have a successor prove that it is gone, with its containers."""
        beat = replace(self.worker._sign(), gone=True)
        async with self._world.nats.connect("worker") as bus:
            await Stores.on(bus).workers.put(beat.id, beat, ttl_s=60)


@asynccontextmanager
async def crashing_worker(world: World, *, slots: int) -> AsyncIterator[Crashing]:
    """Run a worker that dies when it is told to."""
    async with world.nats.connect("worker") as bus, keeping_time(bus):
        crashing = Crashing(world, bus, slots=slots)
        running = asyncio.create_task(crashing.worker.run(asyncio.Event(), grace_s=0))
        yield crashing
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def a_world(nats: Installation | Cluster) -> AsyncIterator[World]:
    """Make one on an installation; its API server listens."""
    async with nats.connect("api") as bus:
        world = World(nats, bus)
        async with keeping_time(bus), world.listener.listening(bus):
            yield world
            await world.invoker.close()
