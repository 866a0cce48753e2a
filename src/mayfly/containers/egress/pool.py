"""
Network namespaces that are ready, each for one container; made and removed beside the event loop.

Making one takes some 5 ms of a core and of the kernel's network lock, so a call does not wait for it: as many are ready
as calls may come at once. A used one is closed, never used again, and its address rests.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network
from itertools import islice
from pathlib import Path
from typing import TypeVar

import structlog

from mayfly.containers.egress import rules
from mayfly.containers.egress.namespace import Maker, Namespace
from mayfly.containers.egress.resolvers import resolv_conf
from mayfly.domain.egress import EgressPolicy
from mayfly.domain.errors import RuntimeFailed

log = structlog.get_logger()

READY_MAX = 16  # namespaces that wait; each keeps some hundred kilobytes of the kernel
REST_S = 10.0
"""How long an address is nobody's. The kernel knows no connection of it then, so nothing is sent to it any more; what
was on its way at that moment has arrived."""
GONE_WITHIN_S = 10.0  # the kernel removes a namespace in some milliseconds, or some hundred when it is busy
LOOK_EVERY_S = 0.02
RETRY_S = 1.0
GUARD_EVERY_S = 2.0  # a look costs some ten milliseconds

R = TypeVar("R")


class Addresses:
    """Addresses of functions, the longest unused first."""

    def __init__(self, network: IPv4Network) -> None:
        """All of *network* but its first and last address."""
        self._fresh = islice(network, 1, network.num_addresses - 1)
        self._used: deque[tuple[IPv4Address, float]] = deque()

    def take(self, now: float) -> IPv4Address | None:
        """Take one that has rested at *now*; None if there is none."""
        for address in self._fresh:
            return address
        if self._used and self._used[0][1] <= now:
            return self._used.popleft()[0]
        return None

    def give_back(self, address: IPv4Address, now: float) -> None:
        """Let it rest."""
        self._used.append((address, now + REST_S))


class Pool:
    """Namespaces for the containers of one worker."""

    def __init__(self, policy: EgressPolicy, *, name: str, directory: Path, mark: Path, size: int) -> None:
        """
        Nothing is made yet. *policy* names its resolvers; *name* is the worker's, in letters and digits; at least one
        and at most *size* and READY_MAX namespaces are kept ready; *directory* is for their /sys. The file *mark* says,
        after a crash too, that there may be rules.
        """
        self.policy = policy
        self.resolv_conf = resolv_conf(policy.resolvers)
        self.table = rules.table_name(name)
        self.prefix = f"mf{name[:6]}n"
        self._directory = directory
        self._mark = mark
        self._size = max(1, min(size, READY_MAX))
        self._addresses = Addresses(policy.addresses)
        self._ready: deque[Namespace] = deque()
        self._failure: str | None = None
        self._changed = asyncio.Condition()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="egress")
        self._maker: Maker | None = None
        self._filling: asyncio.Task[None] | None = None
        self._guarding: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._loaded = ""

    async def open(self) -> None:
        """
        Remove what a dead worker left, load the rules, make the first namespace and go on making more.

        Raises: RuntimeFailed with the remedy, when this machine cannot do it; nothing is left then.
        """
        try:
            await self._in_thread(self._prepare)
            await self._make_one()
        except BaseException:
            await self.close()
            raise
        self._filling = asyncio.create_task(self._fill(), name="egress-fill")
        self._guarding = asyncio.create_task(self._guard(), name="egress-guard")
        log.info("egress.ready", table=self.table, addresses=str(self.policy.addresses))

    def _prepare(self) -> None:
        self._directory.mkdir(mode=0o711, exist_ok=True)
        self._maker = Maker(self.prefix, self._directory, self.policy.addresses)
        if rules.is_installed(self.table):
            log.warning("egress.reaped", interfaces=self._maker.reap())
        self._maker.check()
        self._mark.touch(mode=0o600)
        self._loaded = rules.install(self.table, self.prefix, self.policy)
        for chain in rules.dropping(self.table):
            log.warning(
                "egress.others-drop", chain=chain, remedy=f"Let it pass what comes from and goes to {self.prefix}*."
            )

    async def take(self) -> Namespace:
        """
        Take a namespace, for one container; at once if one is ready. Give it to `retire` in the end.

        Raises: RuntimeFailed when none can be made.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._ready or self._failure)
            if not self._ready:
                raise RuntimeFailed(self._failure)
            namespace = self._ready.popleft()
            self._changed.notify_all()
        return namespace

    def retire(self, namespace: Namespace) -> None:
        """Remove a namespace in which no process is any more; in the background, as the kernel does it."""
        task = asyncio.create_task(self._retire(namespace), name=f"egress-retire-{namespace.interface}")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def close(self) -> None:
        """Remove all that is left, rules included. Idempotent. No container may use a namespace any more."""
        if self._is_closed:
            return
        self._is_closed = True
        tasks = [task for task in (self._filling, self._guarding) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._ready:
            self.retire(self._ready.popleft())
        await asyncio.gather(*self._retiring)
        try:
            await self._in_thread(self._clear)
        finally:
            self._thread.shutdown(wait=True)

    def _clear(self) -> None:
        if self._maker:
            self._maker.close()
            rules.uninstall(self.table)
            self._mark.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._directory.rmdir()

    async def _fill(self) -> None:
        """Make namespaces while fewer are ready than should be; as long as that fails, whoever wants one is told so."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: len(self._ready) < self._size)
            try:
                await self._make_one()
            except RuntimeFailed as error:
                log.error("egress.failed", reason=error.detail)
                self._failure = error.detail
                async with self._changed:
                    self._changed.notify_all()
                await asyncio.sleep(RETRY_S)

    async def _guard(self) -> None:
        """
        Load the rules again where they are not as they were loaded: somebody has flushed all of this machine's, as a
        restart of nftables.service does, or a chain of ours, or has changed one. Without them a function would reach
        the machine itself.
        """
        while True:
            await asyncio.sleep(GUARD_EVERY_S)
            try:
                if await self._in_thread(self._restore_rules):
                    log.error(
                        "egress.rules-were-gone", table=self.table, remedy="Flush and change no tables but your own."
                    )
            except RuntimeFailed as error:
                log.error("egress.failed", reason=error.detail)

    def _restore_rules(self) -> bool:
        if rules.listing(self.table) == self._loaded:
            return False
        self._loaded = rules.install(self.table, self.prefix, self.policy)
        self._maker_now().forget_all_flows()  # also of what was connected without them
        return True

    async def _make_one(self) -> None:
        address = self._addresses.take(asyncio.get_running_loop().time())
        if address is None:
            raise RuntimeFailed(
                f"Egress: every address of {self.policy.addresses} is in use or has been within {REST_S:g} s: set "
                "MAYFLY_EGRESS_ADDRESSES to a larger range, or MAYFLY_SLOTS to fewer."
            )
        making = asyncio.ensure_future(self._in_thread(lambda: self._maker_now().make(address)))
        try:
            namespace = await asyncio.shield(making)
        except asyncio.CancelledError:
            self.retire(await making)
            raise
        except RuntimeFailed:
            self._addresses.give_back(address, asyncio.get_running_loop().time())
            raise
        async with self._changed:
            self._ready.append(namespace)
            self._failure = None
            self._changed.notify_all()

    async def _retire(self, namespace: Namespace) -> None:
        """See a namespace off; the address of one that does not go is nobody's any more."""
        try:
            await self._in_thread(namespace.close)
            if not await self._gone(namespace):
                log.error("egress.not-removed", interface=namespace.interface, after_s=GONE_WITHIN_S)
                await self._in_thread(lambda: self._maker_now().delete(namespace.interface))
            await self._in_thread(lambda: self._maker_now().forget_flows(namespace.address))
        except (OSError, RuntimeFailed) as error:
            log.error("egress.not-removed", interface=namespace.interface, reason=str(error))
            return
        self._addresses.give_back(namespace.address, asyncio.get_running_loop().time())

    async def _gone(self, namespace: Namespace) -> bool:
        loop = asyncio.get_running_loop()
        until = loop.time() + GONE_WITHIN_S
        while namespace.is_there():
            if loop.time() > until:
                return False
            await asyncio.sleep(LOOK_EVERY_S)
        return True

    def _maker_now(self) -> Maker:
        if self._maker is None:
            raise RuntimeFailed("Egress is not ready: the worker has not finished its start.")
        return self._maker

    async def _in_thread(self, action: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, action)
