"""
The response stream, and how an API server hears of an end.

A worker publishes the response first and then moves the record to its final state; the record names the attempt
whose response is valid. The server hears both as they happen: the response as it is published, the record by the
bucket's republish. Whoever missed them reads both again from the streams. Rows: A3, F12.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import nats.errors
import structlog

from mayfly.bus import messages, subjects
from mayfly.bus.codec import Codec, Undecodable
from mayfly.bus.connection import Bus, translated
from mayfly.bus.patience import UNANSWERED, patiently
from mayfly.domain.activation import Activation, Response

log = structlog.get_logger()

RESPONSE = Codec(Response)
RECORD = Codec(Activation)

FLUSH_S = 2  # one attempt: what was asked before the connection changed over is not answered


async def publish_response(bus: Bus, key: str, response: Response, *, keep_s: float) -> int:
    """
    Store the response of the activation with this record key; return its place in the stream.

    Raises: QueueUnavailable.
    """
    headers = {"Nats-Msg-Id": response.attempt}
    with translated("publish a response"):
        ack = await bus.js.publish(
            subjects.response(key), RESPONSE.encode(response), headers=headers, msg_ttl=max(1.0, keep_s)
        )
    return ack.seq


async def read_response(bus: Bus, key: str, *, attempt: str) -> Response | None:
    """
    Read the valid response of an activation at the stream's leader, which is waited for; None when it has left the
    stream.

    Raises: QueueUnavailable.
    """
    subject = subjects.response(key)
    ask = partial(messages.read, bus, subjects.RESPONSES, last_by_subj=subject)
    with translated("read a response"):
        stored = await patiently(ask, also=UNANSWERED)
    if stored is None:
        return None
    response = RESPONSE.decode(stored.data)
    return response if response.attempt == attempt else None


async def purge_responses(bus: Bus, user_id: str) -> None:
    """
    Remove all of a user's results and logs.

    Raises: QueueUnavailable.
    """
    with translated("purge responses"):
        await bus.js.purge_stream(subjects.RESPONSES, subject=subjects.responses_of(user_id))


class Waiter:
    """
    One caller's wait. `final` is set when the record's final state was heard; `response` may be heard before it.
    """

    def __init__(self) -> None:
        """Nothing heard yet."""
        self.responses: dict[str, Response] = {}
        self.final: asyncio.Future[Activation] = asyncio.get_running_loop().create_future()


class Listener:
    """
    Hears, for one API server, of responses and final records, and hands each to those who wait for it.

    What another server admitted it hears of only while somebody here waits for it.
    """

    def __init__(self, instance: str) -> None:
        """*instance* is the id of this API server in the keys of the activations it admitted."""
        self.instance = instance
        self._waiters: dict[str, list[Waiter]] = {}

    @asynccontextmanager
    async def listening(self, bus: Bus) -> AsyncIterator[None]:
        """Subscribe for the life of the server."""
        with translated("listen"):
            responses = await bus.client.hear(subjects.responses_for(self.instance), self._on_response)
            records = await bus.client.hear(subjects.done_for(self.instance), self._on_record)
            await bus.client.flush()
        try:
            yield
        finally:
            if bus.is_connected:
                await responses.unsubscribe()
                await records.unsubscribe()

    @asynccontextmanager
    async def waiting(self, ulid: str) -> AsyncIterator[Waiter]:
        """Wait for an activation of this server's; enter before it is submitted, so that nothing is missed."""
        waiter = Waiter()
        self._waiters.setdefault(ulid, []).append(waiter)
        try:
            yield waiter
        finally:
            self._waiters[ulid].remove(waiter)
            if not self._waiters[ulid]:
                del self._waiters[ulid]

    @asynccontextmanager
    async def waiting_for(self, bus: Bus, instance: str, ulid: str) -> AsyncIterator[Waiter]:
        """
        Wait for an activation of whichever server's. What was said before is not heard: read the record once inside.

        Raises: QueueUnavailable.
        """
        async with self.waiting(ulid) as waiter:
            if instance == self.instance:
                yield waiter
                return
            with translated("listen"):
                records = await bus.client.hear(subjects.done(instance, ulid), self._on_record)
            try:
                with translated("listen"):
                    await patiently(partial(bus.client.flush, timeout=FLUSH_S), also=UNANSWERED)
                yield waiter
            finally:
                with suppress(nats.errors.Error):  # without a connection, or at its end: here it is gone all the same
                    await records.unsubscribe()

    def _on_response(self, subject: str, data: bytes) -> None:
        waiters = self._waiters.get(subject.rpartition(".")[2])
        if not waiters:
            return
        try:
            response = RESPONSE.decode(data)
        except Undecodable as error:
            log.error("responses.undecodable", subject=subject, error=str(error))
            return
        for waiter in waiters:
            waiter.responses[response.attempt] = response

    def _on_record(self, subject: str, data: bytes) -> None:
        """Every state comes by here, and the tombstones: only a final one ends a wait."""
        waiters = self._waiters.get(subject.rpartition(".")[2])
        if not waiters or not data:
            return
        try:
            record = RECORD.decode(data)
        except Undecodable as error:
            log.error("records.undecodable", subject=subject, error=str(error))
            return
        for waiter in waiters if record.state.is_final else ():
            if not waiter.final.done():
                waiter.final.set_result(record)
