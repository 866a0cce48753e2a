"""
Invoking a function: record, admission, wait, answer. The life of a call at the API server.

The record exists before the message does, so a worker that finds no record runs nothing. The message is refused by
the stream itself when a limit is reached. The answer leaves when the record is final: by then the worker has told
that no process of the container is left. Rows: F7, F8, F9, F12, F13.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from dataclasses import dataclass

from msgspec.structs import replace

from mayfly.bus.connection import Bus
from mayfly.bus.queue import Refused, SubmitUnknown, submit
from mayfly.bus.responses import Listener, Waiter
from mayfly.bus.schema import limits_in_force
from mayfly.bus.store import Entry, Store
from mayfly.bus.stores import Stores
from mayfly.domain.activation import Activation, State, Steps, Work
from mayfly.domain.errors import LimitReached, MayflyError, QueueUnavailable
from mayfly.domain.function import Function
from mayfly.domain.ids import UserId, new_id, new_ulid
from mayfly.services.outcome import Succeeded, outcome_of
from mayfly.services.room import Guard
from mayfly.services.settle import REFUSED_KEEP_S, OwnerCheck, settle, settle_lost, settle_out_of_time

RECORD_MARGIN_S = 3600.0  # a record that nobody ends lives this much longer than its deadline
FIRST_LOOK_S = 0.25  # the end is heard, normally; from here on it is also looked for
LOOKS_GROW_BY = 1.5
LOOK_AT_MOST_EVERY_S = 1.0
OUTAGE_S = 10.0  # how long past a call's deadline an outage of NATS is sat out
UNTOLD = "The queue was lost while the activation was under way; its record will say how it ended."


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """What a caller says about one call."""

    timeout_s: float | None = None  # shortens the function's own, never lengthens it
    traceparent: str | None = None
    received_at: float | None = None  # time.monotonic() when the request arrived: the budget runs from there


class RunTimes:
    """A moving average of how long activations took: what a refused caller is told to wait."""

    def __init__(self) -> None:
        """Begin with a guess of one second."""
        self._average_s = 1.0

    def add(self, seconds: float) -> None:
        """Take one more into account."""
        self._average_s += (seconds - self._average_s) / 8

    @property
    def retry_after_s(self) -> float:
        """Whole seconds, at least one, at most thirty."""
        return float(min(30, max(1, math.ceil(self._average_s))))


class Invoker:
    """Invokes functions for one API server, and answers with what became of them."""

    def __init__(
        self, bus: Bus, stores: Stores, listener: Listener, *, wait_ms: int, keep_s: float, guard: Guard | None = None
    ) -> None:
        """
        *wait_ms* is how long a full stream is asked again, *keep_s* how long records are kept, *guard* who keeps calls
        out while their outcome could not be stored.
        """
        self._bus = bus
        self._guard = guard or Guard(bus)
        self._records: Store[Activation] = stores.activations
        self._listener = listener
        self._wait_s = wait_ms / 1000
        self._keep_s = keep_s
        self._run_times = RunTimes()

    async def invoke(
        self, owner: UserId, function: Function, parameter: bytes, options: CallOptions = CallOptions()
    ) -> Succeeded:
        """
        Run one activation of *function* and return its result.

        Raises: LimitReached; QueueUnavailable; and any FunctionError or PlatformError that ends an activation, with
        its id in the member `activation_id`.
        """
        self._guard.check()
        began = options.received_at if options.received_at is not None else time.monotonic()
        budget_s = min(function.limits.timeout_s, options.timeout_s or math.inf)
        record = self._new_record(owner, function, parameter, budget_s)
        async with self._listener.waiting(record.ulid) as waiter:
            entry = await self._create(record, budget_s)
            work = _work(entry, function, parameter, began=began, options=options)
            await self._admit(entry, work, began)
            final = await self._end(waiter, entry.key, deadline=began + budget_s)
            return await self._answer(final, waiter)

    def _new_record(self, owner: UserId, function: Function, parameter: bytes, budget_s: float) -> Activation:
        now = time.time()
        return Activation(
            state=State.QUEUED,
            nonce=new_id(),
            user_id=owner,
            instance=self._listener.instance,
            ulid=new_ulid(),
            function=function.name,
            function_id=function.id,
            image=function.image,
            digest=function.digest,
            result_type=function.result_type,
            parameter_bytes=len(parameter),
            parameter_sha256=hashlib.sha256(parameter).hexdigest(),
            created_at=now,
            deadline_at=now + budget_s,
        )

    async def _create(self, record: Activation, budget_s: float) -> Entry[Activation]:
        revision = await self._records.create(record.key, record, ttl_s=budget_s + RECORD_MARGIN_S)
        return Entry(record.key, record, revision)

    async def _admit(self, entry: Entry[Activation], work: Work, began: float) -> None:
        """Put the message into the stream; return also when it got there although we were told otherwise."""
        try:
            await submit(self._bus, work, wait_s=self._wait_s)
        except Refused as refused:
            if await self._withdraw(entry, LimitReached.code):
                raise await self._limit_reached(refused.scope, entry.value) from None
        except (SubmitUnknown, QueueUnavailable):
            if await self._withdraw(entry, QueueUnavailable.code):
                raise QueueUnavailable(retry_after_s=1, ran="no", activation_id=entry.value.id) from None

    async def _withdraw(self, entry: Entry[Activation], code: str) -> bool:
        """Make sure that nobody runs it; False when somebody does already, so it was admitted after all."""
        try:
            refused = await settle(self._records, entry, State.REFUSED, keep_s=REFUSED_KEEP_S, code=code, ran="no")
        except QueueUnavailable as error:
            raise QueueUnavailable(retry_after_s=1, ran="unknown", activation_id=entry.value.id) from error
        return refused is not None

    async def _limit_reached(self, scope: str, record: Activation) -> LimitReached:
        """
        Word a refusal. The stream refuses only while it holds exactly the limit, so `in_use` is that number.
        """
        total, per_user = await limits_in_force(self._bus)
        limit = per_user if scope == "user" else total
        whose = "You have" if scope == "user" else "The platform has"
        return LimitReached(
            f"{whose} {limit} activations in flight, which is the limit. Nothing was queued; try again later.",
            retry_after_s=self._run_times.retry_after_s,
            scope=scope,
            limit=limit,
            in_use=limit,
            activation_id=record.id,
        )

    async def _end(self, waiter: Waiter, key: str, *, deadline: float) -> Activation:
        """Wait for the final record: heard as it is written, and looked for at growing intervals."""
        owner_check = OwnerCheck(self._bus)
        pause = FIRST_LOOK_S
        while True:
            try:
                async with asyncio.timeout(pause):
                    return await asyncio.shield(waiter.final)
            except TimeoutError:
                pause = min(pause * LOOKS_GROW_BY, LOOK_AT_MOST_EVERY_S)
            now = time.monotonic()
            try:
                if final := await self._look(key, owner_check, out_of_time=now > deadline):
                    return final
            except QueueUnavailable as error:
                if now > deadline + OUTAGE_S:
                    raise QueueUnavailable(UNTOLD, ran="unknown") from error
            if owner_check.is_in_doubt:  # each question takes a second to go unanswered, and 5 s are promised
                pause = FIRST_LOOK_S

    async def _look(self, key: str, owner_check: OwnerCheck, *, out_of_time: bool) -> Activation | None:
        """Read the record, and end it if nobody else will."""
        entry = await self._records.get(key)
        if entry is None:
            raise QueueUnavailable(UNTOLD, ran="unknown")
        if entry.value.state.is_final:
            return entry.value
        if entry.value.state is State.RUNNING:
            if await owner_check.is_lost(entry.value):
                return await settle_lost(self._records, entry, keep_s=self._keep_s)
        elif out_of_time:
            return await settle_out_of_time(self._records, entry, keep_s=self._keep_s)
        return None

    async def _answer(self, record: Activation, waiter: Waiter) -> Succeeded:
        self._run_times.add(max(0.0, (record.ended_at or record.created_at) - record.created_at))
        try:
            outcome = await outcome_of(self._bus, record, waiter.responses.get(record.attempt or ""))
        except QueueUnavailable as error:
            raise QueueUnavailable(UNTOLD, ran=record.ran, activation_id=record.id) from error
        if isinstance(outcome, MayflyError):
            raise outcome
        return outcome


def _work(
    entry: Entry[Activation], function: Function, parameter: bytes, *, began: float, options: CallOptions
) -> Work:
    record = entry.value
    admit_s = time.monotonic() - began
    return Work(
        user_id=record.user_id,
        instance=record.instance,
        ulid=record.ulid,
        revision=entry.revision,
        record=replace(record, steps=Steps(admit_s=admit_s)),
        function=function,
        parameter=parameter,
        budget_s=record.deadline_at - record.created_at - admit_s,
        traceparent=options.traceparent,
    )
