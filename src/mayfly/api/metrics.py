"""What an API server counts, and what it reads of the whole installation when it is scraped. Rows: A2, D4."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from mayfly.bus.health import STREAMS, StreamHealth
from mayfly.domain.activation import State
from mayfly.domain.errors import Cancelled, Gone, InternalError, LimitReached, MayflyError, TimedOut, WorkerLost
from mayfly.services.attempts import SCOPES as ATTEMPT_SCOPES
from mayfly.services.janitor import ACTIONS
from mayfly.services.metrics import NO_CODE, Metrics

SCOPES = ("platform", "user", "function")
UNKNOWN = "unknown"


class ApiMetrics(Metrics):
    """Those of one API server."""

    role = "api"

    def __init__(self) -> None:
        """Nothing has been called, and usage is not known."""
        super().__init__()
        self._activations = self._counter(
            "mayfly_activations_total",
            "Calls answered by this API server: how the activation ended, the error's code (`none` for a result) and "
            "whether it ran. `unknown` is what the API server itself could not learn.",
            *("state", "code", "ran"),
        )
        self._durations = self._histogram(
            "mayfly_activation_duration_seconds",
            "From the arrival of a call's request head to its answer, by how the activation ended.",
            "state",
        )
        self._refusals = self._counter(
            "mayfly_refusals_total", "Calls refused because a limit was reached, by whose limit it was.", "scope"
        )
        self._submissions = self._counter(
            "mayfly_submissions_total",
            "Asynchronous calls (`Prefer: respond-async`): `accepted`, or the code of the error with which one was "
            "refused. How they end is in `mayfly_worker_activations_total`.",
            "outcome",
        )
        self._logins = self._counter(
            "mayfly_logins_total",
            "Logins and refreshed logins: `succeeded`, or the code of the error with which one was refused.",
            "outcome",
        )
        self._attempts = self._counter(
            "mayfly_attempts_refused_total",
            "Logins, changes of a password and registrations that were refused unread, since too many had failed: with "
            "one user name from one address, with it from anywhere (`user`), or from one `address`; or since too many "
            "users were registered from one address (`registrations`).",
            "scope",
        )
        self._janitor = self._counter(
            "mayfly_janitor_actions_total",
            "What the janitor put right: a slot or a place given back that nobody else would have, an activation ended "
            "that was out of time, one whose worker was lost.",
            "action",
        )
        self.in_flight = self._gauge(
            "mayfly_activations_in_flight",
            "Activations of the whole installation that are admitted and not yet finished, waiting and running alike. "
            "Every API server reads the same number, so take the `max`, not the sum.",
        )
        self.waiting = self._gauge(
            "mayfly_activations_waiting", "Those of them that were not handed to a worker yet: the queue. Likewise."
        )
        self.running = self._gauge(
            "mayfly_activations_running", "Those of them that a worker has claimed, as the workers say. Likewise."
        )
        self.limit = self._gauge(
            "mayfly_activations_limit",
            "How many may be in flight, for the platform (M) and for each user (U); +Inf without a maximum.",
            "scope",
        )
        self.workers = self._gauge("mayfly_workers", "Workers that have given a sign of life in the last 5 s.")
        self.slots = self._gauge("mayfly_slots", "Slots of all those workers together.")
        self.workers_lost = self._counter(
            "mayfly_workers_lost_total",
            "Workers whose signs of life ended without a goodbye, as noticed when this API server was scraped. Every "
            "API server notices the same, so take the `max`.",
        )
        self.store_bytes = self._gauge(
            "mayfly_store_bytes", "What all streams take on the disks of all nats-servers together."
        )
        self.store_limit = self._gauge("mayfly_store_limit_bytes", "What they may take; +Inf without a limit.")
        self._describe_streams()
        self.forget_usage()
        self.forget_streams()
        self._activations.labels(State.SUCCEEDED, NO_CODE, "yes")
        for counter, values in (
            (self._refusals, SCOPES),
            (self._submissions, ("accepted",)),
            (self._logins, ("succeeded",)),
            (self._attempts, ATTEMPT_SCOPES),
            (self._janitor, ACTIONS),
        ):
            for value in values:
                counter.labels(value)

    def _describe_streams(self) -> None:
        """Have the gauges of how NATS's streams stand."""
        self._stream_leader = self._gauge(
            "mayfly_stream_leader",
            "1 while a stream of NATS has a leader, else 0: then nothing is written to it or read from it. Every API "
            "server asks the same, so take the `max`, of all of `mayfly_stream_*`.",
            "stream",
        )
        self._stream_replicas = self._gauge("mayfly_stream_replicas", "Copies of it that there are to be.", "stream")
        self._stream_current = self._gauge(
            "mayfly_stream_replicas_current", "Copies of it that are up to date, the leader's included.", "stream"
        )
        self._stream_messages = self._gauge("mayfly_stream_messages", "Messages, or a bucket's entries.", "stream")
        self._stream_bytes = self._gauge("mayfly_stream_bytes", "What it takes on the disk of each server.", "stream")
        self._stream_limit = self._gauge(
            "mayfly_stream_limit_bytes", "What it may take; +Inf without a limit of its own.", "stream"
        )

    def show_streams(self, streams: Iterable[StreamHealth]) -> None:
        """Show how streams stand. Of one without a leader only that is known."""
        for each in streams:
            led = each.leader is not None
            self._stream_leader.labels(each.name).set(led)
            for gauge, value in (
                (self._stream_replicas, each.replicas),
                (self._stream_current, each.current),
                (self._stream_messages, each.messages),
                (self._stream_bytes, each.size_bytes),
                (self._stream_limit, each.max_bytes or math.inf),
            ):
                gauge.labels(each.name).set(value if led else math.nan)

    def forget_streams(self) -> None:
        """Nobody could be asked how they stand: not a number, until somebody can."""
        self.show_streams(StreamHealth(name=name) for name in STREAMS)
        for name in STREAMS:
            self._stream_leader.labels(name).set(math.nan)

    @contextmanager
    def call(self, began: float | None) -> Iterator[None]:
        """Count the call that is made inside, by how it ends; *began* is when it arrived (`time.monotonic()`)."""
        began = time.monotonic() if began is None else began
        try:
            yield
        except MayflyError as error:
            self._called(state_of(error), error.code, error.ran, began)
            if isinstance(error, LimitReached):
                self._refusals.labels(error.members.get("scope", UNKNOWN)).inc()
            raise
        except Exception:
            self._called(UNKNOWN, InternalError.code, InternalError.default_ran, began)
            raise
        self._called(State.SUCCEEDED, NO_CODE, "yes", began)

    @contextmanager
    def submission(self) -> Iterator[None]:
        """Count the asynchronous call that is made inside: `accepted`, or the code with which it was not."""
        try:
            yield
        except MayflyError as error:
            self._submissions.labels(error.code).inc()
            if isinstance(error, LimitReached):
                self._refusals.labels(error.members.get("scope", UNKNOWN)).inc()
            raise
        self._submissions.labels("accepted").inc()

    def _called(self, state: str, code: str, ran: str, began: float) -> None:
        self._activations.labels(state, code, ran).inc()
        self._durations.labels(state).observe(time.monotonic() - began)

    @contextmanager
    def login(self) -> Iterator[None]:
        """Count the login that is tried inside."""
        try:
            yield
        except MayflyError as error:
            self._logins.labels(error.code).inc()
            raise
        self._logins.labels("succeeded").inc()

    def attempt_refused(self, scope: str) -> None:
        """Count an attempt that has to wait: one of `services.attempts.SCOPES`."""
        self._attempts.labels(scope).inc()

    def janitor_acted(self, action: str) -> None:
        """Count one thing that the janitor put right: one of `services.janitor.ACTIONS`."""
        self._janitor.labels(action).inc()

    def forget_usage(self) -> None:
        """What was read of the installation is too old to be shown: not a number, until it is read again."""
        for gauge in (
            self.in_flight,
            self.waiting,
            self.running,
            self.workers,
            self.slots,
            self.store_bytes,
            self.store_limit,
        ):
            gauge.set(math.nan)
        for scope in ("platform", "user"):
            self.limit.labels(scope).set(math.nan)


def state_of(error: MayflyError) -> str:
    """Say in which state an activation is that ended in *error*; `unknown` when that error does not tell."""
    match error:
        case TimedOut():
            return State.TIMED_OUT
        case WorkerLost():
            return State.WORKER_LOST
        case Cancelled():
            return State.CANCELLED
        case Gone(ran="yes"):  # it ended well, and its result was dropped before it could be read
            return State.SUCCEEDED
    return {"no": State.REFUSED, "yes": State.FAILED}.get(error.ran, UNKNOWN)
