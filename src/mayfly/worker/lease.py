"""
The lease: a worker may go on only as long as it proves, again and again, that nobody has given its work up.

A round begins every second, and is a proof as of the moment `s` at which it began, before it had asked anything. It is
one when NATS has confirmed the worker's beat and then, at the leader, the record of each activation that may live here:
those that somebody else has ended are killed. It is one at once when nothing may live here. `s` goes to the watchdog,
which kills everything at `s + LEASE_S` unless it hears of a later one.

Guarantees: what was settled as `worker-lost` at a time T has no process at T + LEASE_S; its slot comes back at
T + FENCE_S at the earliest (`services.janitor`), which is later.
- A round that began at s <= T lets the watchdog wait until T + LEASE_S at the most. How late it was confirmed does not
  matter.
- A round that began at s > T finds the record ended, and kills, before it is a proof. It cannot miss the activation: a
  record is settled as lost only when it is `running`, so the start fence had been asked for before T, and an activation
  may live here from that moment on. Nor is it told an old state: the beat is confirmed first, which a nats-server that
  is cut off together with the worker, and still takes itself for a leader, cannot do.
- A round that began with nothing alive here proves the same: what is started later is settled later.
Rounds overlap, so that one whose answer was lost in a change of leader delays none: an outage that is over within
`CUT_OFF_S` kills nothing. When none has been a proof for that long the worker kills its containers itself, and lives on
to offer the outcomes of those that had ended by themselves; the watchdog is for a worker that cannot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import structlog

from mayfly.containers.watchdog import Feed, now
from mayfly.domain.errors import QueueUnavailable
from mayfly.domain.worker import BEAT_EVERY_S, LEASE_S
from mayfly.worker.run import Run

log = structlog.get_logger()

CUT_OFF_S = LEASE_S - 1.0  # leaves time to kill, and to prove by that, before the watchdog does
CHECK_EVERY_S = 0.2
HURRY_S = 0.5  # between rounds while they are no proofs, so that the end of an outage is not missed
LOOKS_AT_ONCE = 32


class Lease:
    """One worker's."""

    def __init__(self, feed: Feed, *, beat: Callable[[], Awaitable[None]], runs: Callable[[], Iterable[Run]]) -> None:
        """*feed* is the watchdog's; *beat* gives a sign of life that is confirmed; *runs* are what is worked on."""
        self._feed = feed
        self._beat = beat
        self._runs = runs
        self._proved_at = now()
        self._looks = asyncio.Semaphore(LOOKS_AT_ONCE)

    def begin(self) -> None:
        """
        Arm the watchdog: nothing runs here yet. Before the first claim.

        Raises: OSError when there is no watchdog any more.
        """
        self._prove(now())

    async def keep(self) -> None:
        """
        Prove for ever.

        Raises: OSError when there is no watchdog any more, in a group.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._kill_when_cut_off(), name="cut-off")
            while True:
                tasks.create_task(self._round(), name="round")
                await asyncio.sleep(BEAT_EVERY_S if self._age_s() < 2 * BEAT_EVERY_S else HURRY_S)

    async def _round(self) -> None:
        began = now()
        if not self._living():
            self._prove(began)
        try:
            async with asyncio.timeout(LEASE_S):
                await self._beat()
                await self._kill_what_others_settled()
        except* (QueueUnavailable, TimeoutError):
            log.warning("worker.not-proved", age_s=round(self._age_s(), 1))
        else:
            self._prove(began)

    async def _kill_what_others_settled(self) -> None:
        async with asyncio.TaskGroup() as looks:
            for run in self._living():
                looks.create_task(self._look(run), name="look")

    async def _look(self, run: Run) -> None:
        async with self._looks:
            await run.kill_if_settled()

    async def _kill_when_cut_off(self) -> None:
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            began, living = now(), self._living()
            if self._age_s() < CUT_OFF_S:
                continue
            if not living:
                self._prove(began)
                continue
            log.error("worker.cut-off", killed=len(living), age_s=round(self._age_s(), 1))
            for run in living:
                run.kill()

    def _living(self) -> list[Run]:
        return [run for run in self._runs() if run.may_live]

    def _age_s(self) -> float:
        return now() - self._proved_at

    def _prove(self, at: float) -> None:
        self._proved_at = max(self._proved_at, at)
        self._feed.prove(at)
