"""
Admitting an activation: its record, its places, its message in the work stream; or the refusal.

The record exists before the message does, so a worker that finds no record runs nothing. What is refused, and what
nobody can say of whether it was queued, is settled by a compare-and-set of the record and never by taking something
away: whoever loses it learns that the activation was admitted after all. Rows: F12, F13.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from dataclasses import dataclass, field
from functools import partial

from msgspec.structs import replace

from mayfly.bus.connection import Bus
from mayfly.bus.patience import insistently
from mayfly.bus.places import NoPlace, Places, Taken
from mayfly.bus.queue import Refused, SubmitUnknown, delete_queued, find_queued, submit
from mayfly.bus.schema import limits_in_force
from mayfly.bus.store import Conflict, Entry
from mayfly.bus.stores import Stores
from mayfly.domain.activation import RECORD_MARGIN_S, Activation, State, Steps, Work
from mayfly.domain.errors import LimitReached, QueueUnavailable, TimedOut
from mayfly.domain.ids import FunctionName, new_id, new_ulid
from mayfly.services.call import Call
from mayfly.services.idempotency import in_doubt
from mayfly.services.lifetimes import Lifetimes
from mayfly.services.room import Guard
from mayfly.services.settle import REFUSED_KEEP_S, settle

PLACE_MARGIN_S = 3600.0  # a place that nobody frees is free so long after its activation's deadline
NOT_QUEUED_YET = (
    "The first call with this Idempotency-Key is not in the queue, and could not be put there now. Ask again with the "
    "same key."
)


@dataclass(slots=True)
class Holding:
    """What an activation in flight occupies, as far as it is known here: a message of the work stream, and places."""

    record: Activation  # as it was when it was admitted, or looked for
    seq: int | None = None
    places: list[Taken] = field(default_factory=list)  # taken here
    places_before: list[Taken] = field(default_factory=list)  # by the API server that was at it before
    is_late: bool = False  # it was not queued in its time

    @property
    def is_admitted(self) -> bool:
        """Whether it may run, or may have run."""
        return not self.is_late and not (self.record.state.is_final and self.record.ran == "no")


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


class Admission:
    """Admits activations for one API server."""

    def __init__(
        self, bus: Bus, stores: Stores, *, instance: str, wait_ms: int, guard: Guard, lifetimes: Lifetimes
    ) -> None:
        """
        *instance* is this server's id in the keys of records, *wait_ms* how long a full stream is asked again, *guard*
        who keeps calls out while their outcome could not be stored, *lifetimes* who says how long it is kept.
        """
        self._guard = guard
        self._lifetimes = lifetimes
        self._bus = bus
        self._records = stores.activations
        self._places = Places(bus)
        self._instance = instance
        self._wait_s = wait_ms / 1000
        self.run_times = RunTimes()

    def new_record(self, call: Call) -> Activation:
        """Write down a call that is to be admitted."""
        now = self._bus.clock.now()
        spent_s = time.monotonic() - call.began
        return Activation(
            state=State.QUEUED,
            nonce=new_id(),
            user_id=call.owner,
            instance=self._instance,
            ulid=new_ulid(now),
            function=call.function.name,
            function_id=call.function.id,
            image=call.function.image,
            digest=call.function.digest,
            result_type=call.function.result_type,
            parameter_bytes=len(call.parameter),
            parameter_sha256=hashlib.sha256(call.parameter).hexdigest(),
            created_at=now - spent_s,
            deadline_at=now - spent_s + call.budget_s,
            keep_s=self._lifetimes.of_next(call.owner),
        )

    async def refusal(self, call: Call) -> TimedOut | QueueUnavailable | None:
        """Say why a call cannot be begun: its time was over when it arrived, or there is no room for its outcome."""
        if time.monotonic() >= call.deadline:
            return TimedOut(
                f"The call's {call.budget_s:g} s were over before all of its parameter had arrived. Nothing was run.",
                clock="queue",
                ran="no",
            )
        try:
            await self._guard.check()
        except QueueUnavailable as error:
            return error
        return None

    async def admit(self, call: Call, record: Activation) -> Holding:
        """
        Queue an activation; return also when it was queued although we were told otherwise.

        Raises: LimitReached; QueueUnavailable, with `ran` as far as it is known.
        """
        entry, is_new = await self._create(record, call)
        return await (self._queue(call, entry) if is_new else self._queue_again(call, entry))

    async def carry_on(self, call: Call, record: Activation) -> Holding:
        """
        Queue an activation that another API server may have been admitting when it died. Its message has the same id,
        so it cannot be in the stream twice.

        Raises: as `admit`; QueueUnavailable with `ran="unknown"` where it cannot be begun now, or has its record, is
        not in the stream and cannot be put there: that server may yet do so, if it has only been slow.
        """
        if entry := await self._records.get(record.key):
            return await self._queue_again(call, entry)
        if refusal := await self.refusal(call):
            raise self._not_queued_yet(record) from refusal
        return await self.admit(call, record)

    async def _queue(self, call: Call, entry: Entry[Activation]) -> Holding:
        holding = Holding(entry.value)
        try:
            for scope, of, limit in call.counted_limits():
                holding.places.append(await self._take(scope, of, limit, holder=entry.key, call=call))
            holding.seq = await submit(self._bus, self._work(entry, call), wait_s=self._wait_of(call))
        except Refused as refused:
            if await self._withdraw(entry, LimitReached.code):
                await self._free(holding.places)
                raise await self._limit_reached(refused.scope, call, entry.value) from None
        except (SubmitUnknown, QueueUnavailable):
            if await self._withdraw(entry, QueueUnavailable.code):
                await self._free(holding.places)
                raise QueueUnavailable(retry_after_s=1, ran="no", activation_id=entry.value.id) from None
        return holding

    async def _queue_again(self, call: Call, entry: Entry[Activation]) -> Holding:
        """Only who made a record withdraws it. One that is out of time is left to those who follow it."""
        if entry.value.state is not State.QUEUED:
            return Holding(entry.value)
        if self._bus.clock.now() >= entry.value.deadline_at:
            return Holding(entry.value, is_late=True)
        holding = Holding(entry.value)
        try:
            await self._take_missing_places(call, entry, holding)
            holding.seq = await submit(self._bus, self._work(entry, call), wait_s=self._wait_of(call))
        except (Refused, SubmitUnknown, QueueUnavailable) as error:
            with in_doubt():
                queued = await find_queued(self._bus, entry.value.user_id, entry.key)
            if queued is None:
                if not isinstance(error, SubmitUnknown):  # which may yet arrive, and run: then it needs its places
                    await self._free(holding.places)
                raise self._not_queued_yet(entry.value) from error
            holding.seq = queued.seq
        return holding

    def _not_queued_yet(self, record: Activation) -> QueueUnavailable:
        return QueueUnavailable(
            NOT_QUEUED_YET, ran="unknown", retry_after_s=self.run_times.retry_after_s, activation_id=record.id
        )

    async def give_back(self, holding: Holding, final: Activation) -> None:
        """
        Free what an activation occupied that has ended, as far as its worker does not: before the answer, as the caller
        may call again at once. A lost worker's container may live on: that is the janitor's, and so is what fails here.
        """
        if final.state is State.WORKER_LOST:
            return
        if holding.seq is not None and final.ran == "no":
            with contextlib.suppress(QueueUnavailable):
                await delete_queued(self._bus, holding.seq)
        await self._free([*holding.places, *holding.places_before])

    async def _free(self, places: list[Taken]) -> None:
        """Free them, or leave them to the janitor."""
        for taken in places:
            with contextlib.suppress(QueueUnavailable):
                await self._places.free(taken)

    async def _create(self, record: Activation, call: Call) -> tuple[Entry[Activation], bool]:
        """Create the record; if somebody did before us, take that one."""
        try:
            revision = await self._records.create(record.key, record, ttl_s=call.budget_s + RECORD_MARGIN_S)
        except Conflict:
            with in_doubt():
                entry = await self._records.get(record.key)
            if entry is None:  # it was there a moment ago: a refused one that expired, or its account is being deleted
                raise QueueUnavailable(retry_after_s=1, ran="unknown", activation_id=record.id) from None
            return entry, False
        return Entry(record.key, record, revision), True

    async def _take_missing_places(self, call: Call, entry: Entry[Activation], holding: Holding) -> None:
        """
        Take what the call needs of the limits that count by places, unless the activation has it.

        Raises: Refused; QueueUnavailable.
        """
        for scope, of, limit in call.counted_limits():
            if before := await self._places.held(of, holder=entry.key):
                holding.places_before.append(before)
            else:
                holding.places.append(await self._take(scope, of, limit, holder=entry.key, call=call))

    async def _take(self, scope: str, of: str, limit: int, *, holder: str, call: Call) -> Taken:
        """
        Take a place, asking for as long as the stream would be asked.

        Raises: Refused; QueueUnavailable.
        """
        take = partial(self._places.take, of, limit, holder=holder, ttl_s=call.budget_s + PLACE_MARGIN_S)
        try:
            return await insistently(take, refusal=NoPlace, for_s=self._wait_of(call))
        except NoPlace:
            raise Refused(scope) from None

    def _wait_of(self, call: Call) -> float:
        """How long a limit that is reached is asked again: not beyond the time that the call has."""
        return min(self._wait_s, call.deadline - time.monotonic())

    async def _withdraw(self, entry: Entry[Activation], code: str) -> bool:
        """Make sure that nobody runs it; False when somebody does already, so it was admitted after all."""
        try:
            refused = await settle(self._records, entry, State.REFUSED, keep_s=REFUSED_KEEP_S, code=code, ran="no")
        except QueueUnavailable as error:
            raise QueueUnavailable(retry_after_s=1, ran="unknown", activation_id=entry.value.id) from error
        return refused is not None

    async def _limit_reached(self, scope: str, call: Call, record: Activation) -> LimitReached:
        """
        Word a refusal. It is made only while exactly the limit is in flight, so `in_use` is that number.

        Raises: QueueUnavailable when the limit cannot be read.
        """
        try:
            limit = await self._limit(scope, call)
        except QueueUnavailable as error:
            raise QueueUnavailable(retry_after_s=1, ran="no", activation_id=record.id) from error
        return LimitReached(
            f"{_whose(scope, call.function.name)} {limit} {_activations(limit)} in flight, which is the limit. "
            "Nothing was queued; try again later.",
            retry_after_s=self.run_times.retry_after_s,
            scope=scope,
            limit=limit,
            in_use=limit,
            activation_id=record.id,
        )

    async def _limit(self, scope: str, call: Call) -> int | None:
        """Say how much the limit is that refused; of two for the user the lower one does."""
        total, per_user = await limits_in_force(self._bus)
        of_stream = {"platform": total, "user": per_user}.get(scope)
        counted = (limit for counted, _, limit in call.counted_limits() if counted == scope)
        return min((limit for limit in (of_stream, *counted) if limit is not None), default=None)

    def _work(self, entry: Entry[Activation], call: Call) -> Work:
        record = entry.value
        return Work(
            user_id=record.user_id,
            instance=record.instance,
            ulid=record.ulid,
            revision=entry.revision,
            record=replace(record, steps=Steps(admit_s=time.monotonic() - call.began)),
            function=call.function,
            parameter=call.parameter,
            budget_s=record.deadline_at - self._bus.clock.now(),
            traceparent=call.options.traceparent,
        )


def _activations(count: int | None) -> str:
    return "activation" if count == 1 else "activations"


def _whose(scope: str, function: FunctionName) -> str:
    return {"user": "You have", "platform": "The platform has", "function": f"Function {function!r} has"}[scope]
