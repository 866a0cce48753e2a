"""Putting a worker together: the host made ready, the bus, the images, the runtime. Rows: A5, D2."""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from pathlib import Path

import structlog

from mayfly.bus.clock_reading import keeping_time
from mayfly.bus.connection import connect
from mayfly.bus.stores import Stores
from mayfly.containers.choose import DockerAddress, choose_runtime, first_that_works
from mayfly.containers.host import prepare_host
from mayfly.containers.watchdog import Feed
from mayfly.domain.errors import QueueUnavailable
from mayfly.domain.ids import WorkerId, new_id
from mayfly.domain.sandbox import LOST_WITH_CONFINED
from mayfly.images.policy import RegistryPolicy
from mayfly.images.store import FindCredentials, ImageStore
from mayfly.services.metrics_certificates import ends_of
from mayfly.services.metrics_port import served
from mayfly.services.sealing import Opener
from mayfly.settings import ImageSettings, WorkerSettings
from mayfly.worker.incarnation import Incarnation, forget, succeed
from mayfly.worker.loop import Worker
from mayfly.worker.metrics import WorkerMetrics
from mayfly.worker.run import Tools
from mayfly.worker.secrets import credentials_finder

log = structlog.get_logger()


async def serve(settings: WorkerSettings, feed: Feed | None = None, *, siblings: Path | None = None) -> None:
    """
    Be a worker until SIGTERM or SIGINT, or until the connection to NATS is closed for good.

    Must run as pid 1 of namespaces of its own (`containers.host.enter_namespaces`): when it dies, all its containers
    and mounts go with it. (Not so with a Docker daemon, which has the containers and ends them, or with confined calls,
    which their launchers end.) *feed* is that of the process outside, which sees to that death.
    *siblings* is the directory below which this and other workers of this machine have their state, if there are such.

    Raises: SealingKeyUnusable; RuntimeFailed when this machine cannot run containers; QueueUnavailable, also when the
    connection was closed for good: whoever restarts only what has failed has to see that it has.
    """
    if settings.runtime not in ("docker", "confined"):
        prepare_host()
    opener = Opener.load(settings.sealing_keys_dir)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    make = partial(
        choose_runtime,
        state_dir=settings.state_dir,
        launcher_dir=settings.launcher_dir,
        docker=DockerAddress(host=settings.docker_host, tls_dir=settings.docker_tls_dir),
        egress=settings.egress_policy(),
        images=settings.image_dir,
        slots=settings.slots,
        siblings=siblings,
    )
    runtime, left = await first_that_works(settings.runtime, make)
    if settings.runtime == "confined":
        for lost, instead in LOST_WITH_CONFINED.items():
            log.warning("worker.confined", lost=lost, instead=instead)
    try:
        if left:
            log.warning("worker.reaped", containers=left)
        async with (
            connect(settings, role="worker", buffer_while_disconnected=True) as bus,
            open_images(settings, settings.image_dir, credentials=credentials_finder(Stores.on(bus), opener)) as images,
            keeping_time(bus),
            served(settings.metrics_listen, WorkerMetrics.of(bus, images, settings)) as metrics,
        ):
            metrics.certificates = ends_of(authority=settings.nats_ca_file)
            tools = Tools(
                worker_id=WorkerId(new_id()),
                bus=bus,
                stores=Stores.on(bus),
                images=images,
                runtime=runtime,
                keep_s=settings.record_keep_s,
                opener=opener,
                metrics=metrics,
            )
            closing = asyncio.create_task(_stop_when(bus.closed, stop), name="closed")
            incarnation = Incarnation(id=tools.worker_id, home=runtime.home)
            await succeed(settings.state_dir, incarnation, runtime, tools.stores.workers)
            if await Worker(tools, slots=settings.slots, feed=feed).run(stop, grace_s=settings.stop_grace_s):
                forget(settings.state_dir)
            closing.cancel()
            if bus.closed.is_set():
                raise QueueUnavailable("The connection to NATS was closed for good; the log says why.")
    finally:
        await runtime.close()


def open_images(
    settings: ImageSettings,
    directory: Path,
    *,
    may_evict: bool = True,
    credentials: FindCredentials | None = None,
) -> ImageStore:
    """Open the image store in *directory*, with the rules of the settings, and what finds users' own *credentials*."""
    policy = RegistryPolicy(
        allow=settings.allowed_registries,
        private=settings.private_registries,
        plain_http=settings.plain_http_registries,
    )
    return ImageStore(
        directory=directory,
        policy=policy,
        auth_file=settings.registry_auth_file,
        credentials=credentials,
        pull_timeout_s=settings.pull_timeout_s,
        max_unpacked_bytes=settings.image_max_bytes,
        cache_bytes=settings.image_cache_bytes,
        may_evict=may_evict,
    )


async def _stop_when(closed: asyncio.Event, stop: asyncio.Event) -> None:
    await closed.wait()
    log.error("worker.connection-closed", remedy="The supervisor starts it anew.")
    stop.set()
