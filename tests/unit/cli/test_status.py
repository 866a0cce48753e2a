"""What `mayfly status` prints."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mayfly.cli.status import _parts
from mayfly.client.shapes import OperatorStatus, Status, Stream, Usage, Worker

pytestmark = [pytest.mark.A2, pytest.mark.F13]

WORKER = Worker(
    id="w1",
    host="host-7",
    version="0.1.0",
    runtime="crun",
    slots=8,
    running=3,
    held=2,
    images=5,
    since=datetime(2026, 11, 29, 20, 11, 2, tzinfo=UTC),
    draining=True,
)
ACT = Stream(
    name="ACT", leader="nats-1", replicas=3, current=2, behind=["nats-2"], messages=4, bytes=4210, max_bytes=None
)
HEADLESS = Stream(name="KV_users", leader=None, replicas=0, current=0, behind=[], messages=0, bytes=0, max_bytes=None)


def printed(operator: OperatorStatus | None) -> list[str]:
    """The lines of a status."""
    usage = Usage(limit=8, in_flight=5)
    now = Status(
        version="0.1.0",
        workers=1,
        slots=8,
        running=3,
        waiting=2,
        platform=usage,
        user=Usage(limit=None, in_flight=1),
        remark="Look after it.",
        operator=operator,
    )
    return "\n\n".join(_parts("https://here", now)).splitlines()


def test_a_user_sees_sums() -> None:
    """Without the operator's part there are names and values, and no table."""
    assert printed(None) == [
        "url        https://here",
        "version    0.1.0",
        "workers    1",
        "slots      8, 3 in use",
        "waiting    2",
        "in flight  5 of 8",
        "of yours   1, without a limit",
        "remark     Look after it.",
    ]


def test_an_operator_sees_workers_and_streams() -> None:
    """Each worker and each stream is a line under a head; a stream without a leader says so, and nothing else."""
    lines = printed(OperatorStatus(workers=[WORKER], streams=[ACT, HEADLESS]))

    assert lines[8:] == [
        "",
        "worker  host    version  runtime  slots  running  held  images  since                 state",
        "w1      host-7  0.1.0    crun     8      3        2     5       2026-11-29 20:11:02Z  draining",
        "",
        "stream    leader  current  behind  messages  size         limit",
        "ACT       nats-1  2 of 3   nats-2  4         4,210 bytes  -",
        "KV_users  NONE    -        -       -         -            -",
    ]


def test_without_workers_there_is_no_empty_table() -> None:
    """An operator of an installation without workers sees its streams only."""
    assert [line.split()[0] for line in printed(OperatorStatus(workers=[], streams=[ACT]))[9:]] == ["stream", "ACT"]
