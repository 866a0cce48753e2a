"""
One activation, from its claim to the removal of its container. The life of a call at the worker.

    prepare       time left? image; container, and function still registered? secrets: nothing of the user's has run
    start fence   queued -> running, the last thing before the command is sent
    run           until no process of the container lives; meanwhile `worker.lease` looks whether it still may
    response      into RESPONSES; meanwhile mount, cgroup and directory begin to go
    result fence  running -> final, naming that response: the caller's answer leaves here
    clean up      ack, which gives the slot back; the end of the removal

Guarantees: the command is sent only after this worker has won the start fence, and a fence is won once, so an
activation runs at most once; whatever goes wrong before it ends the record with `ran: no`. Rows: F5, F9, F10, F11.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from msgspec.structs import replace
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from mayfly.bus.codec import Undecodable
from mayfly.bus.connection import Bus
from mayfly.bus.queue import KEEP_EVERY_S, Claim
from mayfly.bus.responses import publish_response
from mayfly.bus.store import Conflict, Entry
from mayfly.bus.stores import Stores
from mayfly.containers.runtime import Container, ContainerSpec, Ending, Runtime
from mayfly.domain.activation import RECORD_MARGIN_S, Activation, Response, State
from mayfly.domain.errors import (
    Gone,
    ImageUnavailable,
    MayflyError,
    QueueUnavailable,
    RuntimeFailed,
    SecretUnavailable,
    TimedOut,
)
from mayfly.domain.ids import WorkerId, new_id
from mayfly.domain.secret import Delivery, OpenedSecret
from mayfly.images.mount_points import check_secrets_place
from mayfly.images.store import ImageStore
from mayfly.images.trees import PreparedImage
from mayfly.services.sealing import Opener
from mayfly.worker.call import call_of
from mayfly.worker.endings import CancelledBy, Verdict, verdict_of, verdict_of_failure
from mayfly.worker.images import prepare_image
from mayfly.worker.metrics import WorkerMetrics
from mayfly.worker.secrets import deregistered, open_secrets

log = structlog.get_logger()

R = TypeVar("R")

RETRY_S, RETRY_AT_MOST_S = 2.0, 30.0  # before a claim comes again that failed in a way nobody foresaw; growing
SETTLE_FOR_S = 120.0  # how long the outcome of a run is offered to a NATS that does not answer


class Refusal(Exception):
    """The activation will not run; its record ends in *state* with *error*."""

    def __init__(self, state: State, error: MayflyError, *, clock: str | None = None) -> None:
        """*clock* names what ran out, if it was time."""
        self.state = state
        self.error = error
        self.clock = clock
        super().__init__(error.detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What a worker works with: one of each, for all its activations."""

    worker_id: WorkerId
    bus: Bus
    stores: Stores
    images: ImageStore
    runtime: Runtime
    keep_s: float
    opener: Opener = field(default_factory=lambda: Opener({}))
    metrics: WorkerMetrics = field(default_factory=WorkerMetrics)


class Run:
    """One claim being worked on."""

    def __init__(self, claim: Claim, tools: Tools) -> None:
        """Nothing is done yet."""
        self._claim = claim
        self._work = claim.work
        self._tools = tools
        self._keep_s = claim.work.record.kept_s(tools.keep_s)
        self._records = tools.stores.activations
        self._deadline = time.monotonic() + claim.work.budget_s - claim.queued_s
        self._steps = replace(claim.work.record.steps, queue_s=claim.queued_s)
        self._container: Container | None = None
        self._secrets: tuple[OpenedSecret, ...] = ()
        self._removing: asyncio.Task[None] | None = None
        self._removed_at: float | None = None
        self._leases = ExitStack()
        self._cancelled_by: CancelledBy | None = None
        self._is_gone = False  # the record, at the last look
        self.is_preparing = False
        """Nothing has begun that another worker could not begin anew."""
        self.may_live = False
        """The start fence was asked for, so the function may run here, and it is not known to be dead."""

    @property
    def key(self) -> str:
        """The record's key, by which others ask for it."""
        return self._work.key

    def kill(self) -> None:
        """End it, as the worker has to stop."""
        if self._container:
            self._container.kill()

    def cancel(self, *, by_operator: bool = False) -> None:
        """End it, as its owner or an operator wants. One whose command has ended by itself stays what it is."""
        self._cancelled_by = self._cancelled_by or ("operator" if by_operator else "owner")
        self.kill()

    async def kill_if_settled(self) -> None:
        """
        Kill the container when somebody else has ended the record: this worker was taken for lost, its caller has been
        told, and the slot will be another's. A record that cannot be read is one that somebody else has written. One
        that is gone must be so twice: a server that has just woken up may not have heard of it for some moments.

        Raises: QueueUnavailable.
        """
        was_gone, self._is_gone = self._is_gone, False
        try:
            entry = await self._records.get(self.key)
            self._is_gone = entry is None
            is_settled = entry.value.state.is_final if entry else was_gone
        except Undecodable:
            is_settled = True
        if self.may_live and is_settled:
            log.warning("activation.settled-elsewhere", activation=self._work.record.id)
            self.kill()

    async def carry_out(self) -> None:
        """Do everything, and leave neither a container nor an unsettled claim. Cancelled early, give the claim back."""
        async with self._claim_kept():
            try:
                await self._prepare_and_run()
            except Refusal as refusal:
                await self._refuse(refusal)
            except QueueUnavailable as error:  # the message comes again; by then its record says what to do
                log.warning("activation.left", activation=self._work.record.id, reason=error.detail)
            except asyncio.CancelledError:
                if self.is_preparing:
                    await self._give_back(delay_s=0)
                raise
            except Exception:  # unforeseen. Kept, the message would come again only after `ACK_WAIT_S`
                log.exception("activation.crashed", activation=self._work.record.id)
                await self._give_back(delay_s=min(RETRY_AT_MOST_S, RETRY_S * self._claim.deliveries))
            finally:
                await self._removed()

    async def _prepare_and_run(self) -> None:
        self.is_preparing = True
        image = await self._prepare()
        running = await self._start_fence(image)
        if running is None:
            await self._follow_the_winner()
            return
        ended = await self._run(running, image)
        await self._ack()  # before anything else: the caller has the answer, and may call again at once
        await self._removed()
        if ended is None:
            return
        final = ended.value
        self._tools.metrics.ended(final)
        if self._removed_at and not final.removed_at:
            await self._note_removal(ended)
        log.info(
            "activation.completed",
            activation=final.id,
            function=final.function,
            state=str(final.state),
            code=final.code,
            run_ms=round((final.steps.run_s or 0) * 1000, 1),
        )

    async def _prepare(self) -> PreparedImage:
        """Make the container ready, within the call's time."""
        began = time.monotonic()
        if began >= self._deadline:
            raise _late("queue")
        try:
            async with asyncio.timeout(self._deadline - began):
                image = _or_refused(await self._image())
                await self._container_and_secrets(image)
        except TimeoutError:
            raise _late("image") from None
        self._steps = replace(self._steps, image_s=time.monotonic() - began)
        return image

    async def _container_and_secrets(self, image: PreparedImage) -> None:
        """
        Make the container while the registration is looked up: a queued call of a deregistered function is refused, any
        other gets the secrets that are due to it. An image that leaves no room for them is refused. Where there are
        secrets already, how the container is made depends on them.
        """
        try:
            async with asyncio.TaskGroup() as group:
                secrets = group.create_task(self._secrets_if_registered())
                if not self._work.function.secrets:
                    await self._create_container(image)
        except ExceptionGroup as problems:
            raise problems.exceptions[0] from None
        self._secrets = _or_refused(secrets.result())
        if self._has_secret_files():
            try:
                check_secrets_place(image.rootfs)
            except ImageUnavailable as error:
                raise Refusal(State.REFUSED, error) from error
            await self._remove_container()  # one that was made without room for them: they were set meanwhile
        if self._container is None:
            await self._create_container(image)

    def _has_secret_files(self) -> bool:
        return any(secret.delivery is Delivery.FILE for secret in self._secrets)

    async def _secrets_if_registered(self) -> tuple[OpenedSecret, ...] | MayflyError:
        function = self._work.function
        entry = await self._tools.stores.functions.get(function.key)
        if entry is None or entry.value.id != function.id:
            return deregistered(function)
        try:
            return await open_secrets(self._tools.stores, self._tools.opener, entry.value, admitted=function)
        except (Gone, SecretUnavailable) as error:
            return error

    async def _image(self) -> PreparedImage | MayflyError:
        function = self._work.function
        try:
            image = await prepare_image(self._tools.images, self._tools.stores, function)
            self._leases.enter_context(self._tools.images.lease(image.digest))
        except QueueUnavailable:
            raise
        except MayflyError as error:
            return error
        if not image.config.command_line(function.command, function.args):
            return ImageUnavailable(f"Image {function.image!r} has nothing to run: give the function a `command`.")
        return image

    async def _create_container(self, image: PreparedImage) -> None:
        function = self._work.function
        spec = ContainerSpec(
            id=new_id(),
            owner=self._work.user_id,
            rootfs=image.rootfs,
            config=image.config,
            limits=function.limits,
            network=function.network,
            has_secret_files=self._has_secret_files(),
        )
        try:
            self._container, self._removed_at = await self._tools.runtime.create(spec), None
        except RuntimeFailed as error:
            raise Refusal(State.REFUSED, error) from error
        self._tools.metrics.containers_created.inc()

    async def _start_fence(self, image: PreparedImage) -> Entry[Activation] | None:
        """Move the record to running; None if somebody else moved it first, and then nothing is run here."""
        nonce = new_id()
        record = self._work.record.moved(
            State.RUNNING,
            nonce=nonce,
            attempt=nonce,
            worker=self._tools.worker_id,
            admitted_at=self._claim.admitted_at,
            claimed_at=self._claim.admitted_at + self._claim.queued_s,
            started_at=self._now(),
            digest=image.digest,
            ran="unknown",
            steps=self._steps,
        )
        ttl_s = self._left_s() + max(RECORD_MARGIN_S, self._keep_s)
        self.is_preparing, self.may_live = False, True
        try:
            revision = await self._persistently(
                lambda: self._records.update(self.key, record, revision=self._work.revision, ttl_s=ttl_s),
                for_s=self._left_s(),
            )
        except Conflict:
            self.may_live = False
            self._tools.metrics.fence_lost("start")
            return None
        return Entry(self.key, record, revision)

    async def _run(self, running: Entry[Activation], image: PreparedImage) -> Entry[Activation] | None:
        """
        Send the command, wait for the end, and say how it was: first the response, then the record that names it.
        None if somebody else has ended the record meanwhile.
        """
        if self._container is None:
            raise RuntimeError("a command can only be sent into a container")
        ending: Ending | None = None
        started_at = self._now()
        try:
            call = call_of(self._work, image.config, self._secrets)
            ending = await self._container.run(call, timeout_s=max(0.001, self._left_s()))
            self.may_live = False
            verdict = verdict_of(
                ending,
                self._work.function.limits,
                allowed_s=self._work.record.deadline_at - self._work.record.created_at,
                cancelled_by=self._cancelled_by,
            )
        except RuntimeFailed as error:
            log.error("container.failed", activation=self._work.record.id, reason=error.detail)
            verdict = verdict_of_failure(error, cancelled_by=self._cancelled_by)
        self._begin_removal()
        response = _response(running.value, verdict, ending)
        seq = await self._persistently(
            lambda: publish_response(self._tools.bus, self.key, response, keep_s=self._keep_s)
        )
        final = replace(
            _final(running.value, verdict, ending, response_seq=seq),
            started_at=started_at,
            ended_at=self._now(),
            removed_at=self._removed_at,
        )
        try:
            revision = await self._persistently(
                lambda: self._records.update(self.key, final, revision=running.revision, ttl_s=self._keep_s)
            )
        except Conflict:
            self._tools.metrics.fence_lost("result")
            log.warning("activation.result-fence-lost", activation=final.id)
            return None
        return Entry(self.key, final, revision)

    async def _note_removal(self, ended: Entry[Activation]) -> None:
        """
        Add to the record when nothing of the container was left, if that was not sooner than the response was stored.
        Without it nobody can say, and nothing is lost.
        """
        record = replace(ended.value, nonce=new_id(), removed_at=self._removed_at)
        try:
            await self._records.update(self.key, record, revision=ended.revision, ttl_s=self._keep_s)
        except (Conflict, QueueUnavailable):
            log.info("activation.removal-not-noted", activation=record.id)

    async def _refuse(self, refusal: Refusal) -> None:
        """End the record of an activation that was not run, and give its slot back."""
        self.is_preparing = False
        error = refusal.error
        record = self._work.record.moved(
            refusal.state,
            nonce=new_id(),
            admitted_at=self._claim.admitted_at,
            claimed_at=self._claim.admitted_at + self._claim.queued_s,
            ended_at=self._now(),
            code=error.code,
            detail=error.detail,
            clock=refusal.clock,
            ran="no",
            steps=self._steps,
        )
        log.info("activation.refused", activation=record.id, code=error.code, reason=error.detail)
        try:
            await self._records.update(self.key, record, revision=self._work.revision, ttl_s=self._keep_s)
        except Conflict:
            await self._follow_the_winner()
            return
        except QueueUnavailable:
            return
        await self._ack()
        self._tools.metrics.ended(record)

    async def _follow_the_winner(self) -> None:
        """
        The record went another way. Over: the message is too. Running elsewhere, or lost with its worker, or gone: that
        is the janitor's, who gives the slot back when the container is certainly gone.
        """
        entry = await self._records.get(self.key)
        if entry and entry.value.state.is_final and entry.value.state is not State.WORKER_LOST:
            await self._ack()

    async def _give_back(self, *, delay_s: float) -> None:
        """Let somebody try again. Once it was started nobody will: its record says so, and the janitor settles it."""
        try:
            await self._claim.give_back(delay_s=delay_s)
        except QueueUnavailable:  # it comes again by itself, later
            log.warning("activation.not-given-back", activation=self._work.record.id)

    async def _ack(self) -> None:
        try:
            await self._claim.ack()
        except QueueUnavailable:  # delivered again, it will be found final
            log.warning("activation.ack-failed", activation=self._work.record.id)

    @asynccontextmanager
    async def _claim_kept(self) -> AsyncIterator[None]:
        """Keep telling NATS that the claim is being worked on, once that takes longer than most calls do."""
        keeping: list[asyncio.Task[None]] = []

        def begin() -> None:
            keeping.append(asyncio.create_task(self._keep(), name=f"keep-{self._work.ulid}"))

        first = asyncio.get_running_loop().call_later(KEEP_EVERY_S, begin)
        try:
            yield
        finally:
            first.cancel()
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)

    async def _keep(self) -> None:
        while True:
            with suppress(QueueUnavailable):
                await self._claim.keep()
            await asyncio.sleep(KEEP_EVERY_S)

    async def _persistently(self, action: Callable[[], Awaitable[R]], *, for_s: float = SETTLE_FOR_S) -> R:
        """
        Repeat *action* while NATS is unavailable. It must be one that may be repeated: each write here is. When the
        connection is closed for good the worker has to end, and the record is left to the janitor.
        """
        closed = self._tools.bus.closed
        try:
            return await action()
        except QueueUnavailable:
            if closed.is_set():
                raise
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, QueueUnavailable) and not closed.is_set()),
            wait=wait_random_exponential(multiplier=0.2, max=5),
            stop=stop_after_delay(for_s),
            reraise=True,
        ):
            with attempt:
                return await action()
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _begin_removal(self) -> asyncio.Task[None]:
        """
        Remove the container, beside whatever else is to be done. Begun as its response goes out, it mostly is over when
        the record is to be final, which can then say so: it need not be written once more.
        """
        if self._removing is None:
            self._removing = asyncio.create_task(self._remove_container(), name=f"remove-{self._work.ulid}")
        return self._removing

    async def _removed(self) -> None:
        """Return when the removal is over, which nobody interrupts."""
        await asyncio.shield(self._begin_removal())

    async def _remove_container(self) -> None:
        """Remove it, if there is one; `_removed_at` says when nothing of it was left."""
        container, self._container = self._container, None
        try:
            if container:
                await container.remove()
                self.may_live, self._removed_at = False, self._now()
                self._tools.metrics.containers_removed.inc()
        except RuntimeFailed as error:
            self._tools.metrics.containers_left.inc()
            log.error("container.not-removed", container=container.id if container else None, reason=error.detail)
        finally:
            self._leases.close()

    def _left_s(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _now(self) -> float:
        return self._tools.bus.clock.now()


def _or_refused(found: R | MayflyError) -> R:
    if isinstance(found, MayflyError):
        raise Refusal(State.REFUSED, found)
    return found


def _late(clock: str) -> Refusal:
    what = {"queue": "no worker had a free slot", "image": "the image was not ready"}[clock]
    detail = f"The time allowed for the call ran out: {what} in time. Nothing was run."
    return Refusal(State.TIMED_OUT, TimedOut(detail), clock=clock)


def _response(running: Activation, verdict: Verdict, ending: Ending | None) -> Response:
    return Response(
        attempt=running.attempt or "",
        result=verdict.result,
        stderr=ending.stderr if ending else b"",
        stderr_truncated=ending.stderr_truncated if ending else False,
    )


def _final(running: Activation, verdict: Verdict, ending: Ending | None, *, response_seq: int) -> Activation:
    final = running.moved(
        verdict.state,
        nonce=new_id(),
        ran=verdict.ran,
        code=verdict.code,
        detail=verdict.detail,
        clock=verdict.clock,
        response_seq=response_seq,
        result_bytes=len(verdict.result) if verdict.result is not None else None,
    )
    if ending is None:
        return final
    return replace(
        final,
        exit_code=ending.exit_code,
        stderr_bytes=len(ending.stderr),
        cpu_us=ending.cpu_us,
        memory_peak_bytes=ending.memory_peak_bytes,
        steps=replace(final.steps, start_s=ending.start_s, run_s=ending.run_s),
    )
