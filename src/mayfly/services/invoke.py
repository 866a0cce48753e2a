"""
Invoking a function: admission, the wait for the end, the answer. The life of a call at the API server.

A synchronous call waits here. An asynchronous one is the same call, carried on without its caller; should this server
die, the janitors of the others see to it. With an Idempotency-Key the call goes through `services.idempotency` first.
The answer leaves when the record is final: by then the worker has told that no process of the container is left.
Rows: F7, F8, F9, F12, F13.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from mayfly.bus.connection import Bus
from mayfly.bus.responses import Listener, Waiter
from mayfly.bus.stores import Stores
from mayfly.domain.activation import Activation
from mayfly.domain.errors import MayflyError, QueueUnavailable
from mayfly.domain.lifetime import RECORDS_MAX_PER_USER
from mayfly.services.admission import Admission, Holding
from mayfly.services.call import Call
from mayfly.services.following import UNTOLD, Follower
from mayfly.services.idempotency import Claim, Keys, in_doubt
from mayfly.services.lifetimes import Lifetimes
from mayfly.services.outcome import Succeeded, outcome_of
from mayfly.services.room import Guard

log = structlog.get_logger()

Admitted = asyncio.Future[Activation]


class Invoker:
    """Invokes functions for one API server, and answers with what became of them."""

    def __init__(
        self,
        bus: Bus,
        stores: Stores,
        listener: Listener,
        *,
        wait_ms: int,
        keep_s: float,
        guard: Guard | None = None,
        lifetimes: Lifetimes | None = None,
    ) -> None:
        """
        *wait_ms* is how long a full stream is asked again, *keep_s* how long records are kept at the longest, *guard*
        who keeps calls out while their outcome could not be stored, *lifetimes* who says how long it is kept.
        """
        self._bus = bus
        self._listener = listener
        self._admission = Admission(
            bus,
            stores,
            instance=listener.instance,
            wait_ms=wait_ms,
            guard=guard or Guard(bus),
            lifetimes=lifetimes or Lifetimes(stores, keep_s=keep_s, most=RECORDS_MAX_PER_USER),
        )
        self._follower = Follower(bus, stores, keep_s=keep_s)
        self._keys = Keys(stores, keep_s=keep_s)
        self._on_their_own: set[asyncio.Task[Succeeded | None]] = set()

    async def invoke(self, call: Call) -> Succeeded:
        """
        Run one activation and return its result. The call lets go of its parameter as soon as that is in the queue.

        Raises: LimitReached; QueueUnavailable; IdempotencyConflict; and any FunctionError or PlatformError that ends an
        activation, with its id in the member `activation_id`.
        """
        succeeded = await self._carry(call)
        if succeeded is None:
            raise RuntimeError("a call with a caller is followed to its end")
        return succeeded

    async def submit(self, call: Call) -> Activation:
        """
        Queue one activation, and return its record as it was admitted; of a call with a key that was used before, as it
        stands now.

        Raises: LimitReached; QueueUnavailable; IdempotencyConflict.
        """
        admitted: Admitted = asyncio.get_running_loop().create_future()
        carrying = asyncio.create_task(self._carry(call, admitted), name="asynchronous-call")
        self._on_their_own.add(carrying)
        carrying.add_done_callback(self._ended)
        either: set[asyncio.Future[Any]] = {carrying, admitted}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not admitted.done():
            carrying.result()  # raises why it was not admitted
        return admitted.result()

    async def close(self) -> None:
        """Let go of the calls that have no caller here: the janitors of other servers see to their end."""
        for task in self._on_their_own:
            task.cancel()
        await asyncio.gather(*self._on_their_own, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Succeeded | None]) -> None:
        self._on_their_own.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, MayflyError):
            log.error("invoke.crashed", exc_info=error)

    async def _carry(self, call: Call, admitted: Admitted | None = None) -> Succeeded | None:
        refusal = await self._admission.refusal(call)
        if refusal and call.options.idempotency_key is None:
            raise refusal
        record = self._admission.new_record(call)
        if call.options.idempotency_key is None:
            return await self._run(call, record, admitted)
        async with self._keys.claimed(call, record, refusal) as claim:
            if claim.is_first:
                return await self._run(call, record, admitted)
            with in_doubt():
                return await self._join(call, claim, record, admitted)

    async def _run(self, call: Call, record: Activation, admitted: Admitted | None) -> Succeeded:
        """Admit an activation and follow it to its end."""
        async with self._listener.waiting(record.ulid) as waiter:
            holding = await self._admission.admit(call, record)
            call.let_go_of_parameter()
            _tell(admitted, holding.record)
            final = await self._follower.end(waiter, record.key, deadline=call.deadline, looked_for=False)
            await self._admission.give_back(holding, final)
            return await self._answer(final, waiter)

    async def _join(self, call: Call, claim: Claim, record: Activation, admitted: Admitted | None) -> Succeeded | None:
        """
        Follow an activation that another call with the same key began, and begin it if that did not come so far. When
        nobody waits here it is left to those who follow it: repeats are not counted by any limit, so none may cost
        more than its answer.
        """
        record = claim.same_as(record)
        async with self._listener.waiting_for(self._bus, record.instance, record.ulid) as waiter:
            found = await self._keys.under_way(claim)
            holding = Holding(found) if found else await self._admission.carry_on(call, record)
            call.let_go_of_parameter()
            if admitted is not None and holding.is_admitted:
                _tell(admitted, holding.record)
                if found:
                    return None
            final = await self._follower.end(waiter, record.key, deadline=call.deadline)
            await self._admission.give_back(holding, final)
            return await self._answer(final, waiter)

    async def _answer(self, record: Activation, waiter: Waiter) -> Succeeded:
        self._admission.run_times.add(max(0.0, (record.ended_at or record.created_at) - record.created_at))
        try:
            outcome = await outcome_of(self._bus, record, waiter.responses.get(record.attempt or ""))
        except QueueUnavailable as error:
            raise QueueUnavailable(UNTOLD, ran=record.ran, activation_id=record.id) from error
        if isinstance(outcome, MayflyError):
            raise outcome
        return outcome


def _tell(admitted: Admitted | None, record: Activation) -> None:
    if admitted is not None and not admitted.done():
        admitted.set_result(record)
