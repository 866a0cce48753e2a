"""
Idempotency-Key: asking again within the retention time gets the outcome of the first call instead of another run.

The first call with a key writes down which activation is its own before there is one. Whoever comes later follows that
activation; and if the first call's API server died before it was queued, creates the same record and queues the same
message in its place, which only one of them can. Outcomes of calls that ran, or may have, are given again; one that
certainly did not run (`ran: no`) frees its key. An outcome that is gone before its key is not made again. Rows: F12.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass

from msgspec.structs import replace

from mayfly.bus.store import Conflict, Entry
from mayfly.bus.stores import Stores
from mayfly.domain.activation import Activation, State
from mayfly.domain.errors import Gone, IdempotencyConflict, MayflyError, QueueUnavailable
from mayfly.domain.idempotency import IdempotencyEntry, entry_key, request_sha256
from mayfly.domain.ids import ulid_time
from mayfly.services.call import Call

ADOPT_AFTER_S = 1.0  # a first call that lives has queued its activation long before
ADOPT_UNTIL_S = 600.0
"""How old a key without a record may be for its activation to be begun: whatever ran has a record for longer than that,
as `MAYFLY_RECORD_KEEP_S` is no less."""
LOOK_EVERY_S = 0.05
CLAIM_ATTEMPTS = 8  # each further one means that a call did not run and freed the key


@dataclass(frozen=True, slots=True)
class Claim:
    """A key, and whose activation it stands for."""

    entry: Entry[IdempotencyEntry]
    is_first: bool

    def same_as(self, record: Activation) -> Activation:
        """Make *record* the record of the first call's activation."""
        return replace(record, instance=self.entry.value.instance, ulid=self.entry.value.ulid)


class Keys:
    """The keys of all users; each sees his own."""

    def __init__(self, stores: Stores, *, keep_s: float) -> None:
        """*keep_s* is how long a key is kept at the longest: as long as its record, which is kept from its end."""
        self._entries = stores.idempotency
        self._records = stores.activations
        self._keep_s = keep_s

    @asynccontextmanager
    async def claimed(self, call: Call, record: Activation, refusal: MayflyError | None = None) -> AsyncIterator[Claim]:
        """
        Have the call's key while it is carried out: for *record*, or for the activation that has the key already. With
        a *refusal* there is only the latter: what cannot be begun claims no key, for nobody could free it.
        Should the call turn out not to have run, the key is free afterwards.

        Raises: *refusal*; IdempotencyConflict when it was used for another call; QueueUnavailable, with `ran="unknown"`
        where an earlier call with it may have run.
        """
        claim = await self._claim(call, record, refusal)
        try:
            yield claim
        except MayflyError as error:
            if error.ran == "no":
                with suppress(QueueUnavailable):  # who has the key next, within a minute, finds that it did not run
                    await self._free_if_not_run(claim.entry)
            raise

    async def under_way(self, claim: Claim) -> Activation | None:
        """
        Return the record of an activation that is beyond its admission, or is found to be so within `ADOPT_AFTER_S`;
        None of one that is to be carried on.

        Raises: Gone when it may have run, and nobody can say any more how it ended; QueueUnavailable.
        """
        give_up_at = time.monotonic() + ADOPT_AFTER_S
        while True:
            entry = await self._records.get(claim.entry.value.activation_key)
            if entry is not None and entry.value.state is not State.QUEUED:
                return entry.value
            if entry is None and self._records.now() - ulid_time(claim.entry.value.ulid) >= ADOPT_UNTIL_S:
                raise Gone(
                    "The outcome of the first call with this Idempotency-Key is no longer kept. Nothing was run now; "
                    "use a new key for a new call.",
                    ran="unknown",
                )
            if time.monotonic() >= give_up_at:
                return None
            await asyncio.sleep(LOOK_EVERY_S)

    async def _claim(self, call: Call, record: Activation, refusal: MayflyError | None) -> Claim:
        key = entry_key(call.owner, call.options.idempotency_key or "")
        mine = IdempotencyEntry(
            user_id=record.user_id,
            instance=record.instance,
            ulid=record.ulid,
            request_sha256=request_sha256(call.function.name, call.parameter),
        )
        for _ in range(CLAIM_ATTEMPTS):
            if refusal is None:
                with suppress(Conflict):
                    revision = await self._entries.create(key, mine, ttl_s=record.kept_s(self._keep_s))
                    return Claim(Entry(key, mine, revision), is_first=True)
            with in_doubt() if refusal is None else nullcontext():  # who lost the claim knows that the key was used
                entry = await self._entries.get(key)
            if entry is None:
                if refusal:
                    raise refusal
                continue
            if entry.value.request_sha256 != mine.request_sha256:
                raise IdempotencyConflict(
                    "This Idempotency-Key was used for another function or another parameter. Use a new key for a new "
                    "call; nothing was run.",
                    field="Idempotency-Key",
                )
            if not await self._free_if_not_run(entry):
                return Claim(entry, is_first=False)
        raise QueueUnavailable(
            "Calls with this Idempotency-Key are refused again and again; try again.", retry_after_s=1, ran="no"
        )

    async def _free_if_not_run(self, entry: Entry[IdempotencyEntry]) -> bool:
        """Free a key whose activation has ended without having run; say whether it has."""
        with in_doubt():
            record = await self._records.get(entry.value.activation_key)
        if record is None or not record.value.state.is_final or record.value.ran != "no":
            return False
        with suppress(Conflict):  # somebody else has freed it
            await self._entries.delete(entry.key, revision=entry.revision)
        return True


@contextmanager
def in_doubt() -> Iterator[None]:
    """
    Say of what NATS did not tell about the activation of an earlier call that it may have run. An error that names its
    activation says itself what is known.
    """
    try:
        yield
    except QueueUnavailable as error:
        if "activation_id" in error.members:
            raise
        raise QueueUnavailable(error.detail, ran="unknown", retry_after_s=error.retry_after_s) from error
