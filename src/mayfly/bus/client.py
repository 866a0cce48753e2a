"""
nats-py's client, with what a call needs of it beyond that: it asks in fewer turns of the event loop, refuses by itself
what its server would close the connection for, and hears each cancellation.

nats-py hands what is published to a task that writes it, and an answer to a queue, a task, a wait and another one. Each
of these is a turn of the event loop, some 10 us of processor time, and a call asks a dozen times: see
docs/explanation/where-the-time-goes.md. Everything else, the protocol, subscriptions and reconnecting, is nats-py's.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import nats.aio.client
import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from nats.js.api import Header, PubAck
from nats.js.errors import APIError, NoStreamResponseError
from nats.nuid import NUID

from mayfly.bus.answers import Answer, Failure

log = structlog.get_logger()

HEADERS_MAX_BYTES = 16 * 1024  # more than anything here sends beside a payload
WRITTEN_AT_ONCE_BYTES = 64 * 1024  # while no more waits for the socket; asyncio's own high-water mark
NO_RESPONDERS = "503"

Hear = Callable[[str, bytes], None]
"""What is told a message's subject and content."""


class Client(nats.aio.client.Client):
    """
    A client that refuses by itself what its server would close the connection for, since nats-py counts no headers; and
    that hears each cancellation: nats-py swallows any that comes while it waits for its socket, and some that come with
    the answer to a PING. A loop that was told to end would then go on for ever, with somebody waiting for it. And it
    goes on reading after an answer that comes when nobody waits for it any more, and after headers that are none.
    """

    def __init__(self) -> None:
        """Not connected yet; nothing is asked."""
        super().__init__()
        self._nuid = Unguessable()
        self._asked: dict[str, asyncio.Future[Msg]] = {}  # by the last token of where the answer is to come
        self._answers_sid, self._answers_prefix = 0, ""
        self._heard: dict[int, Hear] = {}  # by the subscription's id

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        if len(payload) + HEADERS_MAX_BYTES > self.max_payload:
            raise nats.errors.MaxPayloadError
        await super().publish(subject, payload, reply, headers)

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,
        old_style: bool = False,
        headers: dict[str, Any] | None = None,
    ) -> Msg:
        """Ask, and wait for the first answer, which is handed over as it is read. There is one style of asking here."""
        if self.is_draining_pubs:
            raise nats.errors.ConnectionDrainingError
        if not self._resp_sub_prefix:
            await self._init_request_sub()
        loop = asyncio.get_running_loop()
        token = new_token()
        asked: asyncio.Future[Msg] = loop.create_future()
        self._asked[token] = asked
        give_up = loop.call_later(timeout, _give_up, asked)
        try:
            await self.publish(subject, payload, f"{self._answers_prefix}{token}", headers)
            answer = await asked
        finally:
            give_up.cancel()
            del self._asked[token]
        if answer.headers and answer.headers.get(Header.STATUS) == NO_RESPONDERS:
            raise nats.errors.NoRespondersError
        return answer

    async def hear(self, subject: str, hear: Hear) -> Subscription:
        """
        Have *hear* told each message's subject and content, as it is read: nothing waits, and nothing can be dropped.
        So it must be quick. Headers are not read.

        Raises: as `subscribe`.
        """
        sid = self._sid + 1  # what it is told may be here before `subscribe` returns
        self._heard[sid] = hear
        try:
            return await self.subscribe(subject)
        except BaseException:
            self._heard.pop(sid, None)
            raise

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._heard.pop(sid, None)
        super()._remove_sub(sid, max_msgs)

    async def _init_request_sub(self) -> None:
        self._answers_sid = self._sid + 1
        await super()._init_request_sub()
        self._answers_prefix = bytes(self._resp_sub_prefix or b"").decode()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        hear = self._heard.get(sid)
        if not hear and sid != self._answers_sid:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        if hear:
            try:
                hear(subject.decode(), data)
            except Exception:  # nats-py would end its reading
                log.exception("nats.not-heard", subject=subject.decode())
            return
        asked = self._asked.get(subject[len(self._answers_prefix) :].decode())
        if asked and not asked.done():
            asked.set_result(self._build_message(sid, subject, reply, data, await self._process_headers(headers)))

    async def flush(self, timeout: int = 10) -> None:
        """
        Wait until the server that is connected has everything: nats-py's PING alone overtakes a SUB that waits to be
        sent. Without a connection nothing is waited for.
        """
        with hearing_cancellation():
            sent = asyncio.ensure_future(self._flush_pending(force_flush=True))
            try:
                done, _ = await asyncio.wait({sent}, timeout=timeout)
            finally:
                sent.cancel()
            if not done:
                raise nats.errors.FlushTimeoutError
            sent.result()
            await super().flush(timeout)

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:  # nats-py would end its reading
        try:
            return await super()._process_headers(headers)
        except (ValueError, IndexError) as error:
            log.error("nats.headers-unreadable", error=repr(error))
            return None

    async def _process_pong(self) -> None:  # nats-py would end its reading at one that is late
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        """Write at once where the socket takes it; else have nats-py's task write it, and wait for that if need be."""
        writer = None if force_flush else self._free_writer()
        if writer:
            writer.write(b"".join(self._pending))
            self._pending, self._pending_data_size = [], 0
            return
        with hearing_cancellation():
            await super()._flush_pending(force_flush)

    def _free_writer(self) -> asyncio.StreamWriter | None:
        """Return what writes to the socket, if nothing keeps that from taking what is pending."""
        writer: asyncio.StreamWriter | None = getattr(self._transport, "_io_writer", None)  # of a transport over TCP
        if writer is None or not self.is_connected or writer.is_closing():
            return None
        return writer if writer.transport.get_write_buffer_size() < WRITTEN_AT_ONCE_BYTES else None


def _give_up(asked: asyncio.Future[Msg]) -> None:
    if not asked.done():
        asked.set_exception(nats.errors.TimeoutError())


@contextmanager
def hearing_cancellation() -> Iterator[None]:
    """Raise CancelledError at the end of what is done inside, whatever came of it, if the task was cancelled in it."""
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    finally:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError


class Unguessable(NUID):
    """
    What makes the subjects on which replies are awaited.

    A worker may answer at any inbox of another worker's questions, for permissions know no random names. It learns
    those of the questions it is asked; nats-py counts them up, so it could tell the next ones, and answer in the
    database's place.
    """

    def next(self) -> bytearray:
        """Make 22 characters, as nats-py expects, of 128 random bits."""
        return bytearray(new_token().encode())


def new_token() -> str:
    """Make 22 characters of 128 random bits."""
    return secrets.token_urlsafe(16)


class _Stored(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: Failure | None = None


_STORED = Answer(_Stored)


class JetStream(JetStreamContext):
    """nats-py's, which reads the answers to publications, of which a call makes six, in a tenth of the time."""

    async def publish(  # noqa: PLR0917 - as it is in nats-py
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float | None = None,
        stream: str | None = None,
        headers: dict[str, Any] | None = None,
        msg_ttl: float | None = None,
    ) -> PubAck:
        """
        Publish, and wait until the stream has it; *msg_ttl* in whole seconds, what is over is cut off.

        Raises: as nats-py's.
        """
        sent = dict(headers or {})
        if stream is not None:
            sent[Header.EXPECTED_STREAM] = stream
        if msg_ttl is not None:
            sent[Header.MSG_TTL] = str(int(msg_ttl))
        try:
            reply = await self._nc.request(subject, payload, timeout=timeout or self._timeout, headers=sent or None)
        except nats.errors.NoRespondersError:
            raise NoStreamResponseError from None
        answer = _STORED.decode(reply.data)
        if answer.error:
            APIError.from_error(msgspec.structs.asdict(answer.error))  # raises the one of its kind
        return PubAck(stream=answer.stream, seq=answer.seq, duplicate=answer.duplicate or None)
