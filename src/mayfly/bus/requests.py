"""
What API servers ask workers, over plain NATS requests: to prepare an image, and whether they have an activation.

"No responders" comes at once when nobody listens, so a dead worker is told from a slow one; a frozen one is a time-out.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

import nats.errors
import structlog
from nats.aio.msg import Msg

from mayfly.bus import subjects
from mayfly.bus.codec import Codec, Undecodable
from mayfly.bus.connection import Bus, translated
from mayfly.domain.errors import NoWorkers, QueueUnavailable
from mayfly.domain.image import ImageAnswer, PrepareImage

log = structlog.get_logger()

PREPARE = Codec(PrepareImage)
ANSWER = Codec(ImageAnswer)
OWNS_TIMEOUT_S = 1.0
DRAIN_TIMEOUT_S = 5.0  # it gives a sign of life first, so that the list of workers says what was answered
YES, NO = b"1", b"0"
BY_OPERATOR = "Mayfly-By-Operator"
"""A header of the request to cancel. Whoever does not know it cancels all the same, and takes it for the owner's."""


class Ownership(enum.Enum):
    """What a worker, or its silence, says about an activation."""

    OWNED = "owned"
    DENIED = "denied"  # it lives, and does not have it
    GONE = "gone"  # nobody listens under its id
    SILENT = "silent"  # connected, but no answer in time


async def ask_for_image(bus: Bus, request: PrepareImage, *, timeout_s: float) -> ImageAnswer:
    """
    Have one of the workers prepare an image.

    Raises: NoWorkers when there is none, or none answered in *timeout_s* what can be read; QueueUnavailable.
    """
    try:
        message = await bus.client.request(subjects.PREPARE_IMAGE, PREPARE.encode(request), timeout=timeout_s)
    except (nats.errors.NoRespondersError, nats.errors.TimeoutError) as error:
        raise NoWorkers(retry_after_s=2) from error
    except nats.errors.Error as error:
        raise QueueUnavailable(retry_after_s=1) from error
    try:
        return ANSWER.decode(message.data)
    except Undecodable as error:
        log.error("image.answer-undecodable", image=request.reference, error=str(error))
        raise NoWorkers(retry_after_s=2) from error


async def tell_to_prefetch(bus: Bus, request: PrepareImage) -> None:
    """
    Have every worker fetch an image in the background. Nothing is lost if one does not hear it.

    Raises: QueueUnavailable.
    """
    with translated("tell workers to prefetch"):
        await bus.client.publish(subjects.PREFETCH_IMAGE, PREPARE.encode(request))


async def ask_owner(bus: Bus, worker_id: str, activation: str) -> Ownership:
    """
    Ask a worker whether it has an activation.

    Raises: QueueUnavailable when this process itself has no connection.
    """
    try:
        answer = await bus.client.request(subjects.owns(worker_id), activation.encode(), timeout=OWNS_TIMEOUT_S)
    except nats.errors.NoRespondersError:
        return Ownership.GONE
    except nats.errors.TimeoutError:
        return Ownership.SILENT
    except nats.errors.Error as error:
        raise QueueUnavailable(retry_after_s=1) from error
    return Ownership.OWNED if answer.data == YES else Ownership.DENIED


async def ask_to_cancel(bus: Bus, worker_id: str, activation: str, *, by_operator: bool = False) -> bool:
    """
    Have a worker end an activation, as its owner or an operator wants; False when it does not have it, or does not
    answer. How it ends its record tells.

    Raises: QueueUnavailable when this process itself has no connection.
    """
    try:
        answer = await bus.client.request(
            subjects.cancel(worker_id),
            activation.encode(),
            timeout=OWNS_TIMEOUT_S,
            headers={BY_OPERATOR: "1"} if by_operator else None,
        )
    except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
        return False
    except nats.errors.Error as error:
        raise QueueUnavailable(retry_after_s=1) from error
    return answer.data == YES


async def ask_to_drain(bus: Bus, worker_id: str, *, drained: bool) -> bool:
    """
    Have a worker claim nothing more, or claim again; False when nobody answers for it.

    Raises: QueueUnavailable when this process itself has no connection.
    """
    try:
        await bus.client.request(subjects.drain(worker_id), YES if drained else NO, timeout=DRAIN_TIMEOUT_S)
    except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
        return False
    except nats.errors.Error as error:
        raise QueueUnavailable(retry_after_s=1) from error
    return True


@asynccontextmanager
async def answering_owner(
    bus: Bus,
    worker_id: str,
    owns: Callable[[str], bool],
    cancel: Callable[[str, bool], bool] = lambda _key, _by_operator: False,
) -> AsyncIterator[None]:
    """
    Answer, as a worker, whether it has an activation, and end one that is to be cancelled, if it has that; *cancel* is
    also told whether it is an operator who wants it.
    """

    async def on_owns(message: Msg) -> None:
        await message.respond(YES if owns(_text(message)) else NO)

    async def on_cancel(message: Msg) -> None:
        await message.respond(YES if cancel(_text(message), BY_OPERATOR in (message.headers or {})) else NO)

    async with _hearing(bus, {subjects.owns(worker_id): on_owns, subjects.cancel(worker_id): on_cancel}):
        yield


@asynccontextmanager
async def answering_operator(bus: Bus, worker_id: str, drain: Callable[[bool], Awaitable[None]]) -> AsyncIterator[None]:
    """Do, as a worker, what operators tell it: to claim nothing more (*drain* is given True), or to claim again."""

    async def on_drain(message: Msg) -> None:
        await drain(message.data == YES)
        await message.respond(YES)

    async with _hearing(bus, {subjects.drain(worker_id): on_drain}):
        yield


def _text(message: Msg) -> str:
    return message.data.decode(errors="replace")


@asynccontextmanager
async def _hearing(bus: Bus, answers: dict[str, Callable[[Msg], Awaitable[None]]]) -> AsyncIterator[None]:
    """Have each subject answered."""
    with translated("listen for questions"):
        subscriptions = [await bus.client.subscribe(subject, cb=answer) for subject, answer in answers.items()]
        await bus.client.flush()
    try:
        yield
    finally:
        for subscription in subscriptions if bus.is_connected else ():
            await subscription.unsubscribe()


@asynccontextmanager
async def answering_images(
    bus: Bus, prepare: Callable[[PrepareImage], Awaitable[ImageAnswer]], *, at_once: int, per_owner: int
) -> AsyncIterator[None]:
    """
    Prepare images, as a worker, for whoever asks; no more than *at_once* at a time, and *per_owner* of one user's, so
    that a registry which keeps its users waiting does not keep everybody else's.
    """
    tasks: set[asyncio.Task[None]] = set()
    room = asyncio.Semaphore(at_once)
    rooms: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()  # gone with the last who is inside

    async def answer(message: Msg) -> None:
        try:
            request = PREPARE.decode(message.data)
        except Undecodable as error:
            log.error("image.undecodable", error=str(error))
            return
        async with rooms.setdefault(request.owner, asyncio.Semaphore(per_owner)), room:
            result = await prepare(request)
        if message.reply:
            await message.respond(ANSWER.encode(result))

    async def on_request(message: Msg) -> None:
        task = asyncio.create_task(answer(message), name="prepare-image")
        tasks.add(task)
        task.add_done_callback(_forget(tasks))

    with translated("listen for images"):
        asked = await bus.client.subscribe(subjects.PREPARE_IMAGE, queue=subjects.PREPARERS, cb=on_request)
        told = await bus.client.subscribe(subjects.PREFETCH_IMAGE, cb=on_request)
        await bus.client.flush()
    try:
        yield
    finally:
        if bus.is_connected:
            await asked.unsubscribe()
            await told.unsubscribe()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _forget(tasks: set[asyncio.Task[None]]) -> Callable[[asyncio.Task[None]], None]:
    def done(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("image.answer-failed", error=repr(error))

    return done
