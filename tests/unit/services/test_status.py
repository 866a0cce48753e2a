"""What the numbers of a status say to whom, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from mayfly.api.shapes import StatusShape
from mayfly.bus.health import StoreUsage, StreamHealth
from mayfly.domain.ids import WorkerId
from mayfly.domain.worker import WorkerBeat
from mayfly.services.status import NO_WORKER, Status

pytestmark = [pytest.mark.A2, pytest.mark.F13]


def a_beat(**given: Any) -> WorkerBeat:
    """A worker with four slots."""
    values = {"host": "host-7", "version": "0.1.0", "runtime": "crun", "slots": 4, "running": 1, "images": 2}
    return WorkerBeat(**{"id": WorkerId("w" * 20), "started_at": 1.0, "beat_at": 2.0, **values, **given})


def a_stream(**given: Any) -> StreamHealth:
    """A stream with all that it should have."""
    values = {"name": "ACT", "leader": "nats-1", "replicas": 3, "current": 3, "messages": 5, "size_bytes": 100}
    return StreamHealth(**{**values, **given})


def a_status(**given: Any) -> Status:
    """An installation with which all is well."""
    values = {"slots": 4, "running": 1, "waiting": 0, "in_flight": 1, "own_in_flight": 0}
    limits = {"max_activations": 8, "max_activations_per_user": 4}
    return Status(**{"workers": (a_beat(),), "streams": (a_stream(),), **values, **limits, **given})


def test_nothing_is_remarked_when_all_is_well() -> None:
    """Neither caller nor operator is told anything of an installation that needs nothing."""
    assert a_status().remark is None
    assert a_status().operators_remark is None


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"workers": ()}, NO_WORKER),
        ({"workers": (a_beat(draining=True),)}, "Every worker is draining"),
        ({"slots": 10}, "2 of 10 slots can never be used: MAYFLY_MAX_ACTIVATIONS is 8."),
        ({"streams": (a_stream(), StreamHealth(name="KV_users"))}, "Without a leader, so neither read nor written: KV"),
        (
            {"streams": (a_stream(current=2, behind=("nats-3",)), a_stream(name="RESPONSES", behind=("nats-3",)))},
            "nats-3 is offline or lags behind: its copies of ACT, RESPONSES are not current.",
        ),
        (
            {"streams": (a_stream(name="RESPONSES", size_bytes=91, max_bytes=100, drops_oldest=True),)},
            "RESPONSES is 91% full: the oldest entries go before their time.",
        ),
        ({"streams": (a_stream(size_bytes=90, max_bytes=100),)}, "ACT is 90% full: it refuses what is new when full."),
        ({"store": StoreUsage(95, 100)}, "NATS's store is 95% full: when it is, no call is taken."),
    ],
)
def test_an_operator_is_told_what_to_look_after(given: dict[str, Any], sentence: str) -> None:
    """Each trouble is a sentence of its own that names what it is about."""
    told = a_status(**given).operators_remark

    assert told is not None
    assert told.startswith(sentence)


def test_several_troubles_are_all_told() -> None:
    """One does not hide another."""
    told = a_status(workers=(), slots=10, streams=(a_stream(behind=("nats-2",)),)).operators_remark or ""

    assert NO_WORKER in told
    assert "can never be used" in told
    assert "nats-2" in told


def test_below_nine_tenths_nothing_is_nearly_full() -> None:
    """A stream at 89 % is not remarked on, nor one without a limit."""
    assert a_status(streams=(a_stream(size_bytes=89, max_bytes=100),)).operators_remark is None
    assert a_status(streams=(a_stream(size_bytes=1 << 60),)).operators_remark is None


def test_a_user_sees_sums_and_no_names() -> None:
    """Hosts, servers, workers' ids, streams, and what an operator is to do about them are not in a user's answer."""
    now = a_status(slots=10, streams=(a_stream(behind=("nats-2",)),))
    shown = StatusShape.of(now, "user")
    text = shown.model_dump_json()

    assert (shown.workers, shown.slots, shown.running, shown.operator, shown.remark) == (1, 10, 1, None, None)
    assert not [word for word in ("host-7", "w" * 20, "nats-1", "nats-2", "crun", "MAYFLY_") if word in text]
    assert StatusShape.of(a_status(workers=()), "user").remark == NO_WORKER


def test_an_operator_sees_each_worker_and_each_stream() -> None:
    """What a worker says of itself, and what a stream's leader does, is shown as it is."""
    now = a_status(workers=(a_beat(held=3, draining=True),), streams=(a_stream(current=2, behind=("nats-3",)),))
    shown = StatusShape.of(now, "operator").operator

    assert shown is not None
    [worker], [stream] = shown.workers, shown.streams
    assert (worker.host, worker.slots, worker.running, worker.held, worker.images) == ("host-7", 4, 1, 3, 2)
    assert (worker.runtime, worker.version, worker.draining, worker.since.year) == ("crun", "0.1.0", True, 1970)
    assert (stream.leader, stream.replicas, stream.current, stream.behind) == ("nats-1", 3, 2, ["nats-3"])
    assert (stream.messages, stream.bytes, stream.max_bytes) == (5, 100, None)
