"""
The work stream: admission on one side, claims on the other.

The stream is the limiter. What it holds is in flight, and `submit` is refused by the server itself, alone or in a
cluster, when M or U are reached. A claim keeps its place until it is acked.

The pull loop is our own because `fetch` prefetches, stalls after an empty fetch and loses what arrives while it is
cancelled (see docs/adr). Rows: A3, F13.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial

import msgspec
import nats.errors
import structlog
from msgspec.structs import replace
from nats.aio.msg import Msg
from nats.js.api import PubAck, StreamState
from nats.js.errors import APIError

from mayfly.bus import messages, subjects
from mayfly.bus.codec import Codec, Undecodable
from mayfly.bus.connection import REQUEST_TIMEOUT_S, UNREACHABLE, Bus, translated
from mayfly.bus.patience import ASKED_AGAIN_S, FAILOVER_S, NOT_STORED, insistently, patiently
from mayfly.bus.schema import ACK_WAIT_S, message_ttl_s
from mayfly.domain.activation import Work
from mayfly.domain.errors import QueueUnavailable

log = structlog.get_logger()

LIMIT_REACHED = 10077  # err_code of "maximum messages (per subject) exceeded", and of other full stores
DUPLICATE_IN_PROCESS = 10158
PULL_EXPIRES_S = 1.0
"""A server does not see a worker go that was connected to another one of the cluster: its last pull outlives it by up
to this, and what it takes is delivered to nobody, and again after `ACK_WAIT_S`."""
PULL_ANSWERED_S = 1.0  # how much later the server has said that it is over; else it has forgotten it: its leader died
KEEP_EVERY_S = ACK_WAIT_S / 3
UNDECODABLE_DELAY_S = 30.0
READ_ANEW_S = 60.0  # an inventory; a whole reading of 32 parameters of 1 MiB takes half a second

WORK = Codec(Work)


class Refused(Exception):
    """The stream is full; `scope` says for whom."""

    def __init__(self, scope: str) -> None:
        """*scope* is `platform` or `user`."""
        self.scope = scope
        super().__init__(scope)


class SubmitUnknown(Exception):
    """Nobody can say whether the message is in the stream: its publication timed out, twice."""


async def submit(bus: Bus, work: Work, *, wait_s: float) -> int:
    """
    Put an activation into the work stream; return its sequence. For up to *wait_s* a full stream is asked again,
    since on a cluster a slot frees some milliseconds after the answer that freed it.

    Raises: Refused; SubmitUnknown; QueueUnavailable when it is certain that nothing was stored.
    """
    began = time.monotonic()

    def payload() -> bytes:
        return WORK.encode(replace(work, budget_s=work.budget_s - (time.monotonic() - began)))

    return await insistently(partial(_publish, bus, work, payload), refusal=Refused, for_s=wait_s)


async def _publish(bus: Bus, work: Work, payload: Callable[[], bytes]) -> int:
    """
    Publish once, and once more under the same message id if the answer was lost. *payload* is asked for each time, as
    it says how much time is left.
    """

    async def publish() -> PubAck:
        headers, ttl = {"Nats-Msg-Id": work.ulid}, message_ttl_s(work.budget_s)
        return await bus.js.publish(subjects.act(work.user_id), payload(), headers=headers, msg_ttl=ttl)

    for attempt in (1, 2):
        try:
            ack = await patiently(publish, for_s=min(FAILOVER_S, work.budget_s))
        except APIError as error:
            if error.err_code == DUPLICATE_IN_PROCESS and attempt == 1:
                await asyncio.sleep(ASKED_AGAIN_S)
                continue
            _raise_refusal(error, ambiguous=attempt > 1)
        except NOT_STORED as error:
            if attempt == 1:
                raise QueueUnavailable(retry_after_s=1) from error
            raise SubmitUnknown from error
        except UNREACHABLE as error:
            log.warning("queue.submit-unanswered", activation=work.ulid, attempt=attempt, error=repr(error))
        else:
            return ack.seq
    raise SubmitUnknown


def _raise_refusal(error: APIError, *, ambiguous: bool) -> None:
    """A refusal after an unanswered attempt proves nothing about that attempt: the caller's CAS decides."""
    description = error.description or ""
    if error.err_code == LIMIT_REACHED and "maximum messages" in description:
        raise Refused("user" if "per subject" in description else "platform") from error
    if ambiguous:
        raise SubmitUnknown from error
    raise QueueUnavailable(f"The queue did not take the activation: {description}.", retry_after_s=1) from error


async def in_flight(bus: Bus, user_id: str | None = None) -> int:
    """
    Count what the stream holds, waiting and running: of one user, or in all.

    Raises: QueueUnavailable.
    """
    with translated("count activations"):
        if user_id is None:
            return (await bus.js.stream_info(subjects.ACT)).state.messages
        state = (await bus.js.stream_info(subjects.ACT, subjects_filter=subjects.act(user_id))).state
    return sum((state.subjects or {}).values())


@dataclass(frozen=True, slots=True)
class Queued:
    """A message as it lies in the stream, seen from outside."""

    key: str  # of its record
    seq: int
    stored_at: float  # by NATS's clock


async def walk(bus: Bus, *, of: str = "*", seq: int = 1, last_seq: int | None = None) -> AsyncIterator[Queued]:
    """
    Read every message of the stream, or of one user (*of*), from *seq* on, the oldest first, without claiming any; up
    to *last_seq*, or to what lies there now, as others come meanwhile.

    Raises: QueueUnavailable.
    """
    last_seq = (await _state(bus)).last_seq if last_seq is None else last_seq
    lying = messages.read_through(bus, subjects.ACT, subject=subjects.act(of), first_seq=seq, last_seq=last_seq)
    with translated("walk the queue"):
        async for stored in lying:
            try:
                work = WORK.decode(stored.data)
            except Undecodable:
                continue
            yield Queued(work.key, stored.seq, stored.time.timestamp())


async def find_queued(bus: Bus, user_id: str, key: str) -> Queued | None:
    """
    Look for the message of an activation, whose record has that *key*, among all of its user's.

    Raises: QueueUnavailable.
    """
    async for queued in walk(bus, of=user_id):
        if queued.key == key:
            return queued
    return None


async def _state(bus: Bus) -> StreamState:
    with translated("look at the queue"):
        return (await bus.js.stream_info(subjects.ACT)).state


class Inventory:
    """
    What lies in the stream, as one janitor knows it. A message is read once and remembered by its sequence: it does not
    change, and reading it takes its parameter along, which may have 1 MiB. All is read anew every `READ_ANEW_S`, so
    that no wrong answer is believed for longer.
    """

    def __init__(self, bus: Bus) -> None:
        """Nothing is read yet."""
        self._bus = bus
        self._known: dict[int, Queued] = {}
        self._next_seq = 1
        self._read_at = time.monotonic()

    async def take(self) -> list[Queued]:
        """
        Return what lies there, the oldest first; and what has left from between until it is forgotten.

        Raises: QueueUnavailable.
        """
        state = await _state(self._bus)
        is_another = state.last_seq < self._next_seq - 1  # made anew, or without its last messages
        if is_another or time.monotonic() >= self._read_at + READ_ANEW_S:
            self._known, self._next_seq, self._read_at = {}, 1, time.monotonic()
        self._known = {seq: queued for seq, queued in self._known.items() if seq >= state.first_seq}
        async for queued in walk(self._bus, seq=self._next_seq, last_seq=state.last_seq):
            self._known[queued.seq] = queued
            self._next_seq = queued.seq + 1
        self._next_seq = state.last_seq + 1
        return list(self._known.values())

    def forget(self, queued: Queued) -> None:
        """It was deleted, or found to have left."""
        self._known.pop(queued.seq, None)


async def delete_queued(bus: Bus, seq: int) -> bool:
    """
    Remove the message at that sequence, as `submit` has returned it; return whether it was still there.

    Raises: QueueUnavailable.
    """
    with translated("delete a queued message"):
        return await messages.delete(bus, subjects.ACT, seq)


async def is_there(bus: Bus, queued: Queued) -> bool:
    """
    Say whether a message that `walk` read still lies where it lay.

    A stream does not use a sequence again, unless it was made anew, or has lost its last messages with a disk.

    Raises: QueueUnavailable.
    """
    with translated("look at a queued message"):
        stored = await messages.read(bus, subjects.ACT, seq=queued.seq)
    return stored is not None and WORK.decode(stored.data).key == queued.key


async def delete_if_there(bus: Bus, queued: Queued) -> bool:
    """
    Remove a message that `walk` read, if it is still that one that lies there; return whether it was.

    Raises: QueueUnavailable.
    """
    return await is_there(bus, queued) and await delete_queued(bus, queued.seq)


@dataclass
class Claim:
    """One delivery of a message. It is this worker's until it is acked, or not kept alive for `ACK_WAIT_S`."""

    work: Work
    stream_seq: int
    deliveries: int
    admitted_at: float  # when NATS stored it
    queued_s: float  # how long it lay in the stream
    _message: Msg = field(repr=False)

    async def ack(self) -> None:
        """
        Remove the message, and with it the activation's slot; returns when the server has done it.

        Raises: QueueUnavailable (the message will be delivered again, and its record says that it is over).
        """
        with translated("ack"):
            await self._message.ack_sync(timeout=REQUEST_TIMEOUT_S)

    async def keep(self) -> None:
        """
        Say that the work goes on. Call it every `ACK_WAIT_S / 3`.

        Raises: QueueUnavailable.
        """
        with translated("keep a claim"):
            await self._message.in_progress()

    async def give_back(self, *, delay_s: float = 0) -> None:
        """
        Hand the message to another worker, not before *delay_s*. Nothing happens when it was acked before.

        Raises: QueueUnavailable.
        """
        if self._message.is_acked:
            return
        with translated("give a claim back"):
            await self._message.nak(delay=delay_s or None)


@dataclass
class _Inbox:
    """Where one pull request at a time is answered. What comes in keeps its own subject, so each has its callback."""

    subject: str
    open: int = 0  # messages that the pull may still bring
    over_at: float = 0.0

    def is_forgotten(self) -> bool:
        """Whether the server does not know of the pull any more."""
        return bool(self.open) and self.over_at < time.monotonic()


class PullLoop:
    """
    Keeps as many messages requested as there are free slots, and hands each over as a `Claim`.

    Guarantees: never more claims than slots, for what comes in beyond goes back at once; a pull that the server
    forgot (restart, leader change) is given up when its time is over or at a reconnect, and asked again; a message that
    cannot be decoded goes back with a delay and an error in the log, and the next is asked for at once.
    """

    def __init__(self, bus: Bus, *, free_slots: Callable[[], int], on_claim: Callable[[Claim], None]) -> None:
        """*free_slots* counts the slots without an activation; *on_claim* starts a task and returns."""
        self._bus = bus
        self._free_slots = free_slots
        self._on_claim = on_claim
        self._inboxes: list[_Inbox] = []
        self._wake = asyncio.Event()
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{subjects.ACT}.{subjects.ACT_CONSUMER}"
        self._stopping = False

    def slot_freed(self) -> None:
        """Tell the loop that it may ask for more."""
        self._wake_if_need_be()

    def stop(self) -> None:
        """Ask for nothing more; what arrives from now on goes back to the queue."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """
        Pull until `stop`, and until no pull is out; while there is no connection, wait for it to come back.

        The subscriptions stay until the connection is drained: what the server sends until then must come in, to be
        given back at once. Dropped, it would wait for `ACK_WAIT_S`.
        """
        reconnects = self._bus.reconnects
        while not self._stopping:
            if self._bus.reconnects != reconnects:
                reconnects = self._bus.reconnects
                self._forget(self._inboxes)
            self._forget([inbox for inbox in self._inboxes if inbox.is_forgotten()])
            await self._ask()
            await self._pause()
        while any(inbox.open and not inbox.is_forgotten() for inbox in self._inboxes):
            await self._pause()

    def _forget(self, inboxes: list[_Inbox]) -> None:
        for inbox in inboxes:
            log.debug("queue.pull-forgotten", open=inbox.open)
            inbox.open = 0

    async def _pause(self) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(0.5):
                await self._wake.wait()
        except TimeoutError:
            return

    def _wake_if_need_be(self) -> None:
        if self._stopping or self._lacking():
            self._wake.set()

    def _lacking(self) -> int:
        """How many messages to ask for: what is missing, once half of what could be asked for is."""
        free = self._free_slots()
        asked = sum(inbox.open for inbox in self._inboxes)
        return free - asked if asked * 2 < free else 0

    async def _ask(self) -> None:
        lacking = self._lacking()
        if not lacking or not self._bus.is_connected:
            return
        inbox = await self._idle_inbox()
        inbox.open = lacking
        inbox.over_at = time.monotonic() + PULL_EXPIRES_S + PULL_ANSWERED_S
        query = {"batch": inbox.open, "expires": int(PULL_EXPIRES_S * 1e9)}
        try:
            await self._bus.client.publish(self._next, msgspec.json.encode(query), reply=inbox.subject)
        except nats.errors.Error as error:
            inbox.open = 0
            log.warning("queue.pull-failed", error=repr(error))

    async def _idle_inbox(self) -> _Inbox:
        for inbox in self._inboxes:
            if inbox.open == 0:
                return inbox
        inbox = _Inbox(self._bus.client.new_inbox())
        await self._bus.client.subscribe(inbox.subject, cb=partial(self._on_message, inbox))
        self._inboxes.append(inbox)
        return inbox

    async def _on_message(self, inbox: _Inbox, message: Msg) -> None:
        status = (message.headers or {}).get("Status")
        if status and not message.reply:  # what was stored in the stream comes with a subject for its ack
            await self._on_status(inbox, status)
            return
        inbox.open = max(0, inbox.open - 1)
        try:
            await self._hand_over(message)
        except nats.errors.Error as error:
            log.warning("queue.not-given-back", error=repr(error))

    async def _on_status(self, inbox: _Inbox, status: str) -> None:
        inbox.open = 0
        if status == "503":  # nobody answers: asking at once again would spin
            await asyncio.sleep(0.2)
        self._wake.set()

    async def _hand_over(self, message: Msg) -> None:
        try:
            work = WORK.decode(message.data)
        except Undecodable as error:
            log.error("queue.undecodable", subject=message.subject, error=str(error))
            await message.nak(delay=UNDECODABLE_DELAY_S)
            self._wake.set()  # for what lies behind it
            return
        if self._stopping or self._free_slots() <= 0:
            await message.nak()
            return
        metadata = message.metadata
        admitted_at = metadata.timestamp.timestamp()
        claim = Claim(
            work=work,
            stream_seq=metadata.sequence.stream,
            deliveries=metadata.num_delivered,
            admitted_at=admitted_at,
            queued_s=max(0.0, self._bus.clock.now() - admitted_at),
            _message=message,
        )
        message.data = b""  # it was decoded, and may have 1 MiB; the claim needs the rest of it to the end
        self._on_claim(claim)
        self._wake_if_need_be()
