"""
The shapes of everything on NATS, and `bootstrap`, which makes them or brings them up to date.

Bootstrap can be run at any time, by several at once. The one thing it refuses is to lower the limit per user while
activations are in flight: the server would enforce it by deleting the oldest messages. Rows: A3, A4, F13.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from nats.js import api
from nats.js.errors import NotFoundError, ServiceUnavailableError

from mayfly.bus import subjects
from mayfly.bus.connection import Bus, translated
from mayfly.bus.patience import UNANSWERED, patiently
from mayfly.domain.errors import PreconditionFailed
from mayfly.domain.limits import MIB, PARAMETER_MAX_BYTES, TIMEOUT_MAX_S
from mayfly.settings import BootstrapSettings

R = TypeVar("R")

ACK_WAIT_S = 15.0
"""Longer than a third of it and a failover of NATS take together, or every running activation would be delivered again
after one; shorter than a call waits by default, so that what was delivered to a worker that is gone still runs."""

WORK_MARGIN_BYTES = 128 * 1024  # of a message in ACT, for the record and the function beside the parameter
BOOTSTRAP_S = 30.0  # how long one step is tried
LEAK_BACKSTOP_S = 3600.0  # a message that nobody settled leaves the stream after deadline + this
RESPONSE_MAX_BYTES = 3 * MIB
DEDUPE_WINDOW_S = TIMEOUT_MAX_S + 60.0  # longer than anything waits in ACT: a call that is carried on has the same id
AUDIT_KEEP_S = 90 * 86_400.0
AUDIT_MAX_ENTRIES = 10_000  # of one user and kind, some 5 MB: the oldest go first, and nobody else's
AUDIT_ENTRY_MAX_BYTES = 2048  # with its headers
BOUNDED_BUCKETS = {subjects.ATTEMPTS: 32 * MIB, subjects.ADDRESSES: 16 * MIB}
"""Who has no account may write there, with as many names as he likes: at the bound the oldest go first. Some 150,000
attempts fit, each of which an API server has spent a hash on."""


def unlimited(limit: object) -> int:
    """NATS's word for a limit: -1 means none."""
    return limit if isinstance(limit, int) else -1


def work_stream(settings: BootstrapSettings) -> api.StreamConfig:
    """
    Describe the work stream, which is the concurrency limiter.

    It holds exactly the activations in flight: the server refuses message M + 1, and message U + 1 of one subject,
    atomically; an ack removes one. No `max_bytes` and no `max_age`: both would give a slot back while a container runs.
    """
    per_user = unlimited(settings.max_activations_per_user)
    return api.StreamConfig(
        name=subjects.ACT,
        subjects=["act.*"],
        retention=api.RetentionPolicy.WORK_QUEUE,
        storage=api.StorageType.FILE,
        num_replicas=settings.nats_replicas,
        discard=api.DiscardPolicy.NEW,
        max_msgs=unlimited(settings.max_activations),
        max_msgs_per_subject=per_user,
        discard_new_per_subject=per_user > 0,
        max_msg_size=PARAMETER_MAX_BYTES + WORK_MARGIN_BYTES,
        duplicate_window=DEDUPE_WINDOW_S,
        allow_msg_ttl=True,
    )


def work_consumer() -> api.ConsumerConfig:
    """Describe the one consumer that all workers share."""
    return api.ConsumerConfig(
        durable_name=subjects.ACT_CONSUMER,
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT_S,
        max_deliver=-1,
        max_ack_pending=-1,
        max_waiting=4096,
    )


def response_stream(settings: BootstrapSettings) -> api.StreamConfig:
    """
    Describe the stream of responses: every result or failure with the kept stderr, the oldest going first. The headers
    are republished, so that API servers know what each user has there (`services.retention`).
    """
    kept = "{{wildcard(1)}}", "{{wildcard(2)}}", "{{wildcard(3)}}"
    return api.StreamConfig(
        name=subjects.RESPONSES,
        subjects=["response.*.*.*"],
        retention=api.RetentionPolicy.LIMITS,
        storage=api.StorageType.FILE,
        num_replicas=settings.nats_replicas,
        discard=api.DiscardPolicy.OLD,
        max_bytes=settings.responses_max_bytes,
        max_age=settings.record_keep_s,
        max_msg_size=RESPONSE_MAX_BYTES,
        allow_msg_ttl=True,
        republish=api.RePublish(src="response.*.*.*", dest=subjects.kept(*kept), headers_only=True),
    )


def audit_stream(settings: BootstrapSettings) -> api.StreamConfig:
    """
    Describe the trail of logins and changes. A subject is one user's and of one kind: whoever makes many entries pushes
    out his own, with a stolen token no logins, and by trying to log in as somebody else only what was tried before.
    """
    return api.StreamConfig(
        name=subjects.AUDIT,
        subjects=["audit.>"],
        storage=api.StorageType.FILE,
        num_replicas=settings.nats_replicas,
        discard=api.DiscardPolicy.OLD,
        max_msgs_per_subject=AUDIT_MAX_ENTRIES,
        max_bytes=256 * MIB,
        max_msg_size=AUDIT_ENTRY_MAX_BYTES,
        max_age=AUDIT_KEEP_S,
    )


def bucket_stream(bucket: str, settings: BootstrapSettings) -> api.StreamConfig:
    """
    Describe the stream behind a bucket. Records are republished, so that an API server hears of each change.

    No rollups: whoever may write one key could remove all others with the header `Nats-Rollup: all`. Deleted are places
    and secrets' values only, which must leave nothing behind: everything else ends by its time, or as a tombstone.
    """
    republish = None
    if bucket == subjects.ACTIVATIONS:
        republish = api.RePublish(src="$KV.activations.*.*.*", dest="done.{{wildcard(2)}}.{{wildcard(3)}}")
    return api.StreamConfig(
        name=subjects.kv_stream(bucket),
        subjects=[subjects.kv_subject(bucket, ">")],
        storage=api.StorageType.FILE,
        num_replicas=settings.nats_replicas,
        discard=api.DiscardPolicy.OLD if bucket in BOUNDED_BUCKETS else api.DiscardPolicy.NEW,
        max_bytes=BOUNDED_BUCKETS.get(bucket),
        max_msgs_per_subject=1,
        allow_rollup_hdrs=False,
        deny_delete=bucket not in subjects.LEAVE_NOTHING,
        allow_direct=False,
        allow_msg_ttl=True,
        republish=republish,
    )


def all_streams(settings: BootstrapSettings) -> Iterator[api.StreamConfig]:
    """Describe every stream of the installation."""
    yield work_stream(settings)
    yield response_stream(settings)
    yield audit_stream(settings)
    for bucket in subjects.BUCKETS:
        yield bucket_stream(bucket, settings)


async def bootstrap(bus: Bus, settings: BootstrapSettings) -> list[str]:
    """
    Make or update every stream, bucket and the consumer; return the names of the streams that were made.

    Raises: PreconditionFailed when the limit per user would be lowered with activations in flight;
    QueueUnavailable.
    """
    with translated("bootstrap"):
        made = [str(config.name) for config in all_streams(settings) if await _long(_make_or_update, bus, config)]
        await _long(bus.js.add_consumer, subjects.ACT, work_consumer())
    return made


async def _long(step: Callable[..., Awaitable[R]], *given: Any) -> R:
    """Do a step again while there is no answer: a cluster that has just started chooses a leader for each stream."""
    return await patiently(partial(step, *given), also=(*UNANSWERED, ServiceUnavailableError), for_s=BOOTSTRAP_S)


async def _make_or_update(bus: Bus, config: api.StreamConfig) -> bool:
    name = str(config.name)
    try:
        present = await bus.js.stream_info(name)
    except NotFoundError:
        await bus.js.add_stream(config)
        return True
    if name == subjects.ACT:
        _refuse_to_lower(present, config)
    if present.config.deny_delete and not config.deny_delete:  # cannot be changed; nothing was kept there before
        await bus.js.delete_stream(name)
        await bus.js.add_stream(config)
        return True
    await bus.js.update_stream(config)
    return False


def _refuse_to_lower(present: api.StreamInfo, wanted: api.StreamConfig) -> None:
    now, then = present.config.max_msgs_per_subject, wanted.max_msgs_per_subject
    lowered = then > 0 and (now <= 0 or then < now)
    if lowered and present.state.messages:
        raise PreconditionFailed(
            f"MAYFLY_MAX_ACTIVATIONS_PER_USER would go from {now if now > 0 else 'none'} to {then} while "
            f"{present.state.messages} activations are in flight, and NATS would drop some of them. "
            "Try again when nothing is in flight, or stop the API servers first."
        )


async def limits_in_force(bus: Bus) -> tuple[int | None, int | None]:
    """
    Read M and U as the server enforces them; None means no maximum.

    Raises: QueueUnavailable.
    """
    with translated("read limits"):
        config = (await bus.js.stream_info(subjects.ACT)).config
    total = config.max_msgs if config.max_msgs and config.max_msgs > 0 else None
    return total, config.max_msgs_per_subject if config.max_msgs_per_subject > 0 else None


def message_ttl_s(budget_s: float) -> float:
    """How long a message may stay in the work stream: far beyond its deadline, so only a leak ever meets it."""
    return min(budget_s, TIMEOUT_MAX_S) + LEAK_BACKSTOP_S
