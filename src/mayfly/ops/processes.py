"""
Several worker processes on one machine, where one does not keep up: each is busy with one core at the most.

They are workers like any other, each with an id, a connection and a state directory of its own, and share what there is
once: the slots, the images, and the processor, of which their functions together leave something to the system. One
that ends is started again, and the others go on. From outside they are one: it is stopped as one, and its metrics are
those of all (`ops.gathered`). Rows: A5, D1.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import structlog

from mayfly.domain.egress import RANGE_MAX_PREFIX
from mayfly.ops.gathered import Gathered
from mayfly.ops.listen import ports_after
from mayfly.ops.supervisor import Child, ChildSpec
from mayfly.services.metrics_port import PATH, served
from mayfly.settings import SettingsError, WorkerSettings, whole_environment

log = structlog.get_logger()

GOODBYE_S = 10.0  # after the grace for what runs


def share_of(settings: WorkerSettings, number: int) -> WorkerSettings:
    """
    Say what the *number*-th process, from 1 on, has: a directory below that for state, its share of slots and of
    addresses for egress, and a port for metrics, after the one where those of all can be read.

    Raises: SettingsError when there is no such process, or not enough to share.
    """
    count = settings.worker_processes
    if not 1 <= number <= count:
        raise SettingsError(f"--process: there are processes 1 to {count} (MAYFLY_WORKER_PROCESSES), and no {number}.")
    least, more = divmod(settings.slots, count)
    shared = {
        "state_dir": settings.state_dir / str(number),
        "slots": least + (number <= more),
        "metrics_listen": _metrics_of(settings, number),
    }
    if settings.egress == "on":
        bits = (count - 1).bit_length()
        if settings.egress_addresses.prefixlen + bits > RANGE_MAX_PREFIX:
            raise SettingsError(
                f"MAYFLY_EGRESS_ADDRESSES: {settings.egress_addresses} cannot be shared by {count} processes: each "
                f"needs a /{RANGE_MAX_PREFIX} of its own."
            )
        shared["egress_addresses"] = list(settings.egress_addresses.subnets(prefixlen_diff=bits))[number - 1]
    return settings.model_copy(update=shared)


async def keep(settings: WorkerSettings) -> None:
    """
    Run all of them until SIGINT or SIGTERM, then stop all at once, each in good order.

    Raises: SettingsError when there is not enough to share, or nothing can listen where metrics are to be read.
    """
    numbers = range(1, settings.worker_processes + 1)
    listening = {number: share_of(settings, number).metrics_listen for number in numbers}
    metrics = Gathered({number: f"http://{listen}{PATH.decode()}" for number, listen in listening.items()})
    stop = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    children = [Child(_spec(settings, number)) for number in numbers]
    async with served(settings.metrics_listen, metrics, refresh=metrics.refresh):
        try:
            for child in children:
                await child.start()
            await stop.wait()
            log.info("workers.stopping", processes=len(children))
        finally:
            await asyncio.gather(*(child.stop() for child in children))


def _metrics_of(settings: WorkerSettings, number: int) -> str:
    if settings.metrics_listen.endswith(":0"):
        raise SettingsError("MAYFLY_METRICS_LISTEN: several processes need a port, and those after it; 0 is any port.")
    return ports_after(settings.metrics_listen, number)


def _spec(settings: WorkerSettings, number: int) -> ChildSpec:
    return ChildSpec(
        name=f"worker-{number}",
        command=[sys.executable, "-m", "mayfly", "worker", "--process", str(number)],
        environment=whole_environment(),
        stop_s=settings.stop_grace_s + GOODBYE_S,
    )
