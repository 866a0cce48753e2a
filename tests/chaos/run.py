"""
One run: the installation, the load, the faults, what is found afterwards; recorded, judged and reported.

    python -m tests.chaos.run --minutes 10 --nats 3 --seed 7 --report report.md
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import httpx
import msgspec
import uvloop

from mayfly.bus.places import Places
from mayfly.bus.queue import in_flight, walk
from mayfly.domain.errors import QueueUnavailable
from mayfly.services.logs import configure_logs
from mayfly.settings import LogSettings
from tests.chaos import leftovers
from tests.chaos.faults import Injector
from tests.chaos.history import Aftermath, History, Run, Sample, Violation, check
from tests.chaos.installation import APIS, LIMITS, RUNTIME, RUNTIMES, Installation, Operator, User, installation
from tests.chaos.load import EVERYTHING, Load, Plan, records, seeded
from tests.chaos.processes import until, until_true
from tests.chaos.report import LONG_MIN, report, too_rare

SAMPLE_EVERY_S: Final = 0.25
QUIET_S: Final = 60.0
"""
How long all may take to come to rest when all is well again: `ack_wait` and a lost worker's fence, or the deadline of a
call whose API server died between its place and its message; and some.
"""
HOLD_MS: Final = 5000


@dataclass
class Outcome:
    """What a run was, and what it came to."""

    history: History
    violations: list[Violation]
    with_plant: list[Violation]  # the same, with a double run that was planted
    missed: dict[str, int] = field(default_factory=dict)
    refused_connections: int = 0


async def chaos(
    *,
    seconds: float,
    replicas: int,
    seed: int,
    only: tuple[str, ...] = (),
    longest_s: float = 25.0,
    plan: Plan = EVERYTHING,
    keep: Path | None = None,
    runtime: str = RUNTIME,
) -> Outcome:
    """
    Run the load under faults for *seconds*, and judge.

    *only* names the kinds of faults, if not all; *keep* is where the logs of all processes and the history are kept.
    When the calls are over, and all still runs, one call's command is run once more: a proof that this would be seen.
    """
    async with installation(replicas, runtime) as made, _logs_kept(made, keep):
        load, injector = Load(made, seed, plan), Injector(made, seeded(f"{seed}/faults"), longest_s=longest_s)
        samples, stop = list[Sample](), asyncio.Event()
        calling = asyncio.create_task(load.run(stop), name="load")
        sampling = asyncio.create_task(_sample(made.operator, samples), name="sample")
        striking = asyncio.create_task(injector.run(time.monotonic() + seconds, only), name="faults")
        try:
            await asyncio.wait({calling, sampling, striking}, return_when=asyncio.FIRST_COMPLETED)
            if not striking.done():
                raise RuntimeError("the load or the sampling ended by itself")
            await striking
        finally:
            stop.set()
            striking.cancel()
            await asyncio.gather(calling, return_exceptions=True)
        await calling
        left_in_flight = await until_quiet(made.operator)
        found = await records(made, load)
        sampling.cancel()
        planted = await _plant(made)
        admitted = await _fill_up(made)
        await until_quiet(made.operator)
        keys = len({call.key for call in load.calls if call.key})
        left = await leftovers.in_nats(await made.operator.bus(), keys_used=keys)
        left += await end_workers(made)
        seen = [run for run in made.witness.runs() if not run.token.startswith(FILL)]
        history = History(
            limits=LIMITS,
            calls=load.calls,
            runs=[run for run in seen if run not in planted],
            records=found,
            samples=samples,
            faults=injector.faults,
            aftermath=Aftermath(in_flight=left_in_flight, admitted_again=admitted, left=left, unwell=injector.unwell),
            nats=frozenset(made.nats),
            apis=frozenset(APIS),
        )
        violations, with_plant = check(history), check(replace(history, runs=seen))
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / "history.json").write_bytes(msgspec.json.encode(history))
    return Outcome(history, violations, with_plant, injector.missed, load.refused_connections)


async def _sample(operator: Operator, samples: list[Sample]) -> None:
    """Read what the work stream holds, again and again; while NATS is away there is nothing to read."""
    while True:
        began_at = time.monotonic()
        try:
            held = frozenset(
                [queued.key.partition(".")[2].replace(".", "-") async for queued in walk(await operator.bus())]
            )
        except QueueUnavailable:
            continue
        finally:
            await asyncio.sleep(SAMPLE_EVERY_S)
        samples.append(Sample(began_at=began_at, ended_at=time.monotonic(), activations=held))


async def until_quiet(operator: Operator, *, places_s: float = QUIET_S) -> int | None:
    """
    Wait until nothing is in flight, for `QUIET_S` at the most, and *places_s* longer until no place is taken; return
    what is in flight in the end. Where nothing was struck, places do not wait for the janitor.
    """
    give_up_at = time.monotonic() + QUIET_S
    places_by = give_up_at
    count: int | None = None
    while time.monotonic() < min(give_up_at, places_by):
        try:
            bus = await operator.bus()
            count = await in_flight(bus)
            if count == 0:
                places_by = min(places_by, time.monotonic() + places_s)
                if not [taken async for taken in Places(bus).all_taken()]:
                    break
        except QueueUnavailable:
            count = None
        await asyncio.sleep(0.2)
    return count


async def _plant(made: Installation) -> list[Run]:
    """Run the last call's command a second time, and return what the witness saw of that; nothing else runs now."""
    before = made.witness.runs()
    if before:
        await asyncio.to_thread(made.witness.plant, before[-1])
        await until(lambda: len(made.witness.runs()) > len(before) and made.witness.runs()[-1].is_over)
    return made.witness.runs()[len(before) :]


FILL: Final = "fill-"


async def _fill_up(made: Installation) -> int:
    """Call as often at once as the platform's limit allows, and once more; return how many were admitted."""
    callers = [made.users[number // LIMITS.per_user] for number in range(LIMITS.platform)]

    async def call(client: httpx.AsyncClient, user: User, number: int) -> int:
        answer = await client.post(
            "/v1/functions/witness/activations", content=f"{FILL}{number} 0 {HOLD_MS} 8", headers=user.headers
        )
        return answer.status_code

    async def full() -> bool:
        with contextlib.suppress(QueueUnavailable):
            return await in_flight(await made.operator.bus()) == len(callers)
        return False

    async with made.client(APIS[0]) as first, made.client(APIS[1]) as second:
        tasks = [
            asyncio.create_task(call((first, second)[number % 2], user, number)) for number, user in enumerate(callers)
        ]
        await until_true(full, within_s=HOLD_MS / 2000)  # if it never is, the count tells
        one_more = await call(first, made.users[-1], len(callers))
        statuses = await asyncio.gather(*tasks)
    return sum(status != 429 for status in [*statuses, one_more])


async def end_workers(made: Installation) -> list[str]:
    """End the workers in good order, and look what they left."""
    left: list[str] = []
    for name, kept in made.workers.items():
        if code := await kept.stop():
            left.append(f"{name} ended with status {code} when told to stop")
    left += leftovers.on_this_machine(made)
    return left


@contextlib.asynccontextmanager
async def _logs_kept(made: Installation, keep: Path | None) -> AsyncIterator[None]:
    """Copy the logs in the end, however it comes."""
    try:
        yield
    finally:
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            for log in made.directory.glob("*.log"):
                (keep / log.name).write_bytes(log.read_bytes())


def main() -> int:
    """Run as told by the command line; the last line is the number of violations."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long load and faults last (default 10)")
    parser.add_argument("--nats", type=int, choices=(1, 3), default=1, help="nats-servers (default 1)")
    parser.add_argument("--seed", type=int, default=1, help="of load and faults (default 1)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="KIND", help="only this kind of fault; repeatable"
    )
    parser.add_argument("--runtime", choices=RUNTIMES, default=RUNTIME, help=f"of the containers (default {RUNTIME})")
    parser.add_argument("--report", type=Path, help="write the report, in Markdown, to this file, too")
    parser.add_argument("--logs", type=Path, help="where to keep the logs of all processes and the recorded history")
    given = parser.parse_args()
    if os.geteuid() != 0:
        print("scripts/chaos starts containers and mounts file systems, which needs root: run it with sudo.")
        return 2
    configure_logs(LogSettings(log_level="error"), role="chaos")
    outcome = uvloop.run(
        chaos(
            seconds=given.minutes * 60,
            replicas=given.nats,
            seed=given.seed,
            only=tuple(given.only),
            keep=given.logs,
            runtime=given.runtime,
        )
    )
    text = report(outcome.history, outcome.violations, missed=outcome.missed, minutes=given.minutes, seed=given.seed)
    print(text)
    if given.report:
        given.report.write_text(text)
    if outcome.history.runs and not any(each.name == "ran-twice" for each in outcome.with_plant):
        print("a double run was planted, and nobody saw it: this run proves nothing")
        return 1
    rare = (
        too_rare(outcome.history, given.only or Injector.names(given.nats, given.runtime))
        if given.minutes >= LONG_MIN
        else {}
    )
    for kind, count in rare.items():
        print(f"struck too rarely: {kind}, {count} times")
    print(f"violations: {len(outcome.violations)}")
    return 1 if outcome.violations or rare else 0


if __name__ == "__main__":
    sys.exit(main())
