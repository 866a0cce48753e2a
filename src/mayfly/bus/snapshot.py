"""
A stream as one archive, and back: JetStream's snapshot and restore, which nats-py does not know.

The archive is nats-server's own (2.15 or later reads what 2.15 writes). It comes in chunks, each acked, so that neither
side is ahead of the other by more than a window; an empty message is the end. One stream is saved as it stood at one
moment; several are saved one after the other. Rows: A3, A4.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import nats.errors
import structlog
from nats.aio.subscription import Subscription

from mayfly.bus.client import hearing_cancellation
from mayfly.bus.connection import Bus, translated
from mayfly.bus.patience import NOT_YET, UNANSWERED, patiently
from mayfly.domain.errors import PreconditionFailed, QueueUnavailable

log = structlog.get_logger()

CHUNK_BYTES = 256 * 1024
WINDOW_BYTES = 8 << 20
COMPLETE = "204"  # the status of the last message, where there is one
ANSWER_S = 30.0
CHUNK_S = 30.0
"""How long one chunk may take. A stream of a gigabyte is packed while it is sent."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """What the server says of a stream, in its own words, and the few of them that we compare."""

    config: dict[str, Any]
    state: dict[str, Any]

    @property
    def messages(self) -> int:
        """How many messages it holds."""
        return int(self.state["messages"])

    @property
    def last_seq(self) -> int:
        """The sequence of the newest message there ever was."""
        return int(self.state["last_seq"])


async def stream_state(bus: Bus, stream: str) -> StreamState:
    """
    Read a stream's configuration and state.

    Raises: PreconditionFailed when there is no such stream; QueueUnavailable.
    """
    return _state(await _ask(bus, f"$JS.API.STREAM.INFO.{stream}", None, also=UNANSWERED))


@dataclass
class Snapshot:
    """A stream that is being saved: how it stood, and the chunks of its archive."""

    stood: StreamState
    _bus: Bus
    _subscription: Subscription

    async def chunks(self) -> AsyncIterator[bytes]:
        """
        Receive the archive.

        Raises: QueueUnavailable when it breaks off.
        """
        while True:
            try:
                with hearing_cancellation():
                    message = await self._subscription.next_msg(timeout=CHUNK_S)
            except nats.errors.Error as error:
                raise QueueUnavailable(f"The snapshot of a stream broke off: {error}.") from error
            status = (message.headers or {}).get("Status", COMPLETE)
            if status != COMPLETE:
                words = (message.headers or {}).get("Description", "")
                raise QueueUnavailable(f"nats-server gave the snapshot up: {status} {words}".strip() + ".")
            if not message.data:
                return
            yield message.data
            if message.reply:
                with translated("save a stream"):
                    await self._bus.client.publish(message.reply)


@asynccontextmanager
async def snapshot(bus: Bus, stream: str) -> AsyncIterator[Snapshot]:
    """
    Begin to save a stream with its consumers.

    Raises: PreconditionFailed when there is no such stream; QueueUnavailable.
    """
    inbox = bus.client.new_inbox()
    with translated("save a stream"):
        subscription = await bus.client.subscribe(inbox)
        await bus.client.flush()
    try:
        query = {"deliver_subject": inbox, "chunk_size": CHUNK_BYTES, "window_size": WINDOW_BYTES}
        answer = await _ask(bus, f"$JS.API.STREAM.SNAPSHOT.{stream}", query)
        yield Snapshot(_state(answer), bus, subscription)
    finally:
        if bus.is_connected:
            await subscription.unsubscribe()


async def replace(bus: Bus, stream: str, *, state: dict[str, Any], chunks: Iterable[bytes]) -> None:
    """
    Put what `snapshot` gave in the place of all that a stream holds; the stream keeps its own configuration, so what
    was saved on one server can go into a cluster and back. When it fails the stream is empty.

    Raises: PreconditionFailed when there is no such stream, or the server does not take the archive; QueueUnavailable.
    """
    config = (await stream_state(bus, stream)).config
    try:
        await _ask(bus, f"$JS.API.STREAM.DELETE.{stream}", None)
        answer = await _ask(bus, f"$JS.API.STREAM.RESTORE.{stream}", {"config": config, "state": state})
        for chunk in chunks:
            await _send(bus, answer["deliver_subject"], chunk)
        await _send(bus, answer["deliver_subject"], b"")
    except BaseException:
        await _make_empty(bus, stream, config)
        raise


async def _make_empty(bus: Bus, stream: str, config: dict[str, Any]) -> None:
    """Remove what a restore that failed has left, and make the stream as it was configured."""
    try:
        await _ask(bus, f"$JS.API.STREAM.DELETE.{stream}", None)
    except PreconditionFailed:  # nothing was left
        log.debug("snapshot.nothing-left", stream=stream)
    await _ask(bus, f"$JS.API.STREAM.CREATE.{stream}", config)


async def empty(bus: Bus, stream: str) -> None:
    """
    Remove all messages of a stream.

    Raises: QueueUnavailable.
    """
    with translated("empty a stream"):
        await patiently(partial(bus.js.purge_stream, stream), also=UNANSWERED)


async def _send(bus: Bus, subject: str, chunk: bytes) -> None:
    """Send a chunk; in a cluster it can come before the news of who takes it, and then nobody has."""
    with translated("restore a stream"):
        message = await patiently(partial(bus.client.request, subject, chunk, timeout=CHUNK_S))
    if message.data:
        _refuse(json.loads(message.data))


async def _ask(
    bus: Bus, subject: str, query: dict[str, Any] | None, *, also: tuple[type[Exception], ...] = ()
) -> dict[str, Any]:
    """
    Ask JetStream. A cluster that is not all there has done nothing, and is asked again; *also* names further errors
    after which it may be.
    """
    with translated("ask JetStream"):
        return await patiently(partial(_ask_once, bus, subject, query), also=(_NotYet, *also))


async def _ask_once(bus: Bus, subject: str, query: dict[str, Any] | None) -> dict[str, Any]:
    payload = b"" if query is None else json.dumps(query).encode()
    message = await bus.client.request(subject, payload, timeout=ANSWER_S)
    answer: dict[str, Any] = json.loads(message.data)
    _refuse(answer)
    return answer


class _NotYet(QueueUnavailable):
    """The cluster is not all there, and has done nothing."""


def _refuse(answer: dict[str, Any]) -> None:
    if error := answer.get("error"):
        kind = _NotYet if error.get("err_code") in NOT_YET else PreconditionFailed
        raise kind(f"nats-server refused: {error.get('description')} ({error.get('err_code')}).")


def _state(answer: dict[str, Any]) -> StreamState:
    return StreamState(config=answer["config"], state=answer["state"])
